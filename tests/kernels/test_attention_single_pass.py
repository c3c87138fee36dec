"""Attention's backward in one pass: gradients, the order in which dQ is added up, and what compilers make of it."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hornbook import native
from hornbook.kernels import attention_single_pass as single_pass
from hornbook.kernels import interpreter, library
from hornbook.kernels.attention_table import Choice
from hornbook.reference.attention import attention as reference
from torch import Tensor

from . import harness
from .operations.attention import heads
from .schedule import Plan, run_at_random

DEVICE = "cpu" if interpreter.is_on() else "cuda"
needs_a_device = pytest.mark.skipif(
    not interpreter.is_on() and not torch.cuda.is_available(), reason="needs a GPU, or the interpreter"
)
KERNEL = "attention_backward_single_pass"
ORDERED = Choice("ordered", 64, 128, 8)
SMALL = Choice("ordered", 64, 64, 4)
REDUCE = Choice("reduce", 64, 128, 8)


class SinglePass(torch.autograd.Function):
    """Attention whose way forth is the reference, rounded once, and whose way back is the kernel."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float, choice: Choice) -> Tensor:
        wide = (t.detach().double() for t in (q, k, v))
        o, lse = reference(*wide, causal=causal, scale=scale, return_lse=True)
        ctx.save_for_backward(q, k, v, o.to(q.dtype), lse.float())
        ctx.options = scale, causal, choice
        return o.to(q.dtype)

    @staticmethod
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, o, lse = ctx.saved_tensors
        delta = (do.float() * o.float()).sum(-1).transpose(1, 2).contiguous()
        return *single_pass.backward(do, q, k, v, lse, delta, *ctx.options), None, None, None


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, choice: Choice, causal: bool = True, scale: float | None = None
) -> Tensor:
    return SinglePass.apply(q, k, v, causal, 1 / math.sqrt(q.shape[-1]) if scale is None else scale, choice)


def operation(choice: Choice) -> harness.Operation:
    typical = heads(2, 70, 100, 2, 1, 32)
    return harness.Operation(
        f"single pass, {choice.variant}", partial(attention, choice=choice), reference, native.attention,
        (), (KERNEL,), [], [], typical,
    )  # fmt: skip


LENGTHS = [heads(1, T, T, 2, 1, 64, causal=causal) for T in (1, 2, 63, 64, 65, 127, 200) for causal in (True, False)]
CASES = [
    *LENGTHS,
    heads(2, 65, 65, 3, 3, 64),
    heads(1, 130, 130, 8, 1, 32),
    heads(1, 65, 200, 2, 2, 64),
    heads(1, 200, 65, 2, 1, 64),  # queries that see nothing, a block of them
    heads(1, 70, 33, 1, 1, 128),
    heads(2, 33, 170, 2, 1, 128, causal=False, scale=0.3),
    heads(1, 129, 129, 1, 1, 128),
    heads(1, 40, 70, 1, 1, 64, scale=-1.5),
]


@needs_a_device
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("variant", ["ordered", "reduce"])
def test_gradients(variant: str, case: harness.Case) -> None:
    choice = next(c for c in single_pass.CANDIDATES[case.shapes["q"][-1]] if c.variant == variant)
    harness.check_accuracy(operation(choice), case, torch.bfloat16, DEVICE)


@needs_a_device
@pytest.mark.parametrize("D", list(single_pass.CANDIDATES))
def test_gradients_of_every_candidate(D: int) -> None:
    for choice in single_pass.CANDIDATES[D]:
        harness.check_accuracy(operation(choice), heads(1, 140, 150, 2, 1, D), torch.float16, DEVICE)


