r"""Attention without the matrix of weights in memory (Dao et al., 2022, https://arxiv.org/abs/2205.14135).

    o_i = sum_j p_ij v_j,    p_ij = exp(s_ij - L_i),    s_ij = scale q_i·k_j,    L_i = log sum_j exp(s_ij)

**Online softmax.** A program holds a block of queries and walks over the keys block by block. Three things are kept for
each query i: m, the largest score so far; l, the sum of exp(s - m) so far; acc, the sum of exp(s - m) v so far. When a
block brings a larger score m', what was summed before is too large by exp(m' - m), so

    α = exp(m - m')        l ← α l + sum_j exp(s_j - m')        acc ← α acc + sum_j exp(s_j - m') v_j

and at the end o = acc / l, and L = m + log l, the one number that backward (`attention_backward`) needs besides.

GPUs have powers of 2 only, so scores are kept as exponents of 2: times log2 e. What goes into a power is scale q·k
minus m in one operation (fma), rounded once: a score of 30 rounded before it would cost p two bits.

**What is seen.** Masks (causal, windows, documents) are a question of positions, and `attention_tiles` says which
blocks of keys a block of queries sees at all, and in which it sees all: only at the edges in between is each number
asked about.

**head_dim** is worked on in one piece, or in two (96 = 64 + 32), as tiles have powers of two.

At the floor, forward reads q, k, v and writes o once, and computes 4 D operations for every pair that sees each other,
T_q T_k / 2 of them a head if causal.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import attention_backward, attention_table, library
from .attention_call import UNSPECIALISED, Call
from .attention_tiles import (
    document_of,
    documents,
    head,
    keys_seen,
    load_rows,
    packed,
    part,
    place,
    power,
    scored,
    store_rows,
    visible,
)  # fmt: skip
from .functions import LN2


@triton.jit(do_not_specialize=UNSPECIALISED)
def attention_forward(
    Q, K, V, O, L, Slopes, Start, Stop, Whole, q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, T_q, T_k, rows, H, H_kv,
    scale, unit, softcap, window, slopes_b, together,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, DOCUMENTS: tl.constexpr, SOFTCAP: tl.constexpr, ALIBI: tl.constexpr,
    D: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, DOT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head. Q is (B, T_q, H, D), K and V (B, T_k, H_kv, D); q_b is Q's stride by B.

    unit: what a product q·k is multiplied with to be an exponent of 2; 1 where `scored` makes it one of e."""
    block, row = place(T_q, rows, together, BLOCK_M, CAUSAL)
    h, b = row % H, (row // H).to(tl.int64)
    Q, K, V = head(Q, q_b, q_h, b, h), head(K, k_b, k_h, b, h // (H // H_kv)), head(V, v_b, v_h, b, h // (H // H_kv))
    i = block * BLOCK_M + tl.arange(0, BLOCK_M)  # the queries
    p_i = i + (T_k - T_q)  # where they stand: the last one at the last key
    q = load_rows(Q, q_t, i, T_q, D, 0, D1, True)  # (BLOCK_M, D1)
    if D2:
        q2 = load_rows(Q, q_t, i, T_q, D, D1, D2, True)
        acc2 = tl.zeros((BLOCK_M, D2), tl.float32)
    start, stop, whole, slope = 0, 0, 0, 0.0
    if DOCUMENTS:
        start, stop, whole = document_of(Start, Stop, Whole, b, i, T_q)
    if ALIBI:
        slope = tl.load(Slopes + b * slopes_b + h)

    m = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    l = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, D1), tl.float32)
    first, last = block * BLOCK_M + (T_k - T_q), tl.minimum((block + 1) * BLOCK_M, T_q) - 1 + (T_k - T_q)
    begin, inner_begin, inner_end, end = keys_seen(
        first, last, T_k, window, start, stop, whole, CAUSAL, WINDOW, DOCUMENTS, BLOCK_N
    )
    for number in tl.static_range(0 if WINDOW or DOCUMENTS else 1, 3):
        from_, to = part(number, begin, inner_begin, inner_end, end)
        for at in range(from_, to, BLOCK_N):
            j = at + tl.arange(0, BLOCK_N)  # the keys
            k = load_rows(K, k_t, j, T_k, D, 0, D1, number != 1)
            s = tl.dot(q, tl.trans(k), input_precision=DOT)  # (BLOCK_M, BLOCK_N)
            if D2:
                s = tl.dot(q2, tl.trans(load_rows(K, k_t, j, T_k, D, D1, D2, number != 1)), s, input_precision=DOT)
            if SOFTCAP or ALIBI:
                s, _ = scored(s, p_i[:, None] - j[None, :], scale, softcap, slope, SOFTCAP, ALIBI)
            if number != 1:
                start_j = tl.load(Start + b * T_k + j, mask=j < T_k, other=-1)[None, :] if DOCUMENTS else 0
                start_i = start[:, None] if DOCUMENTS else 0
                seen = visible(p_i[:, None], j[None, :], T_k, window, start_i, start_j, CAUSAL, WINDOW, DOCUMENTS)
                s = tl.where(seen, s, float("-inf"))
            m_new = tl.maximum(m, tl.max(s, axis=1) * unit)
            # Where nothing is seen yet, 0 in place of -inf, so that it is not inf - inf.
            m_safe = tl.where(m_new == float("-inf"), 0.0, m_new) if number != 1 else m_new
            p = power(s, m_safe[:, None], unit, SOFTCAP or ALIBI)
            alpha = power(m, m_safe, 1.0, SOFTCAP or ALIBI)
            l = l * alpha + tl.sum(p, axis=1)
            v = load_rows(V, v_t, j, T_k, D, 0, D1, number != 1)
            acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None], input_precision=DOT)
            if D2:
                v2 = load_rows(V, v_t, j, T_k, D, D1, D2, number != 1)
                acc2 = tl.dot(p.to(v2.dtype), v2, acc2 * alpha[:, None], input_precision=DOT)
            m = m_new

    l = tl.where(l == 0.0, 1.0, l)  # a query that sees nothing gets 0
    O += (b * T_q * H + h) * D
    store_rows(O, H * D, i, T_q, acc / l[:, None], D, 0, D1)
    if D2:
        store_rows(O, H * D, i, T_q, acc2 / l[:, None], D, D1, D2)
    m = m if SOFTCAP or ALIBI else m * LN2
    tl.store(L + (b * H + h) * T_q + i, m + tl.log(l), mask=i < T_q)


