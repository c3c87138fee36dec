"""Attention in three steps, of which the middle one is our kernel: between the naive version and the fused one.

The weights are in memory as a whole, as in `reference`, but the softmax passes over them once, forward, where the naive
one passes over them for the scale, the mask, the maximum, the exponential, the sum and the quotient.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from .kernels.softmax import softmax


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True, scale: float | None = None, **options: Any
) -> Tensor:
    """matmul → softmax kernel → matmul; arguments and result as for `reference.attention`.

    Raises:
        ValueError: where `refusal` gives a reason.
    """
    if (why := refusal(q, k, v, causal=causal, scale=scale, **options)) is not None:
        raise ValueError(why)
    if q.dim() == 3:
        return attention(q.unsqueeze(2), k.unsqueeze(2), v.unsqueeze(2), causal=causal, scale=scale).squeeze(2)
    group = q.shape[2] // k.shape[2]
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (B, H, T, D)
    if group > 1:
        k, v = (t.repeat_interleave(group, dim=1) for t in (k, v))
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    # In fp16, scores above 65,504 are infinite, so half of the scale comes before the product.
    half = math.sqrt(abs(scale))
    scores = (q * half) @ (k * math.copysign(half, scale)).transpose(-1, -2)  # (B, H, T_q, T_k)
    weights = softmax(scores, causal=causal)
    return (weights @ v).transpose(1, 2)


def refusal(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> str | None:
    """Why this does not take a call, or None if it does: the reasons of the fused kernel, but for head_dim, and what
    the softmax kernel does not know."""
    from .kernels import attention as fused

    for name in ("window", "softcap", "alibi_slopes", "document_ids", "cu_seqlens"):
        if options.get(name) is not None:
            return f"composed attention has no {name}"
    if options.get("return_lse"):
        return "composed attention does not return the log-sum-exp"
    return fused.misfit(q, k, v, scale=options.get("scale"))
