r"""Attention forward with tensor descriptors, and in orders in which the exponentials run beside the products.

In the time that a multiprocessor of an H100 takes one exponential its tensor cores do 256 operations. A score costs 4 D
operations in the two products and one exponential, so with 64 channels both take equally long, and with 128 the
products twice as long: a kernel that does one after the other is at half, or two thirds, of the speed of the products
at most. wgmma, the instruction of sm_90 that multiplies, is asynchronous: what can run beside it is whatever does not
need its result. In the usual order nothing can:

    tma          s_j = q k_jᵀ;  p_j = softmax step of s_j;  acc += p_j v_j
    carry_qk     s_{j+1} = q k_{j+1}ᵀ  beside  p_j = softmax step of s_j;  acc += p_j v_j
    carry_p      s_j = q k_jᵀ;  acc += p_{j-1} v_{j-1}  beside  p_j = softmax step of s_j
                 (within a warp group as Shah et al., 2024, https://arxiv.org/abs/2407.08608)
    carry_p_persistent   the same, and as many programs as run at once, each of which takes every so many blocks: what a
                 program does before its first product is done once
    specialized  the usual order; Triton gives the copies to a warp group of their own, and half the queries each to
                 two others, which drift apart until one multiplies while the other takes exponentials

Scores are kept in units of log 2: exp2(c s - m) with c = scale / ln 2 is one fma and one instruction. Only tiles that
the diagonal or the end of the keys runs through are masked, and the one that stands outside of the loop (in
"specialized" all, since it takes one loop only).

Q, K and V are read as blocks of (1, 1, rows, D) of tensors seen as (B, H, T, D): the hardware counts addresses, and
puts zeros for what lies beyond T and D. The axes of size 1 stand in front, since Triton then makes the block a matrix
before it chooses a layout; of (1, rows, 1, D) it takes the queries through registers.
"""

from __future__ import annotations

import math
from contextvars import copy_context
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import attention_schedule, library
from .attention_table import Choice
from .functions import LN2

place = triton.jit(attention_schedule.place)
tiles = triton.jit(attention_schedule.tiles)


@triton.jit
def rows(X, b, t, h, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    """(ROWS, BLOCK_D) from row t on of one head."""
    return X.load([b, h, t, 0]).reshape((ROWS, BLOCK_D))


@triton.jit
def masked(qk, j, last):
    """Scores of keys j and following, of those only that each query is shown: up to ``last``, of shape (BLOCK_M,)."""
    return tl.where(j + tl.arange(0, qk.shape[1])[None, :] <= last[:, None], qk, float("-inf"))


@triton.jit
def weigh(qk, m, l, c, SAFE: tl.constexpr):
    """A step of the softmax: weights of a tile of scores, the new maximum and sum, and what the old sum shrinks by.

    SAFE: a query may have seen nothing yet; then its maximum is -inf, and -inf - (-inf) no number."""
    m_new = tl.maximum(m, tl.max(qk, axis=1) * c)
    base = m_new
    if SAFE:
        base = tl.where(m_new == float("-inf"), 0.0, m_new)
    p = tl.exp2(tl.fma(qk, c, -base[:, None]))
    alpha = tl.exp2(m - base)
    return p, m_new, l * alpha + tl.sum(p, axis=1), alpha


@triton.jit
def usual(acc, m, l, q, K, V, b, h, begin, end, last, c, MASKED: tl.constexpr, BLOCK_N: tl.constexpr,
          BLOCK_D: tl.constexpr, SPECIALIZED: tl.constexpr):  # fmt: skip
    """Tiles begin ... end - 1 in the order of the formulas."""
    for j in tl.range(begin, end, warp_specialize=SPECIALIZED):
        qk = tl.dot(q, rows(K, b, j * BLOCK_N, h, BLOCK_N, BLOCK_D).T)
        if MASKED:
            qk = masked(qk, j * BLOCK_N, last)
        p, m, l, alpha = weigh(qk, m, l, c, MASKED)
        v = rows(V, b, j * BLOCK_N, h, BLOCK_N, BLOCK_D)
        acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None])
    return acc, m, l


