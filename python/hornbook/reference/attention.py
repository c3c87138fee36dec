"""Scaled dot-product attention (Vaswani et al., 2017, https://arxiv.org/abs/1706.03762), with the masks and score
functions that language models use."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    document_ids: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    return_lse: bool = False,
    return_weights: bool = False,
    deterministic: bool = True,
) -> Tensor | tuple[Tensor, ...]:
    """softmax(q kᵀ · scale) v for every head, with the whole (T_q, T_k) matrix of weights in memory.

    The last query stands at the last key's position, so query i stands at p = i + T_k - T_q.

    Args:
        q: (B, T_q, H, D); or (B, T_q, D), one head; or with ``cu_seqlens`` (total, H, D), sequences in a row.
        k, v: (B, T_k, H_kv, D), where H is a multiple of H_kv: H / H_kv query heads share one key-value head; or as q.
        causal: a query at p sees keys 0 ... p.
        window: it sees no key further away than ``window`` - 1: with causal, itself and the ``window`` - 1 before it
            (Beltagy et al., 2020, https://arxiv.org/abs/2004.05150).
        scale: 1 / sqrt(D) if not given.
        softcap: scores s become softcap · tanh(s / softcap), so none is larger (Gemma 2, 2024,
            https://arxiv.org/abs/2408.00118).
        alibi_slopes: (H,) or (B, H); slope · abs(p - j) is taken off the score of key j (Press et al., 2021,
            https://arxiv.org/abs/2108.12409). Constants: they get no gradient.
        document_ids: (B, T), whole numbers: a query sees the keys of its own document only. T_q = T_k = T.
        cu_seqlens: (n + 1,), 0 first and total last: sequence number s is rows cu_seqlens[s] ... cu_seqlens[s + 1] - 1.
        return_lse: also log sum_j exp(score of key j) of each query, -inf for one that sees no key.
        return_weights: also the weights, of keys that are not seen 0.
        deterministic: no matter here: PyTorch's products of matrices on a CPU are.

    Returns:
        Like q, in its dtype; a query that sees no key gets 0. With ``return_lse`` then (B, H, T_q) in fp32 at least, or
        (B, T_q) of one head, or (H, total). With ``return_weights`` then (B, H, T_q, T_k), (B, T_q, T_k), or
        (H, total, total).
    """
    if cu_seqlens is not None:  # one sequence, of which each part is a document
        at, batch = 0, (q[None], k[None], v[None])
        document_ids = documents(cu_seqlens, len(q))[None]
    elif q.dim() == 3:
        at, batch = 2, (q[:, :, None], k[:, :, None], v[:, :, None])
    else:
        at, batch = None, (q, k, v)
    q_, k_, v_ = (t.to(torch.promote_types(q.dtype, torch.float32)).transpose(1, 2) for t in batch)  # (B, H, T, D)
    group = q_.shape[1] // max(1, k_.shape[1])
    k_, v_ = (t.repeat_interleave(group, dim=1) for t in (k_, v_))
    T_q, T_k, D = q_.shape[2], k_.shape[2], q_.shape[3]

    scores = q_ @ k_.transpose(-1, -2) * (1 / math.sqrt(D) if scale is None else scale)  # (B, H, T_q, T_k)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if alibi_slopes is not None:
        scores = scores - alibi_slopes.to(scores.dtype)[..., None, None] * distances(T_q, T_k, q.device).abs()
    seen = visible(T_q, T_k, causal, window, document_ids, q.device)  # (B or 1, 1, T_q, T_k)
    sees = seen.any(-1, keepdim=True)
    scores = scores.masked_fill(~seen, -math.inf).masked_fill(~sees, 0.0)
    weights = scores.softmax(dim=-1).masked_fill(~seen, 0.0)

    found = [(weights @ v_).transpose(1, 2).to(q.dtype)]
    if return_lse:
        found.append(scores.logsumexp(dim=-1).masked_fill(~sees[..., 0], -math.inf))
    if return_weights:
        found.append(weights)
    if at is not None:  # back to three dimensions: of heads that stand in front of the tokens too
        found = [t.squeeze(at if i == 0 else at // 2) for i, t in enumerate(found)]
    return tuple(found) if len(found) > 1 else found[0]


def distances(T_q: int, T_k: int, device: torch.device | str) -> Tensor:
    """(T_q, T_k): how far a query stands behind each key; below 0 where the key comes later."""
    positions = torch.arange(T_k - T_q, T_k, device=device)
    return positions[:, None] - torch.arange(T_k, device=device)


def visible(
    T_q: int,
    T_k: int,
    causal: bool,
    window: int | None,
    document_ids: Tensor | None,
    device: torch.device | str,
) -> Tensor:
    """(B or 1, 1, T_q, T_k): whether a query is shown a key."""
    behind = distances(T_q, T_k, device)
    seen = behind >= 0 if causal else torch.ones_like(behind, dtype=torch.bool)
    if window is not None:
        seen = seen & (behind.abs() < window)
    seen = seen[None, None]
    if document_ids is not None:
        seen = seen & (document_ids[:, None, :, None] == document_ids[:, None, None, :])
    return seen


def documents(cu_seqlens: Tensor, total: int) -> Tensor:
    """(total,): the number of the sequence that each row belongs to."""
    rows = torch.arange(total, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    return torch.searchsorted(cu_seqlens, rows, right=True)
