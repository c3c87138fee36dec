"""Gaussian error linear unit (Hendrycks and Gimpel, 2016, https://arxiv.org/abs/1606.08415)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """x · Φ(x), where Φ is the normal distribution function.

    Args:
        x: any shape.
        approximate: "none" for the exact Φ, "tanh" for the formula that GPT-2 was trained with.
    """
    x_ = x.to(torch.promote_types(x.dtype, torch.float32))
    if approximate == "tanh":
        y = 0.5 * x_ * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x_ + 0.044715 * x_**3)))
    else:
        y = 0.5 * x_ * (1 + torch.erf(x_ / math.sqrt(2)))
    return y.to(x.dtype)