@triton.jit
def carry_qk(acc, m, l, qk, q, K, V, b, h, begin, end, last, c, MASKED: tl.constexpr, BLOCK_N: tl.constexpr,
             BLOCK_D: tl.constexpr):  # fmt: skip
    """The same; ``qk`` is the scores of tile ``begin``, and those of tile ``end`` are returned."""
    for j in tl.range(begin, end):
        qk_next = tl.dot(q, rows(K, b, (j + 1) * BLOCK_N, h, BLOCK_N, BLOCK_D).T)
        if MASKED:
            qk = masked(qk, j * BLOCK_N, last)
        p, m, l, alpha = weigh(qk, m, l, c, MASKED)
        v = rows(V, b, j * BLOCK_N, h, BLOCK_N, BLOCK_D)
        acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None])
        qk = qk_next
    return acc, m, l, qk


@triton.jit
def carry_p(acc, m, l, p, q, K, V, b, h, begin, end, last, c, MASKED: tl.constexpr, BLOCK_N: tl.constexpr,
            BLOCK_D: tl.constexpr):  # fmt: skip
    """The same; ``p`` is the weights of tile ``begin`` - 1, which are not in ``acc`` yet, and those of tile ``end`` - 1
    are returned."""
    for j in tl.range(begin, end):
        qk = tl.dot(q, rows(K, b, j * BLOCK_N, h, BLOCK_N, BLOCK_D).T)
        v = rows(V, b, (j - 1) * BLOCK_N, h, BLOCK_N, BLOCK_D)
        acc = tl.dot(p.to(v.dtype), v, acc)
        if MASKED:
            qk = masked(qk, j * BLOCK_N, last)
        p, m, l, alpha = weigh(qk, m, l, c, MASKED)
        acc = acc * alpha[:, None]
    return acc, m, l, p


@triton.jit
def attend(
    tile, Q, K, V, O, L, q_b, q_t, q_h, T_q, T_k, H, H_kv, heads, together, c,
    CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    ORDER: tl.constexpr,
):  # fmt: skip
    """The block of queries and the head that are number ``tile`` in turn."""
    block, head = place(tile, tl.cdiv(T_q, BLOCK_M), heads, together, CAUSAL)
    whole, end = tiles(block, T_q, T_k, CAUSAL, BLOCK_M, BLOCK_N)
    b, h = head // H, head % H
    h_kv = h // (H // H_kv)
    i = block * BLOCK_M + tl.arange(0, BLOCK_M)  # the queries
    last = i * 0 + (T_k - 1)  # the last key that each one sees
    if CAUSAL:
        last = i + (T_k - T_q)
    m = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    l = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    if ORDER == "specialized":
        start = Q + tl.cast(b, tl.int64) * q_b + tl.cast(h, tl.int64) * q_h
        q = tl.make_tensor_descriptor(start, [T_q, D], [q_t, 1], [BLOCK_M, BLOCK_D]).load([block * BLOCK_M, 0])
    else:
        q = rows(Q, b, block * BLOCK_M, h, BLOCK_M, BLOCK_D)

    if ORDER == "specialized":
        acc, m, l = usual(acc, m, l, q, K, V, b, h_kv, 0, end, last, c, True, BLOCK_N, BLOCK_D, True)
    elif ORDER == "tma":
        acc, m, l = usual(acc, m, l, q, K, V, b, h_kv, 0, whole, last, c, False, BLOCK_N, BLOCK_D, False)
        acc, m, l = usual(acc, m, l, q, K, V, b, h_kv, whole, end, last, c, True, BLOCK_N, BLOCK_D, False)
    elif ORDER == "carry_qk":
        # The last tile has no next one, so it stands alone; masked, whatever it is.
        final = end - 1
        whole = tl.minimum(whole, final)
        qk = tl.dot(q, rows(K, b, 0, h_kv, BLOCK_N, BLOCK_D).T)
        acc, m, l, qk = carry_qk(acc, m, l, qk, q, K, V, b, h_kv, 0, whole, last, c, False, BLOCK_N, BLOCK_D)
        acc, m, l, qk = carry_qk(acc, m, l, qk, q, K, V, b, h_kv, whole, final, last, c, True, BLOCK_N, BLOCK_D)
        p, m, l, alpha = weigh(masked(qk, final * BLOCK_N, last), m, l, c, True)
        v = rows(V, b, final * BLOCK_N, h_kv, BLOCK_N, BLOCK_D)
        acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None])
    else:
        # The first tile has none before it, so it stands alone; masked, whatever it is.
        qk = tl.dot(q, rows(K, b, 0, h_kv, BLOCK_N, BLOCK_D).T)
        p, m, l, alpha = weigh(masked(qk, 0, last), m, l, c, True)
        whole = tl.maximum(whole, 1)
        acc, m, l, p = carry_p(acc, m, l, p, q, K, V, b, h_kv, 1, whole, last, c, False, BLOCK_N, BLOCK_D)
        acc, m, l, p = carry_p(acc, m, l, p, q, K, V, b, h_kv, whole, end, last, c, True, BLOCK_N, BLOCK_D)
        v = rows(V, b, (end - 1) * BLOCK_N, h_kv, BLOCK_N, BLOCK_D)
        acc = tl.dot(p.to(v.dtype), v, acc)

    l = tl.where(l == 0.0, 1.0, l)  # a query that sees nothing gets 0
    o = acc / l[:, None]
    if ORDER == "specialized":
        row = (tl.cast(b, tl.int64) * T_q + i[:, None]) * H + h
        d = tl.arange(0, BLOCK_D)[None, :]
        tl.store(O + row * D + d, o.to(O.dtype.element_ty), mask=(i < T_q)[:, None] & (d < D))
    else:
        O.store([b, h, block * BLOCK_M, 0], o.to(O.dtype).reshape((1, 1, BLOCK_M, BLOCK_D)))
    tl.store(L + tl.cast(head, tl.int64) * T_q + i, (m + tl.log2(l)) * LN2, mask=i < T_q)


