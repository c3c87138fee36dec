"""Softmax over the last dimension."""

from __future__ import annotations

import torch
from torch import Tensor


def softmax(x: Tensor, *, scale: float = 1.0, causal: bool = False) -> Tensor:
    r"""y_j = exp(s x_j - m) / sum_k exp(s x_k - m) with m = max_k s x_k, which keeps exp from overflowing.

    Args:
        x: (..., N), or (..., T_q, T_k) where ``causal`` is set.
        scale: multiplies x first.
        causal: query i sees keys 0 ... i + T_k - T_q, the later ones get 0. A row that sees none is all 0.

    Returns:
        The shape and dtype of x; computed in fp32 or wider.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    s = x.to(wide) * scale
    if causal:
        T_q, T_k = x.shape[-2:]
        visible = torch.ones(T_q, T_k, dtype=torch.bool, device=x.device).tril(T_k - T_q)
        s = s.masked_fill(~visible, float("-inf"))
    if s.shape[-1] == 0:
        return x.clone()
    m = s.amax(-1, keepdim=True).clamp_min(torch.finfo(wide).min)  # a fully masked row would give inf - inf
    e = (s - m).exp()
    return (e / e.sum(-1, keepdim=True).clamp_min(torch.finfo(wide).tiny)).to(x.dtype)
