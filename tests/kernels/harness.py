"""What every kernel has to pass. A new one needs an `Operation` in `operations.py`, and no test of its own.

    accuracy        results and every gradient against float64: no more than 1.5 × the error that PyTorch makes in the
                    same number format, plus one unit in the last place of the largest number; memory that a kernel is
                    to fill holds NaN before. The largest of few errors is chance, so a case that is over the limit is
                    drawn again, and has to be within it over all draws together, of at most 8
    repeatable      the same bits twenty times
    strided         inputs with gaps and turned axes give the same bits as tight ones
    empty           no rows, no columns, no tokens
    registered      opcheck of every operator that the call reaches; torch.compile without a break; torch.export; both
                    kinds of activation checkpointing

Each check counts the kernel's launches, so one that compares a reference with itself fails.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils.checkpoint as checkpointing
from hornbook.kernels import library
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
REPEATS = 20
DRAWS = 8


@dataclass(frozen=True)
class Case:
    """One call: shapes of the inputs by name, and options."""

    inputs: dict[str, tuple[int, ...] | None]
    options: dict[str, Any] = field(default_factory=dict)
    gpu_only: bool = False  # too much for the interpreter

    def __str__(self) -> str:
        shapes = [f"{name}{'x'.join(map(str, shape))}" for name, shape in self.inputs.items() if shape is not None]
        return ",".join([*shapes, *(f"{name}={value}" for name, value in self.options.items())])


@dataclass(frozen=True)
class Operation:
    """An operation with its implementations, all of one signature, and what to call them with."""

    name: str
    fused: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    torch: Callable[..., Tensor]
    forward: tuple[str, ...]  # of these kernels one at least is launched forward,
    backward: tuple[str, ...]  # and of these backward
    cases: list[Case]
    empty: list[Case]
    typical: Case  # for the checks that are not about numbers

    def __str__(self) -> str:
        return self.name


@contextmanager
def launching(*kernels: str) -> Iterator[None]:
    """One of the kernels at least must be launched inside."""
    before = {name: library.launches[name] for name in kernels}
    yield
    assert any(library.launches[name] > count for name, count in before.items()), (
        f"none of {', '.join(kernels)} was launched: what was tested is not the kernel"
    )


@contextmanager
def poisoned() -> Iterator[None]:
    """New memory holds NaN."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        assert torch.empty(3).isnan().all(), "this PyTorch does not fill new memory"
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


def make(case: Case, dtype: torch.dtype, device: str, seed: int) -> dict[str, Tensor | None]:
    """Inputs, normally distributed, exact in ``dtype``; scales ("weight") are around 1."""
    random = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor | None] = {}
    for name, shape in case.inputs.items():
        if shape is None:
            made[name] = None
            continue
        values = torch.randn(shape, generator=random, dtype=torch.float64)
        values = 1 + values / 4 if name == "weight" else values
        made[name] = values.to(dtype).to(device).requires_grad_()
    return made


def run(
    function: Callable[..., Tensor], inputs: dict[str, Tensor | None], options: dict[str, Any], seed: int = 0
) -> dict[str, Tensor]:
    """The result as "y" and the gradient of each input as "dNAME", for a random gradient of y."""
    leaves = {name: t for name, t in inputs.items() if t is not None}
    y = function(**inputs, **options)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    dy = dy.bfloat16().to(y.dtype).to(y.device)  # exact in every format, so that all runs have the same one
    gradients = torch.autograd.grad(y, list(leaves.values()), dy) if y.requires_grad else ()
    return {"y": y.detach()} | {f"d{name}": g for name, g in zip(leaves, gradients, strict=True)}


def run_fused(operation: Operation, inputs: dict[str, Tensor | None], options: dict[str, Any]) -> dict[str, Tensor]:
    """`run`, and both ways must launch a kernel."""
    with launching(*operation.forward), launching(*operation.backward):
        return run(operation.fused, inputs, options)


def ulp(dtype: torch.dtype, largest: float) -> float:
    """One unit in the last place of a number as large as ``largest``."""
    info = torch.finfo(dtype)
    return info.eps * max(2.0 ** math.floor(math.log2(largest)), info.tiny) if largest > 0 else info.tiny


def check_accuracy(operation: Operation, case: Case, dtype: torch.dtype, device: str) -> None:
    error, allowed, largest = (defaultdict[str, float](float) for _ in range(3))
    over: dict[str, str] = {}
    for seed in range(DRAWS):
        inputs = make(case, dtype, device, seed)
        wide = {n: None if t is None else t.detach().double().requires_grad_() for n, t in inputs.items()}
        exact = run(operation.reference, wide, case.options)
        peer = run(operation.torch, inputs, case.options)
        with poisoned():
            mine = run_fused(operation, inputs, case.options)
        assert mine.keys() == exact.keys()
        over.clear()
        for name, want in exact.items():
            got = mine[name]
            assert got.dtype == dtype, f"{name} is {got.dtype}"
            assert got.shape == want.shape, f"{name} is {tuple(got.shape)}, not {tuple(want.shape)}"
            assert got.isfinite().all(), f"{name}: {int((~got.isfinite()).sum())} of {got.numel()} are not finite"
            if not want.numel():
                continue
            for worst, t in ((error, got.double() - want), (allowed, peer[name].double() - want), (largest, want)):
                worst[name] = max(worst[name], t.abs().max().item())
            limit = 1.5 * allowed[name] + ulp(dtype, largest[name])
            if error[name] > limit:
                over[name] = f"error {error[name]:.3g}, PyTorch's {allowed[name]:.3g}, so at most {limit:.3g}"
        if not over:
            return
    raise AssertionError(f"over {DRAWS} draws: {over}")