@needs_a_device
@pytest.mark.parametrize("choice", [ORDERED, SMALL, REDUCE], ids=str)
def test_any_strides(choice: Choice) -> None:
    """Heads before tokens, heads of one wide tensor, bases that no descriptor takes: the same bits."""
    q, k, v, do, lse, delta = arguments(1, 70, 100, 2, 1, 64)
    want = single_pass.backward(do, q, k, v, lse, delta, 0.2, True, choice)

    def turned(t: Tensor) -> Tensor:
        return t.transpose(1, 2).contiguous().transpose(1, 2)

    def part(t: Tensor) -> Tensor:
        wide = t.new_full((*t.shape[:2], 3, t.shape[2], t.shape[3]), math.nan)
        wide[:, :, 1] = t
        return wide[:, :, 1]

    def shifted(t: Tensor) -> Tensor:
        wide = t.new_full((t.numel() + 1,), math.nan)
        wide[1:] = t.flatten()
        return wide[1:].view(t.shape)

    for change in (turned, part, shifted):
        with harness.within_bounds():
            got = single_pass.backward(*map(change, (do, q, k, v)), lse, delta, 0.2, True, choice)
        for mine, direct in zip(got, want, strict=True):
            assert mine.is_contiguous()
            assert torch.equal(mine, direct), change.__name__


@needs_a_device
def test_empty() -> None:
    for B, T_q, T_k, H in ((0, 5, 5, 2), (1, 0, 5, 2), (1, 5, 0, 2), (1, 5, 5, 0)):
        q, k, v, do, lse, delta = arguments(B, T_q, T_k, H, min(H, 1), 64) if T_k else empty_arguments(B, T_q, H)
        for t, grad in zip((q, k, v), single_pass.backward(do, q, k, v, lse, delta, 1.0, True, ORDERED), strict=True):
            assert grad.shape == t.shape
            assert not grad.any()


def test_refusals() -> None:
    for D, dtype, part in ((64, torch.float32, "fp16"), (80, torch.bfloat16, "head_dim is 80")):
        t = torch.empty(1, 2, 1, D, dtype=dtype)
        assert part in (single_pass.refusal(t, t, t) or "")
    t = torch.empty(1, 2, 1, 64, dtype=torch.bfloat16)
    assert single_pass.refusal(t, t, t) is None
    assert "fp64" in (single_pass.refusal(t, t.double(), t) or "") or "float64" in (
        single_pass.refusal(t, t.double(), t) or ""
    )


def empty_arguments(B: int, T_q: int, H: int) -> tuple[Tensor, ...]:
    q, k = torch.zeros(B, T_q, H, 64, dtype=torch.bfloat16), torch.zeros(B, 0, 1, 64, dtype=torch.bfloat16)
    rows = torch.zeros(B, H, T_q)
    return tuple(t.to(DEVICE) for t in (q, k, k, q, rows - math.inf, rows))


def arguments(B: int, T_q: int, T_k: int, H: int, H_kv: int, D: int, causal: bool = True) -> tuple[Tensor, ...]:
    """q, k, v, do, lse, delta; the last two as a forward with a scale of 0.2 makes them."""
    made = harness.make(heads(B, T_q, T_k, H, H_kv, D), torch.bfloat16, "cpu", seed=0)
    q, k, v = (t.detach() for t in made.values() if t is not None)
    do = torch.randn(q.shape, generator=torch.Generator().manual_seed(1)).to(q.dtype)
    if not H:
        return tuple(t.to(DEVICE) for t in (q, k, v, do, torch.zeros(B, H, T_q), torch.zeros(B, H, T_q)))
    o, lse = reference(q.float(), k.float(), v.float(), causal=causal, scale=0.2, return_lse=True)
    delta = (do.float() * o).sum(-1).transpose(1, 2).contiguous()
    return tuple(t.to(DEVICE) for t in (q, k, v, do, lse, delta))


@needs_a_device
@pytest.mark.parametrize("choice", [ORDERED, SMALL], ids=str)
def test_the_same_bits_every_time(choice: Choice) -> None:
    q, k, v, do, lse, delta = arguments(1, 40, 140, 1, 1, 32)
    first = single_pass.backward(do, q, k, v, lse, delta, 0.2, True, choice)
    for _ in range(49):
        for mine, before in zip(single_pass.backward(do, q, k, v, lse, delta, 0.2, True, choice), first, strict=True):
            assert torch.equal(mine, before)


