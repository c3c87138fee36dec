"""Which device a computation uses, and all that differs from one kind to another: number formats, threads, memory,
random generators. The kinds are ``cpu``, ``cuda`` and ``mps`` (Apple's GPUs)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from . import machine
from .errors import CheckpointError, ConfigError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # environment variables that PyTorch follows

log = logging.getLogger("hornbook")


def pick(name: str = "auto") -> torch.device:
    """The device of that name; "auto" is CUDA where there is one, then Apple's MPS, then the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch's words for a device it was not built for
        reason = str(error).splitlines()[0].split(". ")[0]
        if name.partition(":")[0] not in ("cpu", "cuda", "mps"):
            reason = "known are auto, cpu, cuda and mps"
        raise ConfigError(f"device {name!r} cannot be used here ({reason}); try 'auto' or 'cpu'") from None
    return device


# Number formats


def dtype(name: str, device: torch.device | None = None) -> torch.dtype:
    """fp32, bf16 or fp16 as torch's type.

    Raises:
        ConfigError: for another name, and for bf16 where ``device`` has none; where it is slow, that is logged.
    """
    if name not in DTYPES:
        raise ConfigError(f"there is no number format {name!r}; known: {', '.join(DTYPES)}")
    if device is not None and name == "bf16":
        how = bf16(device)
        if how == "none":
            raise ConfigError(f"the device {device.type} cannot compute in bf16 here; use fp32")
        if how == "software":
            log.info("bf16 is computed in software on this %s: fp32 is faster here", device.type)
    return DTYPES[name]


def bf16(device: torch.device) -> Literal["hardware", "software", "none"]:
    """How a device computes in bfloat16. In software it widens to fp32 and rounds: right, and slower than fp32."""
    if device.type == "cuda":
        return "hardware" if torch.cuda.is_bf16_supported(including_emulation=False) else "software"
    if device.type == "mps":
        return "hardware" if torch.backends.mps.is_macos_or_newer(14, 0) else "none"
    return "hardware" if {"avx512_bf16", "amx_bf16", "bf16"} & machine.processor_flags() else "software"


# Threads, time and memory


def threads_asked_for() -> str | None:
    """ "OMP_NUM_THREADS=4" if the environment sets the number of PyTorch's threads, else None."""
    return next((f"{name}={os.environ[name]}" for name in THREADS if os.environ.get(name)), None)


def limit_threads() -> int:
    """Let PyTorch compute with no more threads than this process has cores for; returns how many it has now.

    PyTorch counts the machine's cores. In a container that is given two of sixty-four it would start thirty-two
    threads or more, which wait for each other most of the time. A number in the environment stands, and so does a
    lower one that the program has set: only too many are taken back. For the whole process.
    """
    most = machine.cores().threads
    if threads_asked_for() is None and torch.get_num_threads() > most:
        log.info("threads: %d, not %d: this process has no more cores", most, torch.get_num_threads())
        torch.set_num_threads(most)
    return torch.get_num_threads()


def synchronize(device: torch.device) -> None:
    """Wait until all that was asked of the device is done: before a clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def memory(device: torch.device) -> machine.Memory:
    """The memory of a device, in bytes."""
    if device.type == "cuda":
        available, total = torch.cuda.mem_get_info(device)
        return machine.Memory(total, available)
    if device.type == "mps":  # part of the main memory
        most = torch.mps.recommended_max_memory()
        return machine.Memory(most, max(0, most - torch.mps.driver_allocated_memory()))
    return machine.memory()


def describe(device: torch.device) -> dict[str, Any]:
    """What the last bits of a result depend on besides the program: {"device": "cpu", "name": ..., "threads": 2}."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else machine.processor()
    return {"device": device.type, "name": name, "threads": torch.get_num_threads()}


# Random generators


def random_states(device: torch.device) -> dict[str, Tensor]:
    """PyTorch's generators that a computation on ``device`` draws from: the CPU's, and the device's own if it has one.

    Returns:
        kind of device → uint8, on the CPU.
    """
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put the generators back to what `random_states` read. After a move from one kind of device to another ``states``
    lack the new one's, or hold an old one's that nothing draws from any more: the generator then stays as it is.

    Raises:
        CheckpointError: for a state that is none.
    """
    try:
        torch.set_rng_state(states["cpu"])
        if device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], device)
        elif device.type == "mps" and "mps" in states:
            torch.mps.set_rng_state(states["mps"])
    except KeyError:
        raise CheckpointError("the random generators' states lack the CPU's") from None
    except RuntimeError as error:
        raise CheckpointError(f"the random generators' states are not whole: {str(error).splitlines()[0]}") from None
