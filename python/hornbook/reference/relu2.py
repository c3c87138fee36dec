"""Squared ReLU (So et al., 2021, https://arxiv.org/abs/2109.08668)."""

from __future__ import annotations

import torch
from torch import Tensor


def relu2(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """max(x + bias, 0)²: sparse like ReLU, with a continuous slope.

    Args:
        x: (..., N), or any shape without a bias.
        bias: (N,) or none: that of the matrix whose product x is.

    Returns:
        The shape and dtype of x; computed in fp32 or wider.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    z = x.to(wide) if bias is None else x.to(wide) + bias.to(wide)
    return (z.clamp_min(0) ** 2).to(x.dtype)
