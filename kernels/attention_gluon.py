r"""Attention forward for sm_90 in Gluon, Triton's language one step nearer to the machine: who copies, who computes,
and what waits for what is written down here, and not found by a compiler.

One warp is the producer: it asks the hardware to copy tiles of keys and values into rings of buffers (TMA). Two or
three groups of four warps are the consumers, of 64 queries each; their registers (setmaxnreg) are those that the
producer does not need. A consumer's round for tile j (Shah et al., 2024, https://arxiv.org/abs/2407.08608):

    gluon                                     gluon_together
    issue   s_j = q k_jᵀ, and wait for it     issue   s_j = q k_jᵀ
    issue   acc += p_{j-1} v_{j-1}            issue   acc += p_{j-1} v_{j-1}
    p_j     softmax step of s_j               wait    for s_j
    wait    for acc                           p_j     softmax step of s_j
            acc *= exp2(m_{j-1} - m_j)        wait    for acc;  acc *= exp2(m_{j-1} - m_j)

The second, FlashAttention-3's, keeps the tensor cores' queue full; but the assembler, which is free to, moves its last
wait before the softmax. In the first it leaves 70 to 100 % of the exponentials beside the product
(benchmarks/NOTES.md), and while one consumer waits for its scores the other multiplies.

Tiles come from the diagonal backwards, so that those to be masked are first, and the rest is one loop without masks.

**Barriers.** For keys and for values each buffer has two: "full", which a copy's last byte completes, and "empty",
which each consumer completes a share of when its product has read the buffer. They count rounds, see
`attention_schedule.ring`. The producer asks for k_{j+1} before v_j, as the consumers do. Each consumer's queries have a
barrier of their own, used once; when all products are done the same memory takes the output on its way out.

Gluon is not interpreted, so tests run this file's functions as Python, with the hardware played by threads
(tests/kernels/test_attention_variants.py).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from . import attention_schedule, interpreter, library
from .attention_table import Choice

try:
    from triton.experimental import gluon
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.language.nvidia.hopper import (
        fence_async_shared,
        mbarrier,
        tma,
        warpgroup_mma,
        warpgroup_mma_wait,
    )

    # Triton 3.9 calls them by new names, and keeps the old load's name for an error.
    copy_in = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
    copy_out = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global
    MISSING = None
except (ImportError, AttributeError) as error:  # Gluon is experimental: another version may lack a part of it
    MISSING = str(error)

if MISSING is None:
    place = gluon.jit(attention_schedule.place)
    tiles = gluon.jit(attention_schedule.tiles)
    ring = gluon.jit(attention_schedule.ring)

    @gluon.jit
    def weigh(qk, m, l, c, SAFE: gl.constexpr):
        """A step of the softmax: weights of a tile of scores, the new maximum and sum, and what the old sum shrinks by.

        SAFE: a query may have seen nothing yet; then its maximum is -inf, and -inf - (-inf) no number."""
        m_new = gl.maximum(m, gl.max(qk, axis=1) * c)
        base = m_new
        if SAFE:
            base = gl.where(m_new == float("-inf"), 0.0, m_new)
        p = gl.exp2(qk * c - base[:, None])
        alpha = gl.exp2(m - base)
        return p, m_new, l * alpha + gl.sum(p, axis=1), alpha

    @gluon.jit
    def masked(qk, t, last, BLOCK_N: gl.constexpr, SCORES: gl.constexpr):
        """Scores of tile ``t`` of the keys, of those only that each query is shown: up to ``last``, (64,)."""
        j = t * BLOCK_N + gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, SCORES))
        return gl.where(j[None, :] <= last[:, None], qk, float("-inf"))

    @gluon.jit
    def rounds(acc, m, l, p, q, Ks, Vs, k_full, k_empty, v_full, v_empty, begin, end, n, last, c,
               BLOCK_N: gl.constexpr, STAGES: gl.constexpr, SCORES: gl.constexpr, OUTPUT: gl.constexpr,
               MASKED: gl.constexpr, TOGETHER: gl.constexpr):  # fmt: skip
        """A consumer's rounds begin ... end - 1 of n; round j is for tile n - 1 - j."""
        OPERAND: gl.constexpr = gl.DotOperandLayout(0, OUTPUT, 2)
        for j in range(begin, end):
            s, phase = ring(j, STAGES)
            mbarrier.wait(k_full.index(s), phase)
            zero = gl.zeros([64, BLOCK_N], gl.float32, layout=SCORES)
            qk_issued = warpgroup_mma(q, Ks.index(s).permute((1, 0)), zero, use_acc=False, is_async=True)
            if not TOGETHER:
                qk = warpgroup_mma_wait(0, deps=[qk_issued])
                mbarrier.arrive(k_empty.index(s))
            s_before, phase_before = ring(j - 1, STAGES)
            mbarrier.wait(v_full.index(s_before), phase_before)
            acc_issued = warpgroup_mma(p, Vs.index(s_before), acc, is_async=True)
            if TOGETHER:
                qk = warpgroup_mma_wait(1, deps=[qk_issued])
                mbarrier.arrive(k_empty.index(s))
            if MASKED:
                qk = masked(qk, n - 1 - j, last, BLOCK_N, SCORES)
            weights, m, l, alpha = weigh(qk, m, l, c, MASKED)
            acc = warpgroup_mma_wait(0, deps=[acc_issued])
            mbarrier.arrive(v_empty.index(s_before))
            acc = acc * gl.convert_layout(alpha, gl.SliceLayout(1, OUTPUT))[:, None]
            p = gl.convert_layout(weights.to(Vs.dtype), OPERAND)
        return acc, m, l, p

    @gluon.jit
    def consume(which: gl.constexpr, Qs, Ks, Vs, q_full, k_full, k_empty, v_full, v_empty, O, L, b, h, head, first, T_q,
                T_k, n, c, CAUSAL: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
                TOGETHER: gl.constexpr):  # fmt: skip
        """64 queries, the ``which``-th of a program whose first is number ``first``, over n tiles of keys."""
        SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
        OUTPUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_D, 16])
        OPERAND: gl.constexpr = gl.DotOperandLayout(0, OUTPUT, 2)
        ROWS: gl.constexpr = gl.SliceLayout(1, SCORES)
        row = first + which * 64
        i = row + gl.arange(0, 64, layout=ROWS)
        last = i * 0 + (T_k - 1)  # the last key that each query sees
        if CAUSAL:
            last = i + (T_k - T_q)
        whole, _ = tiles(row // 64, T_q, T_k, CAUSAL, 64, BLOCK_N)
        edge = max(n - whole, 1)  # that many rounds are masked; the first is, whatever it is

        q = Qs.index(which)
        acc = gl.zeros([64, BLOCK_D], gl.float32, layout=OUTPUT)
        m = gl.full([64], float("-inf"), gl.float32, layout=ROWS)
        l = gl.full([64], 0.0, gl.float32, layout=ROWS)
        mbarrier.wait(q_full.index(which), 0)
        mbarrier.wait(k_full.index(0), 0)
        zero = gl.zeros([64, BLOCK_N], gl.float32, layout=SCORES)
        qk_issued = warpgroup_mma(q, Ks.index(0).permute((1, 0)), zero, use_acc=False, is_async=True)
        qk = warpgroup_mma_wait(0, deps=[qk_issued])
        mbarrier.arrive(k_empty.index(0))
        weights, m, l, _ = weigh(masked(qk, n - 1, last, BLOCK_N, SCORES), m, l, c, True)
        p = gl.convert_layout(weights.to(Vs.dtype), OPERAND)

        acc, m, l, p = rounds(acc, m, l, p, q, Ks, Vs, k_full, k_empty, v_full, v_empty, 1, edge, n, last, c,
                              BLOCK_N, STAGES, SCORES, OUTPUT, True, TOGETHER)  # fmt: skip
        acc, m, l, p = rounds(acc, m, l, p, q, Ks, Vs, k_full, k_empty, v_full, v_empty, edge, n, n, last, c,
                              BLOCK_N, STAGES, SCORES, OUTPUT, False, TOGETHER)  # fmt: skip

        s, phase = ring(n - 1, STAGES)
        mbarrier.wait(v_full.index(s), phase)
        acc_issued = warpgroup_mma(p, Vs.index(s), acc, is_async=True)
        acc = warpgroup_mma_wait(0, deps=[acc_issued])
        l = gl.where(l == 0.0, 1.0, l)  # a query that sees nothing gets 0
        gl.store(L + head.to(gl.int64) * T_q + i, (m + gl.log2(l)) * 0.6931471805599453, mask=i < T_q)
        o = acc / gl.convert_layout(l, gl.SliceLayout(1, OUTPUT))[:, None]
        q.store(o.to(Qs.dtype))
        fence_async_shared()  # the copy sees what the warps wrote
        copy_out(O, [b, h, row, 0], q)
        tma.store_wait(0)

    @gluon.jit
    def produce(Qs, Ks, Vs, q_full, k_full, k_empty, v_full, v_empty, Q, K, V, b, h, h_kv, first, n,
                BLOCK_D: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
                CONSUMERS: gl.constexpr):  # fmt: skip
        """Copies of the queries, and of tiles n - 1 ... 0 of keys and values."""
        for which in gl.static_range(CONSUMERS):
            mbarrier.expect(q_full.index(which), 64 * BLOCK_D * 2)
            copy_in(Q, [b, h, first + which * 64, 0], q_full.index(which), Qs.index(which))
        for j in range(n + 1):
            if j < n:
                s, phase = ring(j, STAGES)
                mbarrier.wait(k_empty.index(s), phase ^ 1)
                mbarrier.expect(k_full.index(s), BLOCK_N * BLOCK_D * 2)
                copy_in(K, [b, h_kv, (n - 1 - j) * BLOCK_N, 0], k_full.index(s), Ks.index(s))
            if j > 0:
                s_before, phase_before = ring(j - 1, STAGES)
                mbarrier.wait(v_empty.index(s_before), phase_before ^ 1)
                mbarrier.expect(v_full.index(s_before), BLOCK_N * BLOCK_D * 2)
                copy_in(V, [b, h_kv, (n - j) * BLOCK_N, 0], v_full.index(s_before), Vs.index(s_before))

    @gluon.jit
    def attention_forward_gluon(
        Q, K, V, O, L, T_q, T_k, H, H_kv, heads, together, c,
        CAUSAL: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
        TOGETHER: gl.constexpr, CONSUMERS: gl.constexpr, CONSUMER_REGISTERS: gl.constexpr,
        PRODUCER_REGISTERS: gl.constexpr,
    ):  # fmt: skip
        """64 queries of one head a consumer. Q and O describe (B, H, T_q, D), K and V (B, H_kv, T_k, D); heads is B H,
        c is scale / ln 2."""
        BLOCK_M: gl.constexpr = 64 * CONSUMERS
        block, head = place(gl.program_id(0), gl.cdiv(T_q, BLOCK_M), heads, together, CAUSAL)
        _, n = tiles(block, T_q, T_k, CAUSAL, BLOCK_M, BLOCK_N)
        b = head // H
        h = head % H
        h_kv = h // (H // H_kv)
        first = block * BLOCK_M

        TILE: gl.constexpr = gl.NVMMASharedLayout(128, 16, rank=2)
        Qs = gl.allocate_shared_memory(Q.dtype, [CONSUMERS, 64, BLOCK_D], TILE)
        Ks = gl.allocate_shared_memory(K.dtype, [STAGES, BLOCK_N, BLOCK_D], TILE)
        Vs = gl.allocate_shared_memory(V.dtype, [STAGES, BLOCK_N, BLOCK_D], TILE)
        BARRIER: gl.constexpr = mbarrier.MBarrierLayout()
        q_full = gl.allocate_shared_memory(gl.int64, [CONSUMERS, 1], BARRIER)
        k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
        k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
        v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
        v_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
        for which in gl.static_range(CONSUMERS):
            mbarrier.init(q_full.index(which), count=1)
        for s in gl.static_range(STAGES):
            mbarrier.init(k_full.index(s), count=1)
            mbarrier.init(v_full.index(s), count=1)
            mbarrier.init(k_empty.index(s), count=CONSUMERS)
            mbarrier.init(v_empty.index(s), count=CONSUMERS)
        fence_async_shared()  # copies see barriers that are made

        if CONSUMERS == 2:
            gl.warp_specialize(
                [
                    (consume, (0, Qs, Ks, Vs, q_full, k_full, k_empty, v_full, v_empty, O, L, b, h, head, first, T_q,
                               T_k, n, c, CAUSAL, BLOCK_D, BLOCK_N, STAGES, TOGETHER)),
                    (consume, (1, Qs, Ks, Vs, q_full, k_full, k_empty, v_full, v_empty, O, L, b, h, head, first, T_q,
                               T_k, n, c, CAUSAL, BLOCK_D, BLOCK_N, STAGES, TOGETHER)),
                    (produce, (Qs, Ks, Vs, q_full, k_full, k_empty, v_full, v_empty, Q, K, V, b, h, h_kv, first, n,
                               BLOCK_D, BLOCK_N, STAGES, CONSUMERS)),
                ],
                [4, 1],
                [CONSUMER_REGISTERS, PRODUCER_REGISTERS],
            )  # fmt: skip
        else:
            gl.warp_specialize(
                [
                    (consume, (0, Qs, Ks, Vs, q_full, k_full, k_empty, v_full, v_empty, O, L, b, h, head, first, T_q,
                               T_k, n, c, CAUSAL, BLOCK_D, BLOCK_N, STAGES, TOGETHER)),
                    (consume, (1, Qs, Ks, Vs, q_full, k_full, k_empty, v_full, v_empty, O, L, b, h, head, first, T_q,
                               T_k, n, c, CAUSAL, BLOCK_D, BLOCK_N, STAGES, TOGETHER)),
                    (consume, (2, Qs, Ks, Vs, q_full, k_full, k_empty, v_full, v_empty, O, L, b, h, head, first, T_q,
                               T_k, n, c, CAUSAL, BLOCK_D, BLOCK_N, STAGES, TOGETHER)),
                    (produce, (Qs, Ks, Vs, q_full, k_full, k_empty, v_full, v_empty, Q, K, V, b, h, h_kv, first, n,
                               BLOCK_D, BLOCK_N, STAGES, CONSUMERS)),
                ],
                [4, 4, 1],
                [CONSUMER_REGISTERS, CONSUMER_REGISTERS, PRODUCER_REGISTERS],
            )  # fmt: skip


VARIANTS = ("gluon", "gluon_together")
REGISTERS = {2: (240, 24), 3: (160, 32)}
"""consumers of a program → registers of a thread of a consumer, and of the producer: together at most 65,536"""

CANDIDATES: dict[int, tuple[Choice, ...]] = {
    64: (
        Choice("gluon", 128, 128, 4, 2), Choice("gluon", 128, 128, 4, 3), Choice("gluon", 192, 128, 4, 2),
        Choice("gluon", 128, 64, 4, 4), Choice("gluon_together", 128, 128, 4, 2),
    ),
    128: (
        Choice("gluon", 128, 128, 4, 2), Choice("gluon", 128, 64, 4, 3), Choice("gluon", 128, 64, 4, 4),
        Choice("gluon_together", 128, 128, 4, 2),
    ),
}  # fmt: skip
"""head_dim → what to time. ``warps`` are those of a consumer, ``block_m`` 64 for each of them."""


def refusal(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """Why the kernel does not take these tensors here, or None if it does."""
    if MISSING is not None:
        return f"this Triton's Gluon is not the one that attention is written in: {MISSING}"
    if not library.is_recording():
        if interpreter.is_on() or q.device.type != "cuda":
            return "a kernel in Gluon runs on a GPU only, never in Triton's interpreter"
        if (capability := torch.cuda.get_device_capability(q.device)) != (9, 0):
            return f"attention in Gluon is written for compute capability 9.0, and this GPU has {capability}"
    if q.dtype not in (torch.float16, torch.bfloat16):
        return f"attention in Gluon takes fp16 and bf16, not {str(q.dtype).removeprefix('torch.')}"
    if q.shape[-1] not in CANDIDATES:
        return f"head_dim is {q.shape[-1]}; attention in Gluon takes {' and '.join(map(str, CANDIDATES))}"
    return library.descriptor_refused(q, k, v)


def forward(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, choice: Choice) -> tuple[Tensor, Tensor]:
    """softmax(q kᵀ · scale) v of every head, and the logarithm of each query's sum of exponentials; as
    `attention_pipelined.forward`, with head_dim 64 or 128.

    Raises:
        UnsupportedError: if `refusal`.
    """
    library.require(refusal(q, k, v))
    (B, T_q, H, D), (T_k, H_kv) = q.shape, k.shape[1:3]
    consumers = choice.block_m // 64
    for_consumers, for_producer = REGISTERS[consumers]
    o, log_sum = q.new_empty(q.shape), q.new_empty(B, H, T_q, dtype=torch.float32)
    layout: Any = gl.NVMMASharedLayout(128, 16, rank=4)
    Q, K, V, O = (
        library.descriptor(t.transpose(1, 2), (1, 1, rows, D), layout)
        for t, rows in ((q, 64), (k, choice.block_n), (v, choice.block_n), (o, 64))
    )
    together = attention_schedule.fit(B * H, H // H_kv, T_k, D, q.element_size())
    library.launch(
        attention_forward_gluon, (library.cdiv(T_q, choice.block_m) * B * H,),
        Q, K, V, O, log_sum, T_q, T_k, H, H_kv, B * H, together, scale * math.log2(math.e),
        CAUSAL=causal, BLOCK_D=D, BLOCK_N=choice.block_n, STAGES=choice.stages,
        TOGETHER=choice.variant == "gluon_together", CONSUMERS=consumers,
        CONSUMER_REGISTERS=for_consumers, PRODUCER_REGISTERS=for_producer, num_warps=choice.warps,
    )  # fmt: skip
    return o, log_sum
