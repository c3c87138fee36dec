"""Rotary position embedding (Su et al., 2021, https://arxiv.org/abs/2104.09864)."""

from __future__ import annotations

import torch
from torch import Tensor


def rope(x: Tensor, cos: Tensor, sin: Tensor, *, positions: Tensor | None = None, interleaved: bool = False) -> Tensor:
    """Turn each pair of channels of every head by its position's angle.

    The dot product of a turned query and a turned key then depends on the distance of their positions only.

    Args:
        x: (B, T, H, D), D even.
        cos, sin: (P, D/2), the angles' cosines and sines at each position; P = T without ``positions``. They want no
            gradient.
        positions: (B, T) ids of positions below P; 0 ... T - 1 for every row if not given.
        interleaved: a pair is the channels (2j, 2j + 1), as the paper and GPT-J have it; otherwise (j, j + D/2), as
            Llama and GPT-NeoX have it.

    Returns:
        The shape and dtype of x; computed in fp32 or wider.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    if positions is not None:
        cos, sin = cos[positions], sin[positions]  # (B, T, D/2)
    cos, sin = (t.to(wide).unsqueeze(-2) for t in (cos, sin))  # ([B,] T, 1, D/2): the same for every head
    a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, dim=-1)
    a, b = a.to(wide), b.to(wide)
    turned = a * cos - b * sin, a * sin + b * cos
    y = torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)
    return y.to(x.dtype)
