r"""Attention without the matrix of weights in memory (Dao et al., 2022, https://arxiv.org/abs/2205.14135).

    o_i = sum_j p_ij v_j,    p_ij = exp(s_ij - L_i),    s_ij = scale q_i·k_j,    L_i = log sum_j exp(s_ij)

**Online softmax.** A program holds a block of queries and walks over the keys block by block. Three things are kept for
each query i: m, the largest score so far; l, the sum of exp(s - m) so far; acc, the sum of exp(s - m) v so far. When a
block brings a larger score m', what was summed before is too large by exp(m' - m), so

    α = exp(m - m')        l ← α l + sum_j exp(s_j - m')        acc ← α acc + sum_j exp(s_j - m') v_j

and at the end o = acc / l, and L = m + log l, the one number that backward needs besides. What goes into an exponential
is scale q·k minus m or L in one operation (fma), rounded once: a score of 30 rounded before it would cost p two bits.

**Backward**, with P and dO known and D_i = dO_i · o_i:

    dV = Pᵀ dO,    dP = dO Vᵀ,    dS = P (dP - D),    dQ = scale dS K,    dK = scale dSᵀ Q

in two kernels that each recompute P from L: one owns a block of keys and walks over the queries (dK, dV), one owns a
block of queries and walks over the keys (dQ). That is 7 products of matrices where 5 would do, and no two programs ever
add to the same number, so the result is the same bits every time. A key-value head that several query heads share is
one program's, which walks over all of them.

At the floor, forward reads q, k, v and writes o once, and computes 4 T_q T_k D operations a head, half of it if causal.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import library


@triton.jit
def place(T, H, BLOCK: tl.constexpr):
    """What this program is for: the number of its block of tokens, its head, and its sequence."""
    blocks = tl.cdiv(T, BLOCK)
    row = tl.program_id(0) // blocks
    return tl.program_id(0) % blocks, row % H, (row // H).to(tl.int64)


@triton.jit
def head(X, stride_b, stride_h, b, h):
    """Where the rows of one head of one sequence begin: beyond what 32 bits can count, maybe."""
    return X + b * stride_b + tl.cast(h, tl.int64) * stride_h


@triton.jit
def visible(i, j, T_q, T_k, CAUSAL: tl.constexpr):
    """(I, J): whether query i is shown key j. The last query is shown every key."""
    seen = (i < T_q)[:, None] & (j < T_k)[None, :]
    if CAUSAL:
        seen = seen & (j[None, :] <= i[:, None] + (T_k - T_q))
    return seen


@triton.jit
def load_rows(X, stride, t, length, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows t of X, (len(t), BLOCK_D), with 0 beyond ``length`` rows and D channels."""
    d = tl.arange(0, BLOCK_D)
    inside = (t < length)[:, None] & (d < D)[None, :]
    return tl.load(X + t[:, None].to(tl.int64) * stride + d[None, :], mask=inside, other=0.0)


@triton.jit
def store_rows(X, stride, t, length, x, D: tl.constexpr, BLOCK_D: tl.constexpr):
    d = tl.arange(0, BLOCK_D)
    inside = (t < length)[:, None] & (d < D)[None, :]
    tl.store(X + t[:, None].to(tl.int64) * stride + d[None, :], x.to(X.dtype.element_ty), mask=inside)