@triton.jit
def attention_forward_pipelined(
    Q, K, V, O, L, q_b, q_t, q_h, T_q, T_k, H, H_kv, heads, together, c,
    CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    ORDER: tl.constexpr, PERSISTENT: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head; or, PERSISTENT, every so many of them. Q and O describe (B, H, T_q, D), K and V
    (B, H_kv, T_k, D); heads is B H, c is scale / ln 2. In "specialized" Q and O are pointers, and q_b, q_t, q_h Q's
    strides: Triton 3.6 cuts a block of queries in two, but not a descriptor that comes from outside (and copies what is
    nobody's, without a word)."""
    if PERSISTENT:
        for tile in range(tl.program_id(0), tl.cdiv(T_q, BLOCK_M) * heads, tl.num_programs(0)):
            attend(tile, Q, K, V, O, L, q_b, q_t, q_h, T_q, T_k, H, H_kv, heads, together, c, CAUSAL, D, BLOCK_D,
                   BLOCK_M, BLOCK_N, ORDER)  # fmt: skip
    else:
        attend(tl.program_id(0), Q, K, V, O, L, q_b, q_t, q_h, T_q, T_k, H, H_kv, heads, together, c, CAUSAL, D,
               BLOCK_D, BLOCK_M, BLOCK_N, ORDER)  # fmt: skip


PERSISTENT = "_persistent"
VARIANTS = ("tma", "carry_qk", "carry_p", "specialized", "carry_p_persistent")
CANDIDATES: dict[int, tuple[Choice, ...]] = {
    32: (
        Choice("tma", 128, 128, 8, 3), Choice("carry_qk", 128, 64, 8, 3), Choice("carry_p", 128, 64, 8, 3),
        Choice("carry_p", 128, 128, 8, 2),
    ),
    64: (
        Choice("tma", 128, 64, 4, 3), Choice("tma", 128, 128, 8, 3), Choice("tma", 64, 128, 4, 2),
        Choice("carry_qk", 128, 128, 8, 2), Choice("carry_qk", 128, 64, 8, 3), Choice("carry_qk", 64, 128, 4, 2),
        Choice("carry_p", 128, 128, 8, 2), Choice("carry_p", 128, 64, 8, 3), Choice("carry_p", 64, 128, 4, 2),
        Choice("specialized", 128, 128, 4, 2), Choice("specialized", 128, 64, 4, 3),
        Choice("carry_p_persistent", 128, 128, 8, 2), Choice("carry_p_persistent", 64, 128, 4, 2),
    ),
    128: (
        Choice("tma", 128, 128, 8, 2), Choice("tma", 128, 64, 8, 3),
        Choice("carry_qk", 128, 128, 8, 2), Choice("carry_qk", 128, 64, 8, 2), Choice("carry_qk", 128, 64, 8, 3),
        Choice("carry_p", 128, 128, 8, 2), Choice("carry_p", 128, 64, 8, 2), Choice("carry_p", 128, 64, 8, 3),
        Choice("specialized", 128, 128, 4, 2), Choice("specialized", 128, 64, 4, 3),
    ),
    256: (
        Choice("tma", 128, 64, 8, 2), Choice("tma", 128, 32, 8, 3), Choice("carry_qk", 128, 64, 8, 2),
        Choice("carry_qk", 128, 32, 8, 2), Choice("carry_p", 128, 64, 8, 2), Choice("carry_p", 128, 32, 8, 2),
    ),
}  # fmt: skip
"""head_dim → what to time: compiled by Triton 3.6 for sm_90 without spills. "specialized" wants 4 warps and makes 12 of
them."""


def refusal(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """Why the kernels do not take these tensors, or None if they do."""
    if q.dtype not in (torch.float16, torch.bfloat16):
        return f"attention through tensor descriptors takes fp16 and bf16, not {str(q.dtype).removeprefix('torch.')}"
    D = q.shape[-1]
    if not (16 <= D <= 256 and D % 8 == 0):
        return f"head_dim is {D}; the kernel takes 16 to 256, in steps of 8"
    if q.is_cuda and torch.cuda.get_device_capability(q.device) < (9, 0):
        return "attention through tensor descriptors is for GPUs of compute capability 9.0 on: others have no TMA"
    return library.descriptor_refused(q, k, v)


def _scratch(size: int, alignment: int, stream: int | None) -> Tensor:
    """Memory for descriptors that a kernel makes for itself: PyTorch's is aligned to 512 bytes."""
    return torch.empty(size, dtype=torch.int8, device="cuda")


def _with_scratch(*args: Any, **options: Any) -> None:
    """A launch of a kernel that makes descriptors, for a context of its own: of each Triton knows one allocator, and
    outside it may be somebody else's."""
    triton.set_allocator(_scratch)
    library.launch(*args, **options)


def forward(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, choice: Choice) -> tuple[Tensor, Tensor]:
    """softmax(q kᵀ · scale) v of every head, and the logarithm of each query's sum of exponentials.

    Args:
        q: (B, T_q, H, D), fp16 or bf16, with any strides that a `library.descriptor` takes.
        k, v: (B, T_k, H_kv, D).
        scale: above 0.
        causal: query i sees keys 0 ... i + T_k - T_q.
        choice: one of `VARIANTS`, and its blocks.

    Returns:
        (B, T_q, H, D) in q's dtype, and (B, H, T_q) in fp32, natural logarithms; 0 and -inf where a query sees nothing.

    Raises:
        UnsupportedError: if `refusal`.
    """
    library.require(refusal(q, k, v))
    (B, T_q, H, D), (T_k, H_kv) = q.shape, k.shape[1:3]
    block_d = library.power_of_2(D)
    o, log_sum = q.new_empty(q.shape), q.new_empty(B, H, T_q, dtype=torch.float32)
    block_q, block_kv = (1, 1, choice.block_m, block_d), (1, 1, choice.block_n, block_d)
    K, V = (library.descriptor(t.transpose(1, 2), block_kv) for t in (k, v))
    Q, O, launch = q, o, library.launch
    if choice.variant == "specialized":
        launch = partial(copy_context().run, _with_scratch)
    else:
        Q, O = (library.descriptor(t.transpose(1, 2), block_q) for t in (q, o))
    together = attention_schedule.fit(B * H, H // H_kv, T_k, D, q.element_size())
    programs, persistent = library.cdiv(T_q, choice.block_m) * B * H, choice.variant.endswith(PERSISTENT)
    if persistent:  # as many as run at once: 8 warps of so many registers are one of a multiprocessor, 4 are two
        programs = min(programs, library.multiprocessors(q.device) * (8 // choice.warps))
    launch(
        attention_forward_pipelined, (programs,),
        Q, K, V, O, log_sum, *q.stride()[:3], T_q, T_k, H, H_kv, B * H, together, scale * math.log2(math.e),
        CAUSAL=causal, D=D, BLOCK_D=block_d, BLOCK_M=choice.block_m, BLOCK_N=choice.block_n,
        ORDER=choice.variant.removesuffix(PERSISTENT), PERSISTENT=persistent,
        num_warps=choice.warps, num_stages=choice.stages,
    )  # fmt: skip
    return o, log_sum