@pytest.mark.gpu
@pytest.mark.parametrize("choice", [c for c in single_pass.CANDIDATES[128] if c.variant == "ordered"], ids=str)
@pytest.mark.parametrize("causal", [True, False])
def test_the_same_bits_every_time_beside_other_work(choice: Choice, causal: bool) -> None:
    q, k, v, do, lse, delta = arguments(2, 2048, 2048, 8, 2, 128, causal)
    first = single_pass.backward(do, q, k, v, lse, delta, 0.2, causal, choice)
    other, noise = torch.cuda.Stream(), torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    for _ in range(50):
        with torch.cuda.stream(other):  # takes multiprocessors away, a different part of them every time
            for _ in range(random.Random(0).randrange(1, 4)):
                noise = (noise @ noise).clamp(-1, 1)
        for mine, before in zip(single_pass.backward(do, q, k, v, lse, delta, 0.2, causal, choice), first, strict=True):
            assert torch.equal(mine, before)


# The schedule: `schedule.Plan` says who adds to which block of queries when, in plain Python.


@contextmanager
def adding() -> Iterator[list[tuple[int, int]]]:
    """Notes what the interpreter's programs wait for and count: (place of the counter, its value before)."""
    from triton.runtime.interpreter import InterpreterBuilder as Builder

    seen: list[tuple[int, int]] = []
    counters: list[Tensor] = []
    launch, rmw = library.launch, Builder.create_atomic_rmw

    def noting(kernel: Any, grid: Any, *args: Any, **options: Any) -> None:
        counters[:] = [t for t in args if isinstance(t, Tensor) and t.dtype == torch.int32]
        launch(kernel, grid, *args, **options)

    def noted(self: Any, op: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        before = rmw(self, op, pointers, value, mask, *rest)
        places = np.unique(np.asarray(pointers.data).astype(np.int64))
        if counters and counters[0].data_ptr() < places[0] < counters[0].data_ptr() + 4 * counters[0].numel():
            assert len(places) == 1
            seen.append(((int(places[0]) - counters[0].data_ptr()) // 4 - 1, int(np.asarray(before.data).min())))
        return before

    library.launch, Builder.create_atomic_rmw = noting, noted
    try:
        yield seen
    finally:
        library.launch, Builder.create_atomic_rmw = launch, rmw


@pytest.mark.skipif(not interpreter.is_on(), reason="looks into the interpreter")
@pytest.mark.parametrize(("T_q", "T_k"), [(200, 200), (100, 200), (200, 100)])
@pytest.mark.parametrize("causal", [True, False])
def test_the_kernel_follows_the_plan(T_q: int, T_k: int, causal: bool) -> None:
    """Tile by tile, every program in its order, each at its turn; block 0, which is last, only reads the counter."""
    q, k, v, do, lse, delta = arguments(2, T_q, T_k, 4, 2, 32, causal)
    choice = Choice("ordered", 64, 64, 4)
    with adding() as seen:
        single_pass.backward(do, q, k, v, lse, delta, 0.2, causal, choice)
    plan = Plan(T_q, T_k, 64, 64, 2, 4, single_pass.section_of(4, 2, T_q, 64), causal)
    last = [plan.last(i) for i in range(plan.blocks_m)]
    want = [(tile, 128 * turn) for steps in plan.programs() for tile, turn in steps if turn < last[tile % len(last)]]
    assert seen == want


SHAPES = [
    (blocks * 64 - cut, other * 128 - cut, group, causal)
    for blocks in (1, 2, 3, 8, 25, 40)
    for other in (1, 2, 7, 20)
    for cut in (0, 50)
    for group in (1, 3)
    for causal in (True, False)
]


def test_no_program_waits_for_a_later_one() -> None:
    """Every turn before a program's own is taken by one of a lower ticket, so the order of tickets is enough."""
    for T_q, T_k, group, causal in SHAPES:
        taken: dict[int, int] = defaultdict(int)
        for steps in Plan(T_q, T_k, 64, 128, group, 3, 2, causal).programs():
            for tile, turn in steps:
                assert taken[tile] == turn, (T_q, T_k, group, causal)
                taken[tile] += 1


def test_any_interleaving_ends_and_adds_in_one_order() -> None:
    dice = random.Random(0)
    for T_q, T_k, group, causal in SHAPES[::5]:
        plan = Plan(T_q, T_k, 64, 128, group, 2, 1, causal)
        orders = {run_at_random(plan.programs(), dice.randrange(1, 9), dice) for _ in range(3)}
        assert len(orders) == 1


def test_a_wrong_order_is_noticed() -> None:
    """Programs that start the other way round, with fewer places than programs, wait forever; without waiting the order
    changes."""
    plan, dice = Plan(512, 512, 64, 128, 1, 1, 1, True), random.Random(0)
    with pytest.raises(RuntimeError, match="wait for each other"):
        run_at_random(plan.programs()[::-1], 2, dice)
    unordered = [[(tile, 0) for tile, _ in steps] for steps in plan.programs()]
    assert len({run_at_random(unordered, 4, dice, waits=False) for _ in range(20)}) > 1


def test_every_tile_that_is_seen_is_finished_by_block_0() -> None:
    for T_q, T_k, group, causal in SHAPES:
        plan = Plan(T_q, T_k, 64, 128, group, 2, 1, causal)
        adders: dict[int, int] = defaultdict(int)
        for steps in plan.programs():
            for tile, _ in steps:
                adders[tile] += 1
        for tile, number in adders.items():
            assert number == plan.last(tile % plan.blocks_m) + 1
        unseen = max(0, (T_q - T_k) // 64) if causal else 0
        assert len(adders) == (plan.blocks_m - unseen) * group * plan.heads


COMPILE = """
import json, sys, torch, triton
from hornbook.benchmarks import aot
from hornbook.kernels import attention_single_pass as single_pass, library
for D, choices in single_pass.CANDIDATES.items():
    for choice in choices:
        for causal, group, dtype in ((True, 1, torch.bfloat16), (False, 1, torch.bfloat16), (True, 4, torch.float16)):
            q, k = (torch.empty(2, 256, H, D, dtype=dtype) for H in (2 * group, 2))
            rows = torch.empty(2, 2 * group, 256)
            with library.recording() as launches:
                single_pass.backward(q, q, k, k, rows, rows, 1.0, causal, choice)
            for launch in launches:
                built = aot.build(launch, 90)
                row = aot.inside(built.asm["ptx"], built.asm["cubin"]) | {"shared": built.metadata.shared}
                row |= {"ptx": built.asm["ptx"]} if choice.variant == "ordered" and causal else {}
                row |= {"kernel": launch.kernel.fn.__name__, "group": group, "triton": triton.__version__}
                print(json.dumps(row | {"D": D, "choice": choice, "causal": causal}), flush=True)
"""


@pytest.mark.slow
def test_compiled_for_sm_90() -> None:
    environment = {name: value for name, value in os.environ.items() if name != interpreter.VARIABLE}
    found = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert len([r for r in rows if r["kernel"] == KERNEL]) == 3 * sum(map(len, single_pass.CANDIDATES.values()))
    for row in rows:
        name = [row[column] for column in ("kernel", "D", "choice", "causal", "group")]
        assert row["shared"] <= 232_448, name
        if row["triton"].startswith("3.6"):  # of the GPU's machine; a later assembler may choose otherwise
            assert not row["spilled"], (name, row["spilled"])
        if row["kernel"] == KERNEL:
            assert row["wgmma"], name
            assert "cp.async.bulk.tensor" in row.get("ptx", "cp.async.bulk.tensor"), name
        if row["kernel"] == KERNEL and "ptx" in row:
            # Counted by every thread, after its own share: nothing to do with the number of a thread.
            counts = [line for line in row["ptx"].splitlines() if "release" in line and "add.u32" in line]
            assert counts, name
            for line in counts:
                guard = line.split()[0]
                assert not guard.startswith("@") or f"mov.pred \t{guard[1:]}, -1" in row["ptx"], (name, line)
            assert "acquire" in row["ptx"], name
