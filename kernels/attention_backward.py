r"""The way back of attention: with P and dO known, and D_i = dO_i · o_i,

    dV = Pᵀ dO,    dP = dO Vᵀ,    dS = P (dP - D),    dQ = scale dS K,    dK = scale dSᵀ Q

in two kernels that each recompute P = exp(S - L) from L: one owns a block of keys and walks over the queries (dK, dV),
one owns a block of queries and walks over the keys (dQ). That is 7 products of matrices where 5 would do, and no two
programs ever add to the same number, so the result is the same bits every time. A key-value head that several query
heads share is one program's, which walks over all of them.

Where the log-sum-exp L has a gradient of its own, D is that much smaller: ∂L_i / ∂s_ij = p_ij. A soft-cap c makes
scores c tanh(s / c), which grow with s by 1 - tanh², a factor of dS.

At the floor it reads o, do, q, k, v and writes dq, dk, dv once, and computes 10 D operations for every pair that sees
each other.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import library
from .attention_call import UNSPECIALISED, Call
from .attention_table import Choice
from .attention_tiles import (
    document_of,
    head,
    keys_seen,
    load_rows,
    part,
    place,
    power,
    queries_that_see,
    scored,
    store_rows,
    visible,
)  # fmt: skip
from .functions import LOG2E

DELTA_ROWS = 32


@triton.jit(do_not_specialize=["T_q", "H"])
def attention_delta(
    O, DO, DL, Delta, T_q, H, HAS_DL: tl.constexpr, D: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr,
    BLOCK_M: tl.constexpr,
):  # fmt: skip
    """dO_i · o_i less the gradient of L_i, (B, H, T_q) in fp32."""
    blocks = tl.cdiv(T_q, BLOCK_M)
    row = tl.program_id(0) // blocks
    h, b = row % H, (row // H).to(tl.int64)
    i = tl.program_id(0) % blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    at = (b * T_q * H + h) * D
    o = load_rows(O + at, H * D, i, T_q, D, 0, D1, True).to(tl.float32)
    delta = tl.sum(o * load_rows(DO + at, H * D, i, T_q, D, 0, D1, True).to(tl.float32), axis=1)
    if D2:
        o2 = load_rows(O + at, H * D, i, T_q, D, D1, D2, True).to(tl.float32)
        delta += tl.sum(o2 * load_rows(DO + at, H * D, i, T_q, D, D1, D2, True).to(tl.float32), axis=1)
    at = (b * H + h) * T_q + i
    if HAS_DL:
        delta -= tl.load(DL + at, mask=i < T_q, other=0.0)
    tl.store(Delta + at, delta, mask=i < T_q)


@triton.jit(do_not_specialize=UNSPECIALISED)
def attention_backward_kv(
    Q, K, V, DO, L, Delta, DK, DV, Slopes, Start, Stop, Whole,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, T_q, T_k, rows, H, H_kv,
    scale, unit, softcap, window, slopes_b, together,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, DOCUMENTS: tl.constexpr, SOFTCAP: tl.constexpr, ALIBI: tl.constexpr,
    D: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, DOT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dK and dV of one block of keys of one key-value head: all queries of all heads that share it, one by one.

    The matrices are the transposed ones, keys in rows, so that they meet dO and Q without being turned. Every tile is
    masked: loops of their own for the edges take more registers than there are."""
    block, row = place(T_k, rows, together, BLOCK_N, False)
    h_kv, b = row % H_kv, (row // H_kv).to(tl.int64)
    behind = T_k - T_q
    j = block * BLOCK_N + tl.arange(0, BLOCK_N)
    K, V = head(K, k_b, k_h, b, h_kv), head(V, v_b, v_h, b, h_kv)
    k, v = load_rows(K, k_t, j, T_k, D, 0, D1, True), load_rows(V, v_t, j, T_k, D, 0, D1, True)
    dk, dv = tl.zeros((BLOCK_N, D1), tl.float32), tl.zeros((BLOCK_N, D1), tl.float32)
    if D2:
        k2, v2 = load_rows(K, k_t, j, T_k, D, D1, D2, True), load_rows(V, v_t, j, T_k, D, D1, D2, True)
        dk2, dv2 = tl.zeros((BLOCK_N, D2), tl.float32), tl.zeros((BLOCK_N, D2), tl.float32)
    start, stop, whole, slope = 0, 0, 0, 0.0
    if DOCUMENTS:
        start, stop, whole = document_of(Start, Stop, Whole, b, j, T_k)
    first, last = block * BLOCK_N, tl.minimum((block + 1) * BLOCK_N, T_k) - 1
    begin, _, _, end = queries_that_see(
        first, last, T_q, behind, window, start, stop, whole, CAUSAL, WINDOW, DOCUMENTS, BLOCK_M
    )
    group = H // H_kv
    for h in range(h_kv * group, (h_kv + 1) * group):
        if ALIBI:
            slope = tl.load(Slopes + b * slopes_b + h)
        Qh = head(Q, q_b, q_h, b, h)
        DOh = DO + (b * T_q * H + h) * D
        for at in range(begin, end, BLOCK_M):
            i = at + tl.arange(0, BLOCK_M)
            p_i = i + behind
            q = load_rows(Qh, q_t, i, T_q, D, 0, D1, True)
            s = tl.dot(k, tl.trans(q), input_precision=DOT)  # (BLOCK_N, BLOCK_M)
            if D2:
                q2 = load_rows(Qh, q_t, i, T_q, D, D1, D2, True)
                s = tl.dot(k2, tl.trans(q2), s, input_precision=DOT)
            slows = 1.0
            if SOFTCAP or ALIBI:
                s, slows = scored(s, p_i[None, :] - j[:, None], scale, softcap, slope, SOFTCAP, ALIBI)
            log_sum = tl.load(L + (b * H + h) * T_q + i, mask=i < T_q, other=float("inf"))  # beyond: p = 0
            log_sum = log_sum if SOFTCAP or ALIBI else log_sum * LOG2E
            p = power(s, log_sum[None, :], unit, SOFTCAP or ALIBI)
            start_i = tl.load(Start + b * T_q + i, mask=i < T_q, other=-1)[None, :] if DOCUMENTS else 0
            start_j = start[:, None] if DOCUMENTS else 0
            seen = visible(p_i[None, :], j[:, None], T_k, window, start_i, start_j, CAUSAL, WINDOW, DOCUMENTS)
            p = tl.where(seen, p, 0.0)
            do = load_rows(DOh, H * D, i, T_q, D, 0, D1, True)
            dv = tl.dot(p.to(do.dtype), do, dv, input_precision=DOT)
            dp = tl.dot(v, tl.trans(do), input_precision=DOT)
            if D2:
                do2 = load_rows(DOh, H * D, i, T_q, D, D1, D2, True)
                dv2 = tl.dot(p.to(do.dtype), do2, dv2, input_precision=DOT)
                dp = tl.dot(v2, tl.trans(do2), dp, input_precision=DOT)
            delta = tl.load(Delta + (b * H + h) * T_q + i, mask=i < T_q, other=0.0)
            ds = p * (dp - delta[None, :]) * slows
            dk = tl.dot(ds.to(q.dtype), q, dk, input_precision=DOT)
            if D2:
                dk2 = tl.dot(ds.to(q.dtype), q2, dk2, input_precision=DOT)
    at = (b * T_k * H_kv + h_kv) * D
    store_rows(DK + at, H_kv * D, j, T_k, dk * scale, D, 0, D1)
    store_rows(DV + at, H_kv * D, j, T_k, dv, D, 0, D1)
    if D2:
        store_rows(DK + at, H_kv * D, j, T_k, dk2 * scale, D, D1, D2)
        store_rows(DV + at, H_kv * D, j, T_k, dv2, D, D1, D2)


@triton.jit(do_not_specialize=UNSPECIALISED)
def attention_backward_q(
    Q, K, V, DO, L, Delta, DQ, Slopes, Start, Stop, Whole,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, T_q, T_k, rows, H, H_kv,
    scale, unit, softcap, window, slopes_b, together,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, DOCUMENTS: tl.constexpr, SOFTCAP: tl.constexpr, ALIBI: tl.constexpr,
    D: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, DOT: tl.constexpr,
    APART: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dQ of one block of queries of one head."""
    block, row = place(T_q, rows, together, BLOCK_M, CAUSAL)
    h, b = row % H, (row // H).to(tl.int64)
    i = block * BLOCK_M + tl.arange(0, BLOCK_M)
    p_i = i + (T_k - T_q)
    Q, K, V = head(Q, q_b, q_h, b, h), head(K, k_b, k_h, b, h // (H // H_kv)), head(V, v_b, v_h, b, h // (H // H_kv))
    at = (b * T_q * H + h) * D
    q, do = load_rows(Q, q_t, i, T_q, D, 0, D1, True), load_rows(DO + at, H * D, i, T_q, D, 0, D1, True)
    dq = tl.zeros((BLOCK_M, D1), tl.float32)
    if D2:
        q2, do2 = load_rows(Q, q_t, i, T_q, D, D1, D2, True), load_rows(DO + at, H * D, i, T_q, D, D1, D2, True)
        dq2 = tl.zeros((BLOCK_M, D2), tl.float32)
    log_sum = tl.load(L + (b * H + h) * T_q + i, mask=i < T_q, other=float("inf"))
    log_sum = log_sum if SOFTCAP or ALIBI else log_sum * LOG2E
    delta = tl.load(Delta + (b * H + h) * T_q + i, mask=i < T_q, other=0.0)
    start, stop, whole, slope = 0, 0, 0, 0.0
    if DOCUMENTS:
        start, stop, whole = document_of(Start, Stop, Whole, b, i, T_q)
    if ALIBI:
        slope = tl.load(Slopes + b * slopes_b + h)
    first, last = block * BLOCK_M + (T_k - T_q), tl.minimum((block + 1) * BLOCK_M, T_q) - 1 + (T_k - T_q)
    begin, inner_begin, inner_end, end = keys_seen(
        first, last, T_k, window, start, stop, whole, CAUSAL, WINDOW, DOCUMENTS, BLOCK_N
    )
    for number in tl.static_range(0 if APART else 3, 3 if APART else 4):
        from_, to = part(number, begin, inner_begin, inner_end, end)
        for key in range(from_, to, BLOCK_N):
            j = key + tl.arange(0, BLOCK_N)
            k, v = load_rows(K, k_t, j, T_k, D, 0, D1, number != 1), load_rows(V, v_t, j, T_k, D, 0, D1, number != 1)
            s = tl.dot(q, tl.trans(k), input_precision=DOT)  # (BLOCK_M, BLOCK_N)
            dp = tl.dot(do, tl.trans(v), input_precision=DOT)
            if D2:
                k2, v2 = (
                    load_rows(K, k_t, j, T_k, D, D1, D2, number != 1),
                    load_rows(V, v_t, j, T_k, D, D1, D2, number != 1),
                )
                s = tl.dot(q2, tl.trans(k2), s, input_precision=DOT)
                dp = tl.dot(do2, tl.trans(v2), dp, input_precision=DOT)
            slows = 1.0
            if SOFTCAP or ALIBI:
                s, slows = scored(s, p_i[:, None] - j[None, :], scale, softcap, slope, SOFTCAP, ALIBI)
            p = power(s, log_sum[:, None], unit, SOFTCAP or ALIBI)
            if number != 1:
                start_j = tl.load(Start + b * T_k + j, mask=j < T_k, other=-1)[None, :] if DOCUMENTS else 0
                start_i = start[:, None] if DOCUMENTS else 0
                seen = visible(p_i[:, None], j[None, :], T_k, window, start_i, start_j, CAUSAL, WINDOW, DOCUMENTS)
                p = tl.where(seen, p, 0.0)
            ds = p * (dp - delta[:, None]) * slows
            dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=DOT)
            if D2:
                dq2 = tl.dot(ds.to(k.dtype), k2, dq2, input_precision=DOT)
    store_rows(DQ + at, H * D, i, T_q, dq * scale, D, 0, D1)
    if D2:
        store_rows(DQ + at, H * D, i, T_q, dq2 * scale, D, D1, D2)


def delta(do: Tensor, o: Tensor, log_sum: Tensor, dl: Tensor | None, call: Call) -> Tensor:
    """dO · o less the gradient of the log-sum-exp, if it has one: (B, H, T_q) in fp32. All tensors are contiguous."""
    _, T_q, _, H, _, _ = call.sizes
    made, of = torch.empty_like(log_sum), call.constants()
    library.launch(
        attention_delta, call.grid(T_q, DELTA_ROWS, H), o, do, log_sum if dl is None else dl, made, T_q, H,
        HAS_DL=dl is not None, D=of["D"], D1=of["D1"], D2=of["D2"], BLOCK_M=DELTA_ROWS,
    )  # fmt: skip
    return made


def separate(
    do: Tensor, log_sum: Tensor, delta: Tensor, call: Call, choice: Choice | None
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk and dv by two kernels, each contiguous. ``do`` is contiguous."""
    q, k, v = call.q, call.k, call.v
    _, T_q, T_k, H, H_kv, _ = call.sizes
    dq, dk, dv = q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
    blocks = call.blocks(1, choice)
    library.launch(
        attention_backward_kv, call.grid(T_k, blocks.keys, H_kv), q, k, v, do, log_sum, delta, dk, dv,
        *call.pointers(), *call.numbers(of_keys=True), **call.constants(),
        BLOCK_M=blocks.queries, BLOCK_N=blocks.keys, num_warps=blocks.warps,
        num_stages=blocks.stages,
    )  # fmt: skip
    blocks = call.blocks(2, choice)
    library.launch(
        attention_backward_q, call.grid(T_q, blocks.queries, H), q, k, v, do, log_sum, delta, dq,
        *call.pointers(), *call.numbers(), **call.constants(),
        APART=blocks.apart, BLOCK_M=blocks.queries, BLOCK_N=blocks.keys, num_warps=blocks.warps,
        num_stages=blocks.stages,
    )  # fmt: skip
    return dq, dk, dv
