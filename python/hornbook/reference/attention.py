"""Scaled dot-product attention (Vaswani et al., 2017, https://arxiv.org/abs/1706.03762)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .softmax import softmax


def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True, scale: float | None = None) -> Tensor:
    """softmax(q kᵀ · scale) v for every head, with the whole (T_q, T_k) matrix of weights in memory.

    Args:
        q: (B, T_q, H, D).
        k, v: (B, T_k, H_kv, D), where H is a multiple of H_kv: H / H_kv query heads share one key-value head.
        causal: query i sees keys 0 ... i + T_k - T_q, so the last query sees every key.
        scale: 1 / sqrt(D) if not given.

    Returns:
        (B, T_q, H, D) in q's dtype; a query that sees no key gets 0.
    """
    D = q.shape[-1]
    group = q.shape[2] // k.shape[2]
    scale = 1 / math.sqrt(D) if scale is None else scale
    wide = torch.promote_types(q.dtype, torch.float32)
    q_, k_, v_ = (t.to(wide).transpose(1, 2) for t in (q, k, v))  # (B, H, T, D)
    k_, v_ = (t.repeat_interleave(group, dim=1) for t in (k_, v_))
    scores = q_ @ k_.transpose(-1, -2)  # (B, H, T_q, T_k)
    weights = softmax(scores, scale=scale, causal=causal)
    return (weights @ v_).transpose(1, 2).to(q.dtype)
