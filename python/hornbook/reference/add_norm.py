"""The step between two sub-layers of a transformer: add to the residual stream, and normalise what comes out."""

from __future__ import annotations

import torch
from torch import Tensor

from .layer_norm import layer_norm
from .rms_norm import rms_norm


def add_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    norm: str = "layer_norm",
) -> tuple[Tensor, Tensor]:
    """h = residual + x, and the norm of h.

    Args:
        x: (..., N), what a sub-layer computed.
        residual: (..., N), the stream that it adds to.
        weight, bias: (N,) or none.
        norm: "layer_norm" or "rms_norm".

    Returns:
        The norm of h, with x's dtype, and h, with residual's: the next residual.
    """
    wide = torch.promote_types(torch.promote_types(x.dtype, residual.dtype), torch.float32)
    h = (residual.to(wide) + x.to(wide)).to(residual.dtype)
    normalise = layer_norm if norm == "layer_norm" else rms_norm
    return normalise(h.to(wide), weight, bias, eps).to(x.dtype), h
