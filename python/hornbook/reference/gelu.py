"""Gaussian error linear unit (Hendrycks and Gimpel, 2016, https://arxiv.org/abs/1606.08415)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gelu(x: Tensor, bias: Tensor | None = None, *, approximate: str = "none") -> Tensor:
    """z · Φ(z) for z = x + bias, where Φ is the normal distribution function.

    Args:
        x: (..., N), or any shape without a bias.
        bias: (N,) or none: that of the matrix whose product x is.
        approximate: "none" for the exact Φ, "tanh" for the formula that GPT-2 was trained with.

    Returns:
        The shape and dtype of x; computed in fp32 or wider.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    z = x.to(wide) if bias is None else x.to(wide) + bias.to(wide)
    if approximate == "tanh":
        y = 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    else:
        y = 0.5 * z * (1 + torch.erf(z / math.sqrt(2)))
    return y.to(x.dtype)
