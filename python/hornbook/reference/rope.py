"""Rotary position embedding (Su et al., 2021, https://arxiv.org/abs/2104.09864)."""

from __future__ import annotations

import torch
from torch import Tensor


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of channels (j, j + D/2) of every head by its position's angle.

    The dot product of a turned query and a turned key then depends on the distance of their positions only.

    Args:
        x: (B, T, H, D), D even.
        cos, sin: (T, D/2), the angles' cosines and sines at each position.
    """
    a, b = x.chunk(2, dim=-1)
    cos, sin = (t.to(x.dtype)[:, None, :] for t in (cos, sin))  # (T, 1, D/2): the same for every head
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
