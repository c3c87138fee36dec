"""Which device and which number format a computation uses."""

from __future__ import annotations

import torch

from .errors import ConfigError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick(name: str = "auto") -> torch.device:
    """The device of that name; "auto" is CUDA where there is one, then Apple's MPS, then the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch's words for a device it was not built for
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {name!r} cannot be used here ({reason}); try 'auto' or 'cpu'") from None
    return device


def dtype(name: str) -> torch.dtype:
    """fp32, bf16 or fp16 as torch's type."""
    if name not in DTYPES:
        raise ConfigError(f"there is no number format {name!r}; known: {', '.join(DTYPES)}")
    return DTYPES[name]