def check_repeatable(operation: Operation, dtype: torch.dtype, device: str) -> None:
    case = operation.typical
    inputs = make(case, dtype, device, seed=1)
    first = run_fused(operation, inputs, case.options)
    for _ in range(REPEATS - 1):
        again = run_fused(operation, inputs, case.options)
        for name, t in first.items():
            assert torch.equal(t, again[name]), f"{name} is not the same bits every time"


def check_strided(operation: Operation, dtype: torch.dtype, device: str) -> None:
    """Every second column of a wider tensor, and a tensor whose first two axes were swapped."""
    case = operation.typical
    tight = make(case, dtype, device, seed=2)

    def gaps(t: Tensor) -> Tensor:
        wide = t.new_full((*t.shape[:-1], 2 * t.shape[-1]), float("nan"))
        wide[..., ::2] = t
        return wide[..., ::2]

    def turned(t: Tensor) -> Tensor:
        return t.transpose(0, 1).contiguous().transpose(0, 1) if t.dim() > 1 else t

    want = run_fused(operation, tight, case.options)
    for change in (gaps, turned):
        inputs = {n: None if t is None else change(t.detach()).requires_grad_() for n, t in tight.items()}
        got = run_fused(operation, inputs, case.options)
        for name, t in want.items():
            assert torch.equal(t, got[name]), f"{name} differs for inputs with {change.__name__}"


def check_empty(operation: Operation, case: Case, dtype: torch.dtype, device: str) -> None:
    inputs = make(case, dtype, device, seed=3)
    got, want = (run(f, inputs, case.options) for f in (operation.fused, operation.reference))
    for name, t in want.items():
        assert got[name].shape == t.shape
        assert got[name].dtype == t.dtype
        assert torch.equal(got[name].nan_to_num(7.0), t.nan_to_num(7.0)), name


class _Calls(TorchDispatchMode):
    """Notes the calls of our operators."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "hornbook":
            self.seen.append((function, args, kwargs or {}))
        return function(*args, **(kwargs or {}))


def check_registered(operation: Operation, dtype: torch.dtype, device: str) -> None:
    """opcheck: schema, fake tensors, autograd's keys, symbolic shapes, of the operators of both ways."""
    case = operation.typical
    calls = _Calls()
    with calls:
        run_fused(operation, make(case, dtype, device, seed=4), case.options)
    assert len(calls.seen) >= 2, "forward and backward are operators each"
    for function, args, kwargs in calls.seen:
        args = tuple(a.detach() if isinstance(a, Tensor) else a for a in args)
        torch.library.opcheck(function, args, kwargs)


def check_compiled(operation: Operation, dtype: torch.dtype, device: str) -> None:
    case = operation.typical
    inputs = make(case, dtype, device, seed=5)
    want = run_fused(operation, inputs, case.options)
    torch._dynamo.reset()
    backend = "inductor" if device == "cuda" else "aot_eager"  # the latter needs no C++ compiler
    compiled = torch.compile(lambda **kw: operation.fused(**kw) + 0, fullgraph=True, backend=backend)
    with launching(*operation.forward), launching(*operation.backward):
        got = run(compiled, inputs, case.options)
    for name, t in want.items():
        assert torch.equal(t, got[name]), f"{name} differs under torch.compile"


def check_exported(operation: Operation, dtype: torch.dtype, device: str) -> None:
    case = operation.typical
    inputs = {n: None if t is None else t.detach() for n, t in make(case, dtype, device, seed=6).items()}

    class Module(torch.nn.Module):
        def forward(self, **tensors: Tensor) -> Tensor:
            return operation.fused(**tensors, **case.options)

    program = torch.export.export(Module(), (), inputs)
    assert f"hornbook.{operation.name}" in str(program.graph), "the operator is a node of the exported graph"
    with launching(*operation.forward):
        got = program.module()(**inputs)
    assert torch.equal(got, operation.fused(**inputs, **case.options))


def check_checkpointed(operation: Operation, dtype: torch.dtype, device: str) -> None:
    """Computed a second time on the way back; and, selectively, the kernel's result kept."""
    case = operation.typical
    inputs = make(case, dtype, device, seed=7)
    want = run_fused(operation, inputs, case.options)
    operator = getattr(torch.ops.hornbook, operation.name).default

    def keep(ctx: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        keeps = function is operator
        return checkpointing.CheckpointPolicy.MUST_SAVE if keeps else checkpointing.CheckpointPolicy.PREFER_RECOMPUTE

    def selectively() -> Any:
        return checkpointing.create_selective_checkpoint_contexts(keep)

    for options, launches in (({}, 2), ({"context_fn": selectively}, 1)):
        before = sum(library.launches[name] for name in operation.forward)

        def function(options: dict[str, Any] = options, **kw: Any) -> Tensor:
            names = list(kw)
            call = lambda *values: operation.fused(**dict(zip(names, values, strict=True)))  # noqa: E731
            return checkpointing.checkpoint(call, *kw.values(), use_reentrant=False, **options)

        got = run(function, inputs, case.options)
        for name, t in want.items():
            assert torch.equal(t, got[name]), f"{name} differs under checkpointing"
        assert sum(library.launches[name] for name in operation.forward) - before == launches