SMALLEST = 1e-37
"""a scale that is not to vanish in fp32"""
Spans = tuple[Tensor, Tensor, Tensor] | None


def _spans(start: Tensor | None, stop: Tensor | None, whole: Tensor | None) -> Spans:
    return None if start is None or stop is None or whole is None else (start, stop, whole)


def _forward(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, start: Tensor | None, stop: Tensor | None,
    whole: Tensor | None, scale: float, softcap: float, causal: bool, window: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    call = Call(q, k, v, slopes, _spans(start, stop, whole), scale, softcap, causal, window)
    choice = call.choice("forward")
    if choice is not None and choice.variant != "plain":
        return attention_table.module(choice.variant).forward(q, k, v, scale, causal, choice)
    B, T_q, _, H, _, _ = call.sizes
    o, log_sum = q.new_empty(q.shape), q.new_empty(B, H, T_q, dtype=torch.float32)
    blocks = call.blocks(0, choice)
    library.launch(
        attention_forward, call.grid(T_q, blocks.queries, H), q, k, v, o, log_sum, *call.pointers(), *call.numbers(),
        **call.constants(), BLOCK_M=blocks.queries, BLOCK_N=blocks.keys, num_warps=blocks.warps,
        num_stages=blocks.stages,
    )  # fmt: skip
    return o, log_sum


def _backward(
    do: Tensor, dl: Tensor | None, q: Tensor, k: Tensor, v: Tensor, o: Tensor, log_sum: Tensor, slopes: Tensor | None,
    start: Tensor | None, stop: Tensor | None, whole: Tensor | None, scale: float, softcap: float, causal: bool,
    window: int, deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    call = Call(q, k, v, slopes, _spans(start, stop, whole), scale, softcap, causal, window)
    do, o = do.contiguous(), o.contiguous()
    delta = attention_backward.delta(do, o, log_sum, None if dl is None else dl.contiguous(), call)
    choice = call.choice("backward" if deterministic else "reduce")
    if choice is not None and choice.variant != "separate":
        fast = attention_table.module(choice.variant)
        return fast.backward(do, q, k, v, log_sum, delta, scale, causal, choice)
    return attention_backward.separate(do, log_sum, delta, call, choice)


_MASKS = (
    "Tensor? slopes, Tensor? start, Tensor? stop, Tensor? whole, float scale, float softcap, bool causal, int window"
)
_attention = library.operator(
    f"attention(Tensor q, Tensor k, Tensor v, {_MASKS}) -> (Tensor, Tensor)",
    _forward,
    lambda q, *_: (q.new_empty(q.shape), q.new_empty(q.shape[0], q.shape[2], q.shape[1], dtype=torch.float32)),
)
_attention_backward = library.operator(
    "attention_backward(Tensor do, Tensor? dl, Tensor q, Tensor k, Tensor v, Tensor o, Tensor log_sum, "
    f"{_MASKS}, bool deterministic) -> (Tensor, Tensor, Tensor)",
    _backward,
    lambda do, dl, q, k, v, *_: tuple(t.new_empty(t.shape) for t in (q, k, v)),
)


class _Attention(torch.autograd.Function):
    """``at``: where tensors of three dimensions lack one: 2 for heads, 0 for sequences; -1 for tensors of four."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, masks: tuple[Any, ...], at: int, deterministic: bool, with_lse: bool
    ) -> Any:
        four = (q, k, v) if at < 0 else (q.unsqueeze(at), k.unsqueeze(at), v.unsqueeze(at))
        o, log_sum = _attention(*four, *masks)
        if at >= 0:
            o, log_sum = o.squeeze(at), log_sum.squeeze(at // 2)  # (B, 1, T) or (1, H, total)
        ctx.save_for_backward(q, k, v, o, log_sum, *masks[:4])
        ctx.numbers, ctx.at, ctx.deterministic = masks[4:], at, deterministic
        ctx.set_materialize_grads(False)
        return (o, log_sum) if with_lse else o

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor | None, dl: Tensor | None = None) -> tuple[Tensor | None, ...]:
        q, k, v, o, log_sum, *masks = ctx.saved_tensors
        do = torch.zeros_like(o) if do is None else do
        at = ctx.at
        if at >= 0:
            do, q, k, v, o = (t.unsqueeze(at) for t in (do, q, k, v, o))
            log_sum, dl = log_sum.unsqueeze(at // 2), None if dl is None else dl.unsqueeze(at // 2)
        found = _attention_backward(do, dl, q, k, v, o, log_sum, *masks, *ctx.numbers, ctx.deterministic)
        return *(t if at < 0 else t.squeeze(at) for t in found), None, None, None, None


def misfit(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, cu_seqlens: Tensor | None = None, **_: Any
) -> str | None:
    """What keeps these tensors from being queries, keys and values of one call, or None."""
    dims = q.dim()
    if dims != k.dim() or dims not in (3, 4) or (dims == 4 and cu_seqlens is not None) or k.shape != v.shape:
        wanted = "q is (B, T_q, H, D), k and v are (B, T_k, H_kv, D), or all are (B, T, D), which is one head"
        if cu_seqlens is not None:
            wanted = "with cu_seqlens q is (total, H, D), k and v are (total, H_kv, D)"
        return f"{wanted}, but the shapes are {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}"
    if dims == 4:
        (B, _, H, D), (B_k, _, H_kv, D_k) = q.shape, k.shape
    elif cu_seqlens is None:
        (B, _, D), (B_k, _, D_k), H, H_kv = q.shape, k.shape, 1, 1
    else:
        (B, H, D), (B_k, H_kv, D_k) = q.shape, k.shape
    if B != B_k or D != D_k:
        return f"q has {B} sequences of {D} channels, k and v have {B_k} of {D_k}"
    if H_kv == 0 or H % H_kv:
        return f"{H} query heads cannot share {H_kv} key-value heads evenly"
    if q.dtype != k.dtype or q.dtype != v.dtype:
        return f"q, k and v must be of one dtype, not {q.dtype}, {k.dtype} and {v.dtype}"
    if scale is not None and not math.isfinite(scale):
        return f"scale must be a finite number, not {scale}"
    return library.tensors_refused(q, k, v)


def refusal(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> str | None:
    """Why the kernel does not take this call, or None if it does."""
    if (reason := misfit(q, k, v, **options)) is not None:
        return reason
    D = q.shape[-1]
    if not 16 <= D <= 256 or D % 8:
        return f"head_dim is {D}; the kernel takes 16 to 256, in steps of 8"
    return _options_refused(q, k, **options) if any(v is not None for v in options.values()) else None


def _options_refused(
    q: Tensor,
    k: Tensor,
    *,
    window: int | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    document_ids: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    spans: Spans = None,
    **_: Any,
) -> str | None:
    """What `ops` has refused before, for whoever calls the kernel itself: it would read what is not there."""
    if window is not None and (type(window) is not int or window < 1):
        return f"window is a whole number of at least 1, not {window!r}"
    if softcap is not None and not 0 < softcap < math.inf:
        return f"softcap is a number above 0, not {softcap!r}"
    if document_ids is not None and cu_seqlens is not None:
        return "document_ids and cu_seqlens both say which tokens belong together"
    heads = q.shape[-2] if q.dim() == 4 or cu_seqlens is not None else 1
    sequences = q.shape[0] if cu_seqlens is None else 1
    if alibi_slopes is not None and (
        alibi_slopes.shape not in ((heads,), (sequences, heads)) or alibi_slopes.requires_grad
    ):
        shapes = f"({heads},) or ({sequences}, {heads})"
        return f"alibi_slopes is {shapes}, without gradient, not {tuple(alibi_slopes.shape)}"
    if document_ids is not None and not document_ids.shape == q.shape[:2] == k.shape[:2]:
        return f"document_ids has an id for each of q's and k's tokens, not the shape {tuple(document_ids.shape)}"
    if spans is not None:
        B, T = q.shape[:2]
        if document_ids is None:
            return "spans are those of document_ids: give these, too"
        if [(t.shape, t.dtype, t.device) for t in spans] != [
            (of, torch.int32, q.device) for of in ((B, T), (B, T), (B,))
        ] or not all(t.is_contiguous() for t in spans):
            return f"spans are what `documents` makes of document_ids of shape ({B}, {T})"
    for name, t in (("alibi_slopes", alibi_slopes), ("document_ids", document_ids), ("cu_seqlens", cu_seqlens)):
        if t is not None and t.device != q.device:
            return f"{name} is on {t.device}, and q on {q.device}: they must be on one device"
        if t is not None and name != "alibi_slopes" and t.dtype not in (torch.int64, torch.int32):
            return f"{name} holds int64 or int32 numbers, not {t.dtype}"
    return None


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
    deterministic: bool = True,
    spans: Spans = None,
) -> Any:
    """softmax(q kᵀ · scale) v for every head, with memory for the inputs and the output only; what the options mean is
    said at `reference.attention`.

    Args:
        q: (B, T_q, H, D), fp32, fp16 or bf16, D from 16 to 256 in steps of 8; or (B, T_q, D), one head; or, with
            ``cu_seqlens``, (total, H, D).
        k, v: (B, T_k, H_kv, D), where H is a multiple of H_kv: H / H_kv query heads share one key-value head; or as q.
        causal: query i sees keys 0 ... i + T_k - T_q, so the last query sees every key.
        window: keys that are further away than ``window`` - 1 are not seen, and cost nothing.
        scale: 1 / sqrt(D) if not given.
        softcap: c, for scores c tanh(s / c).
        alibi_slopes: (H,) or (B, H); no gradient.
        document_ids: (B, T) int32 or int64, T = T_q = T_k; keys of other documents cost nothing if documents lie in one
            piece, and little if not.
        cu_seqlens: (n + 1,), where sequences in a row begin, and the end of the last.
        return_lse: also the log-sum-exp of the scores: (B, H, T_q), or (B, T_q), or (H, total), fp32.
        deterministic: the same bits every time. If not, a faster way back may be taken where there is one.
        spans: `documents` of document_ids, if somebody has made it before, for several calls.

    Returns:
        Like q; a query that sees no key gets 0, and a log-sum-exp of -inf. Sums are kept in fp32; fp32 inputs are
        multiplied as fp32 numbers (IEEE), never as tf32.

    Raises:
        UnsupportedError: for other dtypes and shapes.
    """
    library.require(
        refusal(
            q, k, v, window=window, scale=scale, softcap=softcap, alibi_slopes=alibi_slopes, document_ids=document_ids,
            cu_seqlens=cu_seqlens, spans=spans,
        )
    )  # fmt: skip
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    if scale < SMALLEST:  # the kernels multiply the largest product by it to have the largest score
        sign = 0.0 if abs(scale) < SMALLEST else -1.0
        q, scale = q * sign, -scale if sign else 1.0
    # The kernels walk along any strides but want a row's channels side by side.
    q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v))
    if document_ids is not None and spans is None:
        spans = documents(document_ids)
    elif cu_seqlens is not None:
        spans = packed(cu_seqlens, q.shape[0])
    slopes = None if alibi_slopes is None else alibi_slopes.float().contiguous()
    masks = (slopes, *(spans or (None, None, None)), scale, softcap or 0.0, causal, window or 0)
    at = -1 if q.dim() == 4 else 2 if cu_seqlens is None else 0
    return _Attention.apply(q, k, v, masks, at, deterministic, return_lse)
