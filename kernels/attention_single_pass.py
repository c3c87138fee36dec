r"""The way back of attention in one pass: 5 products of matrices a tile instead of the 7 of two kernels.

    Sᵀ = K Qᵀ,    Pᵀ = exp(scale Sᵀ - L),    dV += Pᵀ dO,    dPᵀ = V dOᵀ,    dSᵀ = Pᵀ (dPᵀ - D),
    dK += scale dSᵀ Q,    dQ += scale dS K

A program owns a block of keys of one key-value head and walks over the queries of all heads that share it. dK and dV
stay in its registers. The matrices are the transposed ones, keys in rows, so that P and dS meet dO and Q as they come
out of the tensor cores. dQ is a sum over programs, kept in fp32 in memory. How it is added up is the variant:

    reduce      whoever is ready adds, atomically. The order, and with it the last bits, differ from run to run. The
                longest programs start first, so that short ones fill the gaps at the end.
    ordered     the programs add in one order, so the bits are the same every time.

**Turns.** Beside each block of queries there is a counter. The last block of keys that it sees adds first, block 0
adds last: each program waits for its turn, adds, and counts. What keeps the waits short and finite:

- *No deadlock.* A program does not take its number from its place in the grid, where nothing promises who starts first,
  but draws a ticket when it starts. Of a head, later blocks have lower tickets, so whoever is waited for has started,
  and waits itself only for lower tickets: the lowest one that is still running never waits.
- *Steps apart.* With a causal mask a program begins at its own diagonal, where nobody is before it, and goes down: all
  heads of a group at one block of queries, then the next block. Programs of a head that start together are BLOCK_N /
  BLOCK_M blocks apart all the way, which is the time that one has to be done before the next one comes. (Longest first
  and upwards, they would all begin with the last block of queries, one waiting for the other. Head by head, a program
  would be done with a head while those before it still are above it, and then wait.) Without a mask all begin at block
  0, and keep the distance that they have once each has waited for its first turn.
- *Sections.* Tickets go through a section of heads block by block, then through the next section. Many heads in a
  section let fewer programs work on the same one; few leave what they read and add to in the L2 cache.

**Memory.** Each thread adds its share of dQ to memory and then 1 to the counter, with release: whoever sees that 1 sees
the share. So the counter goes up by the number of threads each time. Waiting is an acquire. A barrier and one count a
program would do as well, but Triton loads nothing ahead in loops with a barrier.

The first program stores instead of adding, and block 0 adds what is there to its own, rounds, and writes dQ, where that
leaves registers enough (`finishes`); elsewhere the sums begin as zeros, and a small kernel after it rounds them.

At the floor it reads q, k, v, do and writes dq, dk, dv once, and computes 10 T_q T_k D operations a head, half of it if
causal. After FlashAttention-2 and -3 (Dao, 2023, https://arxiv.org/abs/2307.08691; Shah et al., 2024,
https://arxiv.org/abs/2407.08608).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import library
from .attention_schedule import L2_BYTES
from .attention_table import Choice
from .functions import LOG2E


@triton.jit
def single_pass_prepare(L, Delta, Logs, Deltas, T_q, length, BLOCK: tl.constexpr):
    """log-sum-exp in base 2 and -delta, of ``length`` numbers a head in place of T_q. Where a query sees nothing or is
    not there, the logarithm becomes infinite, so that its weights are 0 without a mask."""
    row = tl.program_id(0).to(tl.int64)  # of which there may be more than a grid's second axis can have
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    log_sum = tl.load(L + row * T_q + i, mask=i < T_q, other=float("inf"))
    log_sum = tl.where(log_sum == float("-inf"), float("inf"), log_sum * LOG2E)
    tl.store(Logs + row * length + i, log_sum, mask=i < length)
    delta = tl.load(Delta + row * T_q + i, mask=i < T_q, other=0.0)
    tl.store(Deltas + row * length + i, -delta, mask=i < length)


@triton.jit
def single_pass_finish(Sums, DQ, T_q, H, D: tl.constexpr, BLOCK_M: tl.constexpr):
    """fp32 sums, (B, H, blocks, BLOCK_M, D), to dQ, (B, T_q, H, D)."""
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    m, d = tl.arange(0, BLOCK_M)[:, None], tl.arange(0, D)[None, :]
    sums = tl.load(Sums + ((row * tl.num_programs(1) + block) * BLOCK_M + m) * D + d)
    i = block * BLOCK_M + m
    at = ((row // H * T_q + i) * H + row % H) * D + d
    tl.store(DQ + at, sums.to(DQ.dtype.element_ty), mask=i < T_q)


@triton.jit
def rows_of(X, x_b, x_t, x_h, b, h, start, T, TMA: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr):
    """Rows start, start + 1, ... of one head, (BLOCK, D); 0 from row T on. X is a descriptor if TMA, else a pointer."""
    if TMA:
        return X.load([b, start, h, 0]).reshape(BLOCK, D)
    else:
        t = tl.arange(0, BLOCK)[:, None]
        base = X + tl.cast(b, tl.int64) * x_b + tl.cast(h, tl.int64) * x_h + tl.cast(start, tl.int64) * x_t
        return tl.load(base + (t * x_t + tl.arange(0, D)[None, :]), mask=t < T - start, other=0.0)


@triton.jit
def wait_for(Turn, turn):
    """Until a counter stands at ``turn``. It never goes further without the program that waits."""
    if turn > 0:
        while tl.atomic_cas(Turn, turn, turn, sem="acquire") != turn:
            pass


@triton.jit
def add_dq(
    dq, Sums, Turn, DQ, tile, b, h, i, n, turn, T_q, H,
    ORDERED: tl.constexpr, FINISHES: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, THREADS: tl.constexpr,
):  # fmt: skip
    """Add one tile's dQ to what other blocks of keys have added; if ORDERED, it is this program's turn."""
    m, d = tl.arange(0, BLOCK_M)[:, None], tl.arange(0, D)[None, :]
    sums = Sums + tile * (BLOCK_M * D) + (m * D + d)
    if not ORDERED:
        tl.atomic_add(sums, dq, sem="relaxed")
    elif not FINISHES:
        tl.atomic_add(sums, dq, sem="relaxed")
        tl.atomic_add(Turn + tl.zeros((THREADS,), tl.int32), 1, sem="release")  # each thread after its own share
    elif n == 0:
        if turn > 0:
            dq += tl.load(sums, volatile=True)  # not to be read ahead of the turn
        first = DQ + ((tl.cast(b, tl.int64) * T_q + i * BLOCK_M) * H + h) * D
        tl.store(first + (m * (H * D) + d), dq.to(DQ.dtype.element_ty), mask=i * BLOCK_M + m < T_q)
    else:
        if turn > 0:
            tl.atomic_add(sums, dq, sem="relaxed")
        else:
            tl.store(sums, dq)
        tl.atomic_add(Turn + tl.zeros((THREADS,), tl.int32), 1, sem="release")


@triton.jit
def walk(
    dk, dv, k, v, begin, end, Q, DO, Logs, Deltas, Sums, Turns, DQ, q_b, q_t, q_h, do_b, do_t, do_h,
    T_q, T_k, H, h_kv, b, n, scale,
    MASKED: tl.constexpr, CAUSAL: tl.constexpr, GROUP: tl.constexpr, ORDERED: tl.constexpr, FINISHES: tl.constexpr,
    TMA: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, THREADS: tl.constexpr,
):  # fmt: skip
    """Steps begin ... end - 1 of the way down the blocks of queries, at each of them all heads of the group.

    Everything that is waited for comes first. A wait is a loop, and across a loop the compiler moves nothing; behind
    it, it places the exponentials among the products dP, and dS among the products dV."""
    blocks = tl.cdiv(T_q, BLOCK_M)
    for step in range(begin, end):
        i = step // GROUP
        h = h_kv * GROUP + step % GROUP
        row = b * H + h
        q = rows_of(Q, q_b, q_t, q_h, b, h, i * BLOCK_M, T_q, TMA, D, BLOCK_M)
        do = rows_of(DO, do_b, do_t, do_h, b, h, i * BLOCK_M, T_q, TMA, D, BLOCK_M)
        log_sum = Logs.load([(row * blocks + i) * BLOCK_M])
        delta = Deltas.load([(row * blocks + i) * BLOCK_M])  # -D
        s = tl.dot(k, tl.trans(q))  # (BLOCK_N, BLOCK_M), and so are p, dp and ds
        dp = tl.dot(v, tl.trans(do))
        p = tl.math.exp2(tl.fma(s, scale * LOG2E, -log_sum[None, :]))
        if MASKED:
            key = n * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
            seen = key < T_k
            if CAUSAL:
                query = i * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
                seen = seen & (key <= query + (T_k - T_q))
            p = tl.where(seen, p, 0.0)
        dv = tl.dot(p.to(do.dtype), do, dv)
        if TMA:
            ds = (p * (dp - (-delta)[None, :])).to(q.dtype)
        else:  # registers are short: a product begins with what is added to it, which needs fewer, but it comes later
            ds = (p * (dp + delta[None, :])).to(q.dtype)
        dk = tl.dot(ds, q, dk)
        tile = tl.cast(row, tl.int64) * blocks + i
        last = tl.cdiv(T_k, BLOCK_N) - 1  # block of keys that these queries see
        if CAUSAL:
            last = tl.minimum(last, (tl.minimum(i * BLOCK_M + BLOCK_M, T_q) - 1 + T_k - T_q) // BLOCK_N)
        if ORDERED:  # asked for here, the answer comes while the tensor cores are busy
            wait_for(Turns + tile, (last - n) * THREADS)
        dq = tl.dot(tl.trans(ds), k) * scale
        add_dq(
            dq, Sums, Turns + tile, DQ, tile, b, h, i, n, last - n, T_q, H, ORDERED, FINISHES, D, BLOCK_M, THREADS
        )  # fmt: skip
    return dk, dv


@triton.jit
def attention_backward_single_pass(
    Q, DO, K, V, Logs, Deltas, Sums, Turns, DQ, DK, DV, q_b, q_t, q_h, do_b, do_t, do_h, k_b, k_t, k_h, v_b, v_t, v_h,
    T_q, T_k, H, H_kv, heads, section, scale,
    CAUSAL: tl.constexpr, GROUP: tl.constexpr, ORDERED: tl.constexpr, FINISHES: tl.constexpr, TMA: tl.constexpr,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, THREADS: tl.constexpr,
):  # fmt: skip
    """dK and dV of one block of keys of one key-value head, and its part of dQ. Q and dO are descriptors of
    (B, T, H, D) if TMA, else pointers; Logs and Deltas are descriptors of what `single_pass_prepare` wrote. ``heads``
    is B H_kv, of which ``section`` come before the next ones. Turns begins with the tickets."""
    if ORDERED:
        ticket = tl.atomic_add(Turns, 1, sem="relaxed")
    else:
        ticket = tl.program_id(0)
    blocks_n = tl.cdiv(T_k, BLOCK_N)
    before = ticket // (blocks_n * section) * section  # heads of earlier sections
    size = tl.minimum(section, heads - before)
    place = ticket - before * blocks_n
    n = place // size
    if ORDERED:
        n = blocks_n - 1 - n
    b = (before + place % size) // H_kv
    h_kv = (before + place % size) % H_kv

    k = rows_of(K, k_b, k_t, k_h, b, h_kv, n * BLOCK_N, T_k, False, D, BLOCK_N)
    v = rows_of(V, v_b, v_t, v_h, b, h_kv, n * BLOCK_N, T_k, False, D, BLOCK_N)
    dk = tl.zeros((BLOCK_N, D), tl.float32)
    dv = tl.zeros((BLOCK_N, D), tl.float32)

    # The first block of queries that sees any of these keys, and the first from which on all see all of them.
    blocks_m = tl.cdiv(T_q, BLOCK_M)
    first = 0
    whole = 0
    if CAUSAL:
        first = tl.maximum(0, n * BLOCK_N - (T_k - T_q)) // BLOCK_M
        whole = tl.minimum(blocks_m, tl.cdiv(tl.maximum(0, n * BLOCK_N + BLOCK_N - 1 - (T_k - T_q)), BLOCK_M))
    if n * BLOCK_N + BLOCK_N > T_k:
        whole = blocks_m
    dk, dv = walk(
        dk, dv, k, v, first * GROUP, whole * GROUP, Q, DO, Logs, Deltas, Sums, Turns + 1, DQ,
        q_b, q_t, q_h, do_b, do_t, do_h,
        T_q, T_k, H, h_kv, b, n, scale, True, CAUSAL, GROUP, ORDERED, FINISHES, TMA, D, BLOCK_M, BLOCK_N, THREADS,
    )  # fmt: skip
    dk, dv = walk(
        dk, dv, k, v, whole * GROUP, blocks_m * GROUP, Q, DO, Logs, Deltas, Sums, Turns + 1, DQ,
        q_b, q_t, q_h, do_b, do_t, do_h,
        T_q, T_k, H, h_kv, b, n, scale, False, CAUSAL, GROUP, ORDERED, FINISHES, TMA, D, BLOCK_M, BLOCK_N, THREADS,
    )  # fmt: skip

    j = n * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    d = tl.arange(0, D)[None, :]
    at = ((tl.cast(b, tl.int64) * T_k + j) * H_kv + h_kv) * D + d
    tl.store(DK + at, (dk * scale).to(DK.dtype.element_ty), mask=j < T_k)
    tl.store(DV + at, dv.to(DV.dtype.element_ty), mask=j < T_k)


CANDIDATES: dict[int, tuple[Choice, ...]] = {
    32: (
        Choice("ordered", 64, 128, 8), Choice("ordered", 64, 64, 4),
        Choice("reduce", 64, 128, 8), Choice("reduce", 64, 64, 4),
    ),
    64: (
        Choice("ordered", 64, 128, 8), Choice("ordered", 64, 64, 4),
        Choice("reduce", 64, 128, 8), Choice("reduce", 64, 64, 4),
    ),
    128: (
        Choice("ordered", 64, 128, 8), Choice("ordered", 64, 64, 8), Choice("ordered", 32, 128, 8),
        Choice("reduce", 64, 64, 8), Choice("reduce", 32, 128, 8),
    ),
}  # fmt: skip
"""head_dim → what is worth timing: on sm_90 all of it compiles without a spill in Triton 3.6, some of it with 255
registers: the slightest change of the kernel can undo that, and a test compiles it."""

PREPARED = 256
"""numbers a program of `single_pass_prepare`"""


def refusal(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """Why these kernels do not take this call, or None if they do. Masks other than the causal one are not theirs."""
    D = q.shape[-1]
    if q.dtype not in (torch.float16, torch.bfloat16):
        return f"the single-pass kernels take fp16 and bf16, not {str(q.dtype).removeprefix('torch.')}"
    if D not in CANDIDATES:
        return f"head_dim is {D}; the single-pass kernels take {', '.join(map(str, CANDIDATES))}"
    if max(t.stride(1) for t in (q, k, v)) >= 1 << 24:
        return "tokens are so far apart that a block of them is more than 32 bits can count"
    return library.tensors_refused(q, k, v)


def finishes(choice: Choice, D: int) -> bool:
    """Whether the last program that adds to a block of queries also rounds it. At head_dim 128 dK and dV leave no
    registers for that."""
    return choice.variant == "ordered" and D <= 64


def uses_tma(choice: Choice, D: int) -> bool:
    """Whether Q and dO come by the tensor memory accelerator, and dP is computed beside the exponentials. The largest
    tile at head_dim 128 spills with either: there plain loads need fewer registers, and products that begin with -D."""
    return not (D == 128 and choice.block_n == 128 and choice.block_m == 64)


def section_of(heads: int, group: int, T_q: int, D: int) -> int:
    """How many key-value heads come before the next ones: as many as the L2 cache has room for, of q, do and sums."""
    return max(1, min(heads, L2_BYTES // max(1, group * T_q * D * (2 + 2 + 4))))


def _described(t: Tensor) -> Tensor:
    """The tensor, or a copy that a descriptor can be made of."""
    return t if library.descriptor_refused(t) is None else t.clone(memory_format=torch.contiguous_format)


def backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor, scale: float, causal: bool, choice: Choice
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of attention.

    Args:
        do: (B, T_q, H, D), of the output.
        q: (B, T_q, H, D), fp16 or bf16, channels side by side, other strides as they like.
        k, v: (B, T_k, H_kv, D), where H is a multiple of H_kv.
        lse: (B, H, T_q) in fp32, log sum_j exp(score of key j); -inf of a query that sees no key.
        delta: (B, H, T_q) in fp32, the sum over channels of do times the output.
        scale: of the scores.
        causal: query i sees keys 0 ... i + T_k - T_q.
        choice: variant "ordered", the same bits every time, or "reduce".

    Returns:
        dq, dk, dv: contiguous, in the dtype of q.
    """
    (B, T_q, H, D), (T_k, H_kv) = q.shape, k.shape[1:3]
    if not q.numel() or not k.numel():
        return torch.zeros_like(q).contiguous(), torch.zeros_like(k).contiguous(), torch.zeros_like(v).contiguous()
    ordered, finished, tma = choice.variant == "ordered", finishes(choice, D), uses_tma(choice, D)
    block_m, block_n = choice.block_m, choice.block_n
    blocks, group, heads = library.cdiv(T_q, block_m), H // H_kv, B * H_kv
    if tma:
        q, do = _described(q), _described(do)
    do = do if do.stride(-1) == 1 else do.contiguous()

    fp32 = {"dtype": torch.float32, "device": q.device}
    logs, deltas = (torch.empty(B * H * blocks * block_m, **fp32) for _ in range(2))
    library.launch(
        single_pass_prepare, (B * H, library.cdiv(blocks * block_m, PREPARED)),
        lse, delta, logs, deltas, T_q, blocks * block_m, BLOCK=PREPARED,
    )  # fmt: skip
    # Blocks of queries that see no key are nobody's turn: their sums, or their part of dq, stay 0.
    unseen = causal and T_q - T_k >= block_m
    dq = q.new_zeros(q.shape) if finished and unseen else q.new_empty(q.shape)
    sums = (torch.empty if finished else torch.zeros)(B * H * blocks * block_m * D, **fp32)
    turns = torch.zeros(1 + B * H * blocks, dtype=torch.int32, device=q.device)
    dk, dv = k.new_empty(k.shape), v.new_empty(v.shape)

    def loaded(t: Tensor) -> Any:
        return library.descriptor(t, (1, block_m, 1, D)) if tma else t

    strides = [stride for t in (q, do, k, v) for stride in t.stride()[:3]]
    library.launch(
        attention_backward_single_pass, (library.cdiv(T_k, block_n) * heads,),
        loaded(q), loaded(do), k, v, library.descriptor(logs, (block_m,)), library.descriptor(deltas, (block_m,)),
        sums, turns, dq, dk, dv, *strides, T_q, T_k, H, H_kv, heads, section_of(heads, group, T_q, D), scale,
        CAUSAL=causal, GROUP=group, ORDERED=ordered, FINISHES=finished, TMA=tma, D=D,
        BLOCK_M=block_m, BLOCK_N=block_n, THREADS=32 * choice.warps, num_warps=choice.warps, num_stages=choice.stages,
    )  # fmt: skip
    if not finished:
        library.launch(single_pass_finish, (B * H, blocks), sums, dq, T_q, H, D=D, BLOCK_M=block_m)
    return dq, dk, dv
