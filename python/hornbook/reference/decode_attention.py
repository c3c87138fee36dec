"""Attention of the newest tokens to all keys and values that a cache holds: one step of writing a text."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def decode_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    lengths: Tensor,
    *,
    block_table: Tensor | None = None,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
) -> Tensor:
    """softmax(q kᵀ · scale) v for every head, where each sequence has keys and values of its own number.

    Query t of sequence b stands at position lengths[b] - T_q + t and sees the keys 0 ... its position: the keys of the
    new tokens are in the cache already.

    Args:
        q: (B, T_q, H, D), the new tokens of each sequence.
        k_cache, v_cache: (B, T_max, H_kv, D), where H is a multiple of H_kv; or with ``block_table`` (pages, page_size,
            H_kv, D), room that all sequences share (Kwon et al., 2023, https://arxiv.org/abs/2309.06180).
        lengths: (B,), how many keys of each sequence are valid, those of the new tokens among them. What lies beyond
            is never read, whatever is there. A number above the cache's room means all of its room; 0 or less, none.
        block_table: (B, n): page number i of sequence b, keys i · page_size on, is page block_table[b, i] of the cache.
            On a page that the cache does not have (-1) no key is seen: a window leaves old pages behind.
        window: a query sees itself and the ``window`` - 1 keys before it.
        scale: 1 / sqrt(D) if not given.
        softcap: scores s become softcap · tanh(s / softcap).
        alibi_slopes: (H,) or (B, H); slope · (position of the query - position of the key) is taken off a score.

    Returns:
        (B, T_q, H, D) in q's dtype. A query that sees no key gets 0, such as one at a position below 0: a sequence may
        be shorter than T_q. There is no gradient.
    """
    T_q, H = q.shape[1:3]
    wide = torch.promote_types(q.dtype, torch.float32)
    y = torch.zeros_like(q)
    for b, length in enumerate(lengths.tolist()):
        k, v, there = keys_of(b, k_cache, v_cache, block_table)  # (T, H_kv, D), (T, H_kv, D), (T,)
        length = min(max(length, 0), len(k))
        k, v, there = k[:length], v[:length], there[:length]
        k, v = (t.to(wide).repeat_interleave(H // t.shape[1], dim=1) for t in (k, v))  # (length, H, D)
        scores = torch.einsum("ihd,jhd->hij", q[b].to(wide), k) * (q.shape[-1] ** -0.5 if scale is None else scale)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        at = torch.arange(length - T_q, length, device=q.device)[:, None]  # of the queries
        behind = at - torch.arange(length, device=q.device)  # (T_q, length): by how much, each key
        if alibi_slopes is not None:
            slopes = alibi_slopes if alibi_slopes.dim() == 1 else alibi_slopes[b]
            scores = scores - slopes.to(wide)[:, None, None] * behind
        seen = (behind >= 0) & there
        if window is not None:
            seen = seen & (behind < window)
        sees = seen.any(-1)[:, None]  # (T_q, 1)
        weights = scores.masked_fill(~seen, -math.inf).masked_fill(~sees, 0.0).softmax(-1).masked_fill(~seen, 0.0)
        y[b] = torch.einsum("hij,jhd->ihd", weights, v).to(q.dtype)
    return y


def keys_of(b: int, k_cache: Tensor, v_cache: Tensor, block_table: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values of sequence b, each (T, H_kv, D), all that there is room for, and (T,): whether the cache has the
    page of each; 0 where it has not."""
    if block_table is None:
        return k_cache[b], v_cache[b], torch.ones(k_cache.shape[1], dtype=torch.bool, device=k_cache.device)
    pages = block_table[b].long()
    there = (pages >= 0) & (pages < len(k_cache))
    if len(k_cache) == 0:
        k, v = (t.new_zeros(len(pages), *t.shape[1:]) for t in (k_cache, v_cache))
    else:
        k, v = (t[pages.where(there, 0)].masked_fill(~there[:, None, None, None], 0) for t in (k_cache, v_cache))
    return k.flatten(0, 1), v.flatten(0, 1), there.repeat_interleave(k_cache.shape[1])
