"""Attention in three steps, of which the middle one is our kernel: between the naive version and the fused one.

The weights are in memory as a whole, as in `reference`, but the softmax passes over them once, forward, where the naive
one passes over them for the scale, the mask, the maximum, the exponential, the sum and the quotient.
"""

from __future__ import annotations

import math

from torch import Tensor

from .kernels.softmax import softmax


def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True, scale: float | None = None) -> Tensor:
    """matmul → softmax kernel → matmul; arguments and result as for `reference.attention`."""
    group = q.shape[2] // k.shape[2]
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (B, H, T, D)
    if group > 1:
        k, v = (t.repeat_interleave(group, dim=1) for t in (k, v))
    scores = q @ k.transpose(-1, -2)  # (B, H, T_q, T_k)
    weights = softmax(scores, scale=1 / math.sqrt(q.shape[-1]) if scale is None else scale, causal=causal)
    return (weights @ v).transpose(1, 2)


def refusal(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True, scale: float | None = None) -> str | None:
    """Why the softmax kernel does not take this call, or None if it does."""
    from .kernels import library

    return library.tensors_refused(q, k, v)