@triton.jit
def attention_forward(
    Q, K, V, O, L, q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, T_q, T_k, H, H_kv, scale,
    CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    DOT: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head. Q is (B, T_q, H, D), K and V (B, T_k, H_kv, D); q_b is Q's stride by B."""
    block, h, b = place(T_q, H, BLOCK_M)
    i = block * BLOCK_M + tl.arange(0, BLOCK_M)  # the queries
    K = head(K, k_b, k_h, b, h // (H // H_kv))
    V = head(V, v_b, v_h, b, h // (H // H_kv))
    q = load_rows(head(Q, q_b, q_h, b, h), q_t, i, T_q, D, BLOCK_D)  # (BLOCK_M, BLOCK_D)

    m = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    l = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    end = T_k
    if CAUSAL:  # no query of this block is shown a later key
        end = tl.minimum(T_k, (block + 1) * BLOCK_M + T_k - T_q)
    for start in range(0, end, BLOCK_N):
        j = start + tl.arange(0, BLOCK_N)  # the keys
        k = load_rows(K, k_t, j, T_k, D, BLOCK_D)
        qk = tl.dot(q, tl.trans(k), input_precision=DOT)  # (BLOCK_M, BLOCK_N)
        seen = visible(i, j, T_q, T_k, CAUSAL)
        m_new = tl.maximum(m, tl.max(tl.where(seen, qk * scale, float("-inf")), axis=1))
        m_safe = tl.where(m_new == float("-inf"), 0.0, m_new)  # nothing seen yet: not inf - inf
        p = tl.where(seen, tl.exp(tl.fma(qk, scale, -m_safe[:, None])), 0.0)
        alpha = tl.exp(m - m_safe)
        l = l * alpha + tl.sum(p, axis=1)
        v = load_rows(V, v_t, j, T_k, D, BLOCK_D)
        acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None], input_precision=DOT)
        m = m_new

    l = tl.where(l == 0.0, 1.0, l)  # a query that sees nothing gets 0
    o = acc / l[:, None]
    store_rows(O + (b * T_q * H + h) * D, H * D, i, T_q, o, D, BLOCK_D)
    tl.store(L + (b * H + h) * T_q + i, m + tl.log(l), mask=i < T_q)


@triton.jit
def attention_delta(O, DO, Delta, T_q, H, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr):
    """D_i = dO_i · o_i, (B, H, T_q) in fp32."""
    block, h, b = place(T_q, H, BLOCK_M)
    i = block * BLOCK_M + tl.arange(0, BLOCK_M)
    at = (b * T_q * H + h) * D
    o = load_rows(O + at, H * D, i, T_q, D, BLOCK_D).to(tl.float32)
    do = load_rows(DO + at, H * D, i, T_q, D, BLOCK_D).to(tl.float32)
    tl.store(Delta + (b * H + h) * T_q + i, tl.sum(o * do, axis=1), mask=i < T_q)


@triton.jit
def attention_backward_kv(
    Q, K, V, DO, L, Delta, DK, DV, q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, T_q, T_k, H, H_kv, scale,
    CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    DOT: tl.constexpr,
):  # fmt: skip
    """dK and dV of one block of keys of one key-value head: all queries of all heads that share it, one by one.

    The matrices are the transposed ones, keys in rows, so that they meet dO and Q without being turned."""
    block, h_kv, b = place(T_k, H_kv, BLOCK_N)
    j = block * BLOCK_N + tl.arange(0, BLOCK_N)
    k = load_rows(head(K, k_b, k_h, b, h_kv), k_t, j, T_k, D, BLOCK_D)
    v = load_rows(head(V, v_b, v_h, b, h_kv), v_t, j, T_k, D, BLOCK_D)
    dk = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    dv = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    begin = 0
    if CAUSAL:  # earlier queries are shown no key of this block
        begin = tl.maximum(0, block * BLOCK_N - (T_k - T_q)) // BLOCK_M * BLOCK_M
    group = H // H_kv
    for h in range(h_kv * group, (h_kv + 1) * group):
        for start in range(begin, T_q, BLOCK_M):
            i = start + tl.arange(0, BLOCK_M)
            q = load_rows(head(Q, q_b, q_h, b, h), q_t, i, T_q, D, BLOCK_D)
            log_sum = tl.load(L + (b * H + h) * T_q + i, mask=i < T_q, other=0.0)
            kq = tl.dot(k, tl.trans(q), input_precision=DOT)  # (BLOCK_N, BLOCK_M)
            seen = tl.trans(visible(i, j, T_q, T_k, CAUSAL))
            p = tl.where(seen, tl.exp(tl.fma(kq, scale, -log_sum[None, :])), 0.0)
            do = load_rows(DO + (b * T_q * H + h) * D, H * D, i, T_q, D, BLOCK_D)
            dv = tl.dot(p.to(do.dtype), do, dv, input_precision=DOT)
            dp = tl.dot(v, tl.trans(do), input_precision=DOT)
            delta = tl.load(Delta + (b * H + h) * T_q + i, mask=i < T_q, other=0.0)
            ds = p * (dp - delta[None, :])
            dk = tl.dot(ds.to(q.dtype), q, dk, input_precision=DOT)
    at = (b * T_k * H_kv + h_kv) * D
    store_rows(DK + at, H_kv * D, j, T_k, dk * scale, D, BLOCK_D)
    store_rows(DV + at, H_kv * D, j, T_k, dv, D, BLOCK_D)


@triton.jit
def attention_backward_q(
    Q, K, V, DO, L, Delta, DQ, q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, T_q, T_k, H, H_kv, scale,
    CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    DOT: tl.constexpr,
):  # fmt: skip
    """dQ of one block of queries of one head."""
    block, h, b = place(T_q, H, BLOCK_M)
    i = block * BLOCK_M + tl.arange(0, BLOCK_M)
    K = head(K, k_b, k_h, b, h // (H // H_kv))
    V = head(V, v_b, v_h, b, h // (H // H_kv))
    at = (b * T_q * H + h) * D
    q = load_rows(head(Q, q_b, q_h, b, h), q_t, i, T_q, D, BLOCK_D)
    do = load_rows(DO + at, H * D, i, T_q, D, BLOCK_D)
    log_sum = tl.load(L + (b * H + h) * T_q + i, mask=i < T_q, other=0.0)
    delta = tl.load(Delta + (b * H + h) * T_q + i, mask=i < T_q, other=0.0)
    dq = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    end = T_k
    if CAUSAL:
        end = tl.minimum(T_k, (block + 1) * BLOCK_M + T_k - T_q)
    for start in range(0, end, BLOCK_N):
        j = start + tl.arange(0, BLOCK_N)
        k = load_rows(K, k_t, j, T_k, D, BLOCK_D)
        v = load_rows(V, v_t, j, T_k, D, BLOCK_D)
        qk = tl.dot(q, tl.trans(k), input_precision=DOT)  # (BLOCK_M, BLOCK_N)
        seen = visible(i, j, T_q, T_k, CAUSAL)
        p = tl.where(seen, tl.exp(tl.fma(qk, scale, -log_sum[:, None])), 0.0)
        dp = tl.dot(do, tl.trans(v), input_precision=DOT)
        ds = p * (dp - delta[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=DOT)
    store_rows(DQ + at, H * D, i, T_q, dq * scale, D, BLOCK_D)


# (channels at most, bytes a number) → BLOCK_M, BLOCK_N, warps: of forward, of the dK and dV kernel, of the dQ kernel.
# One table for all GPUs: every entry fits into the 99 KB of shared memory that the smallest of them has, and those of
# two bytes up to 128 channels compile without a spill for all of them (tests/kernels/test_compiles.py).
TABLE: dict[tuple[int, int], tuple[tuple[int, int, int], ...]] = {
    (16, 2): ((128, 32, 4), (64, 64, 4), (64, 64, 4)),
    (32, 2): ((128, 32, 4), (64, 64, 8), (64, 64, 4)),
    (56, 2): ((128, 64, 8), (16, 128, 8), (64, 64, 4)),
    (64, 2): ((128, 64, 8), (32, 64, 4), (64, 64, 4)),
    (128, 2): ((128, 64, 8), (32, 64, 8), (128, 32, 8)),
    (256, 2): ((64, 32, 8), (32, 32, 8), (32, 32, 8)),
    (16, 4): ((64, 32, 4), (32, 32, 4), (32, 32, 4)),
    (32, 4): ((64, 32, 4), (32, 32, 4), (32, 32, 4)),
    (64, 4): ((64, 32, 4), (32, 32, 4), (32, 32, 4)),
    (128, 4): ((32, 32, 4), (32, 32, 8), (32, 32, 8)),
    (256, 4): ((32, 16, 4), (16, 16, 8), (16, 16, 8)),
}
DELTA_ROWS = 32


def _blocks(q: Tensor) -> tuple[tuple[int, int, int], ...]:
    D, size = q.shape[-1], q.element_size()
    return next(blocks for (most, bytes_), blocks in TABLE.items() if most >= D and bytes_ == size)


def _settings(q: Tensor, causal: bool) -> dict[str, Any]:
    D = q.shape[-1]
    # Products of fp32 numbers are full fp32 products, not of numbers cut to the 10 bits of tf32.
    dot = "ieee" if q.dtype == torch.float32 else "tf32"
    return {"CAUSAL": causal, "D": D, "BLOCK_D": max(16, library.power_of_2(D)), "DOT": dot}


def _common(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Any, ...]:
    """The arguments that all kernels take: strides by batch, token and head, sizes, scale."""
    strides = [stride for t in (q, k, v) for stride in t.stride()[:3]]
    return (*strides, q.shape[1], k.shape[1], q.shape[2], k.shape[2], scale)


def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    B, T_q, H, _ = q.shape
    o, log_sum = q.new_empty(q.shape), q.new_empty(B, H, T_q, dtype=torch.float32)
    settings = _settings(q, causal)
    block_m, block_n, warps = _blocks(q)[0]
    grid = (library.cdiv(T_q, block_m) * B * H,)
    library.launch(
        attention_forward, grid, q, k, v, o, log_sum, *_common(q, k, v, scale),
        **settings, BLOCK_M=block_m, BLOCK_N=block_n, num_warps=warps,
    )  # fmt: skip
    return o, log_sum


def _backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, log_sum: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    B, T_q, H, D = q.shape
    T_k, H_kv = k.shape[1:3]
    do = do.contiguous()
    dq, dk, dv = q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
    delta = torch.empty_like(log_sum)
    settings, common = _settings(q, causal), _common(q, k, v, scale)
    block_d = settings["BLOCK_D"]
    _, for_kv, for_q = _blocks(q)
    grid = (library.cdiv(T_q, DELTA_ROWS) * B * H,)
    library.launch(attention_delta, grid, o, do, delta, T_q, H, D=D, BLOCK_D=block_d, BLOCK_M=DELTA_ROWS)
    block_m, block_n, warps = for_kv
    grid = (library.cdiv(T_k, block_n) * B * H_kv,)
    library.launch(
        attention_backward_kv, grid, q, k, v, do, log_sum, delta, dk, dv, *common,
        **settings, BLOCK_M=block_m, BLOCK_N=block_n, num_warps=warps,
    )  # fmt: skip
    block_m, block_n, warps = for_q
    grid = (library.cdiv(T_q, block_m) * B * H,)
    library.launch(
        attention_backward_q, grid, q, k, v, do, log_sum, delta, dq, *common,
        **settings, BLOCK_M=block_m, BLOCK_N=block_n, num_warps=warps,
    )  # fmt: skip
    return dq, dk, dv


def _fake_forward(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    B, T_q, H, _ = q.shape
    return q.new_empty(q.shape), q.new_empty(B, H, T_q, dtype=torch.float32)


_attention = library.operator(
    "attention(Tensor q, Tensor k, Tensor v, float scale, bool causal) -> (Tensor, Tensor)", _forward, _fake_forward
)
_attention_backward = library.operator(
    "attention_backward(Tensor do, Tensor q, Tensor k, Tensor v, Tensor o, Tensor log_sum, float scale, bool causal)"
    " -> (Tensor, Tensor, Tensor)",
    _backward,
    lambda do, q, k, v, o, log_sum, scale, causal: tuple(t.new_empty(t.shape) for t in (q, k, v)),
)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> Tensor:
        o, log_sum = _attention(q, k, v, scale, causal)
        ctx.save_for_backward(q, k, v, o, log_sum)
        ctx.scale, ctx.causal = scale, causal
        return o

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        return *_attention_backward(do, *ctx.saved_tensors, ctx.scale, ctx.causal), None, None


def misfit(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> str | None:
    """What keeps these tensors from being queries, keys and values of one call, or None."""
    if q.dim() != 4 or k.dim() != 4 or k.shape != v.shape:
        return (
            f"q is (B, T_q, H, D), k and v are (B, T_k, H_kv, D), but the shapes are {tuple(q.shape)}, "
            f"{tuple(k.shape)} and {tuple(v.shape)}"
        )
    (B, _, H, D), (B_k, _, H_kv, D_k) = q.shape, k.shape
    if B != B_k or D != D_k:
        return f"q has {B} sequences of {D} channels, k and v have {B_k} of {D_k}"
    if H_kv == 0 or H % H_kv:
        return f"{H} query heads cannot share {H_kv} key-value heads evenly"
    if q.dtype != k.dtype or q.dtype != v.dtype:
        return f"q, k and v must be of one dtype, not {q.dtype}, {k.dtype} and {v.dtype}"
    if scale is not None and not math.isfinite(scale):
        return f"scale must be a finite number, not {scale}"
    return library.tensors_refused(q, k, v)


def refusal(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True, scale: float | None = None) -> str | None:
    """Why the kernel does not take this call, or None if it does."""
    if (reason := misfit(q, k, v, scale=scale)) is not None:
        return reason
    D = q.shape[-1]
    return None if 16 <= D <= 256 and D % 8 == 0 else f"head_dim is {D}; the kernel takes 16 to 256, in steps of 8"


def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True, scale: float | None = None) -> Tensor:
    """softmax(q kᵀ · scale) v for every head, with memory for the inputs and the output only; see
    `reference.attention`.

    Args:
        q: (B, T_q, H, D), fp32, fp16 or bf16, D from 16 to 256 in steps of 8.
        k, v: (B, T_k, H_kv, D), where H is a multiple of H_kv: H / H_kv query heads share one key-value head.
        causal: query i sees keys 0 ... i + T_k - T_q, so the last query sees every key.
        scale: 1 / sqrt(D) if not given.

    Returns:
        (B, T_q, H, D) in q's dtype; a query that sees no key gets 0. Sums are kept in fp32; fp32 inputs are multiplied
        as fp32 numbers (IEEE), never as tf32.

    Raises:
        UnsupportedError: for other dtypes and shapes.
    """
    library.require(refusal(q, k, v, causal=causal, scale=scale))
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    # The kernels walk along any strides but want a row's channels side by side.
    q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v))
    return _Attention.apply(q, k, v, scale, causal)
