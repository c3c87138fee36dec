"""What every kernel has to pass. A new one needs an `Operation` in `operations.py`, and no test of its own.

    accuracy        results and every gradient against float64: no more than 1.5 × the error that PyTorch makes in the
                    same number format, plus one unit in the last place of the largest number; memory that a kernel is
                    to fill holds NaN before. The largest of few errors is chance, so a case that is over the limit is
                    drawn again, and has to be within it over all draws together, of at most 8; unless it is 20 times
                    over, which no chance makes good
    bounds          in the interpreter, in all runs of these checks, no load or store may leave the tensors that a
                    kernel was given
    repeatable      the same bits twenty times
    strided         inputs and upstream gradients with gaps, turned axes or one number for all give the same bits as
                    tight ones
    one by one      the gradient of an input is the same bits whether the others want theirs or not
    empty           no rows, no columns, no tokens
    registered      opcheck of every operator that the call reaches; torch.compile without a break; torch.export; both
                    kinds of activation checkpointing

Each check counts the launches of every kernel it is about, so one that compares a reference with itself fails.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.utils.checkpoint as checkpointing
from hornbook.kernels import interpreter, library
from torch import Tensor
from torch import library as operators
from torch.utils._python_dispatch import TorchDispatchMode

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
REPEATS = 20
DRAWS = 8
FAR = 20
WIDTHS = (1, 7, 63, 64, 65, 123, 1000, 4096, 50257, 65537)  # of rows


@dataclass(frozen=True)
class Ids:
    """An input of whole numbers from 0 to ``below`` - 1, of which some are -100, in place of nothing to predict."""

    shape: tuple[int, ...]
    below: int
    ignored: float = 0.0  # the share of them
    ascending: bool = False  # along the last axis


@dataclass(frozen=True)
class Ends:
    """An input that says where parts of ``total`` rows begin: 0, ..., total. Some of the parts are empty."""

    parts: int
    total: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.parts + 1,)


@dataclass(frozen=True)
class Case:
    """One call: shapes of the inputs by name, and options."""

    inputs: dict[str, tuple[int, ...] | Ids | Ends | None]
    options: dict[str, Any] = field(default_factory=dict)
    gpu_only: bool = False  # too much for the interpreter
    times: float = 1.0  # what all inputs are multiplied by,
    plus: float = 0.0  # and what is added to them then
    in_fp32: tuple[str, ...] = ()  # inputs that stay fp32 whatever the others are, as a model's weights do
    fixed: tuple[str, ...] = ()  # inputs that never want a gradient, and are between -1 and 1, as cosines are
    computed: tuple[str, ...] = ()  # inputs that a kernel gets as results, not as leaves: it may write over them
    without: tuple[str, ...] = ()  # kernels that this call does not need

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the inputs that are there."""
        given = {name: what for name, what in self.inputs.items() if what is not None}
        return {name: what.shape if isinstance(what, Ids | Ends) else what for name, what in given.items()}

    def __str__(self) -> str:
        shapes = [f"{name}{'x'.join(map(str, shape))}" for name, shape in self.shapes.items()]
        shapes += [f"times{self.times:g}"] * (self.times != 1) + [f"plus{self.plus:g}"] * (self.plus != 0)
        shapes += [f"{name}-fp32" for name in self.in_fp32]
        return ",".join([*shapes, *(f"{name}={value}" for name, value in self.options.items())])


Results = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Operation:
    """An operation with its implementations, all of one signature, and what to call them with."""

    name: str
    fused: Callable[..., Results]
    reference: Callable[..., Results]
    torch: Callable[..., Results]
    forward: tuple[str, ...]  # these kernels are launched forward; of those with | between, one at least,
    backward: tuple[str, ...]  # and these backward
    cases: list[Case]
    empty: list[Case]
    typical: Case  # for the checks that are not about numbers
    files: tuple[str, ...] = ()  # of kernels/, that it shares with others; each before those that import it

    def __str__(self) -> str:
        return self.name


@contextmanager
def launching(*kernels: str) -> Iterator[None]:
    """All kernels must be launched inside; of those with | between, one at least."""
    before = library.launches.copy()
    yield
    for choice in kernels:
        assert any(library.launches[name] > before[name] for name in choice.split("|")), (
            f"{choice.replace('|', ' or ')} was not launched: what was tested is not the kernel"
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


@contextmanager
def within_bounds() -> Iterator[None]:
    """What a kernel loads and stores must lie in the tensors that it was given. Known in the interpreter only."""
    if not interpreter.is_on():
        yield
        return
    from triton.runtime.interpreter import InterpreterBuilder as Builder

    bounds: list[tuple[int, int]] = []  # of the tensors of the launch that is under way
    launch, load, store = library.launch, Builder.create_masked_load, Builder.create_masked_store

    def noting(kernel: Any, grid: Any, *args: Any, **options: Any) -> None:
        # A descriptor's accesses are cut to the shape it was made with, which has to be that of its tensor.
        bounds[:] = [extent(t) for t in map(library.tensor_of, args) if t is not None and t.numel()]
        launch(kernel, grid, *args, **options)

    def check(what: str, pointers: Any, mask: Any) -> None:
        at = pointers.data[np.asarray(mask.data).astype(bool)].astype(np.int64)
        size = max(1, pointers.dtype.scalar.element_ty.primitive_bitwidth // 8)
        inside = np.zeros(at.shape, bool)
        for start, end in bounds:
            inside |= (at >= start) & (at + size <= end)
        assert inside.all(), f"the kernel {what} {(~inside).sum()} numbers that are in none of its tensors"

    def checked_load(self: Any, pointers: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        check("loads", pointers, mask)
        return load(self, pointers, mask, *rest, **named)

    def checked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        check("stores", pointers, mask)
        return store(self, pointers, value, mask, *rest, **named)

    library.launch, Builder.create_masked_load, Builder.create_masked_store = noting, checked_load, checked_store
    try:
        yield
    finally:
        library.launch, Builder.create_masked_load, Builder.create_masked_store = launch, load, store


def extent(t: Tensor) -> tuple[int, int]:
    """Addresses of the first byte of a tensor and of the one behind the last."""
    numbers = 1 + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    return t.data_ptr(), t.data_ptr() + numbers * t.element_size()


def make(case: Case, dtype: torch.dtype, device: str, seed: int) -> dict[str, Tensor | None]:
    """Inputs, normally distributed, exact in ``dtype``; scales ("weight") are around 1."""
    random = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor | None] = {}
    for name, what in case.inputs.items():
        if what is None:
            made[name] = None
        elif isinstance(what, Ids):
            ids = torch.randint(what.below, what.shape, generator=random)
            ids[torch.rand(what.shape, generator=random) < what.ignored] = -100
            made[name] = (ids.sort(-1).values if what.ascending else ids).to(device)
        elif isinstance(what, Ends):
            inner = torch.randint(what.total + 1, (what.parts - 1,), generator=random).sort().values
            made[name] = torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), what.total)]).to(device)
        else:
            values = torch.randn(what, generator=random, dtype=torch.float64)
            if name in case.fixed:
                values = values.tanh()
            else:
                values = 1 + values / 4 if name == "weight" else values * case.times + case.plus
            t = values.to(torch.float32 if name in case.in_fp32 else dtype).to(device)
            made[name] = t.requires_grad_(name not in case.fixed)
    return made


def again(t: Tensor | None, change: Callable[[Tensor], Tensor] = lambda t: t) -> Tensor | None:
    """A leaf of its own with the same numbers, after a ``change``, that wants a gradient if the first one does."""
    return None if t is None else change(t.detach()).requires_grad_(t.requires_grad)


def as_tuple(y: Results) -> tuple[Tensor, ...]:
    return (y,) if isinstance(y, Tensor) else tuple(y)


def run(
    function: Callable[..., Results],
    inputs: dict[str, Tensor | None],
    options: dict[str, Any],
    change: Callable[[Tensor], Tensor] = lambda dy: dy,
    computed: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """The result as "y" (of several, the others as "y1", "y2", ...) and the gradient of each input that wants one as
    "dNAME", for random gradients of the results, which are given a ``change`` first."""
    leaves = {name: t for name, t in inputs.items() if t is not None and t.requires_grad}
    given = {name: t * 1 if t is not None and name in computed else t for name, t in inputs.items()}
    ys = as_tuple(function(**given, **options))
    dys = []
    for number, y in enumerate(ys):
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
        dy = dy.bfloat16().to(y.dtype).to(y.device)  # exact in every format, so that all runs have the same one
        dys.append(change(dy))
    has_graph = any(y.requires_grad for y in ys)
    gradients = torch.autograd.grad(ys, list(leaves.values()), dys) if has_graph else ()
    named = {"y" if not number else f"y{number}": y.detach() for number, y in enumerate(ys)}
    return named | {f"d{name}": g for name, g in zip(leaves, gradients, strict=has_graph)}


def run_fused(
    operation: Operation, case: Case, inputs: dict[str, Tensor | None], change: Callable[[Tensor], Tensor] = lambda x: x
) -> dict[str, Tensor]:
    """`run`, and the kernels of both ways must be launched, and stay within their tensors."""
    kernels = [k for k in operation.forward + operation.backward if k not in case.without]
    with launching(*kernels), within_bounds():
        return run(operation.fused, inputs, case.options, change, case.computed)


def ulp(dtype: torch.dtype, largest: float) -> float:
    """One unit in the last place of a number as large as ``largest``."""
    info = torch.finfo(dtype)
    return info.eps * max(2.0 ** math.floor(math.log2(largest)), info.tiny) if largest > 0 else info.tiny


def check_accuracy(operation: Operation, case: Case, dtype: torch.dtype, device: str) -> None:
    error, allowed, largest = (defaultdict[str, float](float) for _ in range(3))
    over: dict[str, str] = {}
    for seed in range(DRAWS):
        inputs = make(case, dtype, device, seed)
        wide = {n: again(t, lambda t: t.double() if t.is_floating_point() else t) for n, t in inputs.items()}
        exact = run(operation.reference, wide, case.options)
        peer = run(operation.torch, inputs, case.options)
        with poisoned():
            mine = run_fused(operation, case, inputs)
        assert mine.keys() == exact.keys()
        over.clear()
        for name, want in exact.items():
            got = mine[name]
            assert got.dtype == peer[name].dtype, f"{name} is {got.dtype}"
            assert got.shape == want.shape, f"{name} is {tuple(got.shape)}, not {tuple(want.shape)}"
            assert got.isfinite().all(), f"{name}: {int((~got.isfinite()).sum())} of {got.numel()} are not finite"
            if not want.numel():
                continue
            for worst, t in ((error, got.double() - want), (allowed, peer[name].double() - want), (largest, want)):
                worst[name] = max(worst[name], t.abs().max().item())
            limit = 1.5 * allowed[name] + ulp(got.dtype, largest[name])
            if error[name] > limit:
                over[name] = f"error {error[name]:.3g}, PyTorch's {allowed[name]:.3g}, so at most {limit:.3g}"
                assert error[name] < FAR * limit, f"{name}: {over[name]}"
        if not over:
            return
    raise AssertionError(f"over {DRAWS} draws: {over}")


def check_repeatable(operation: Operation, dtype: torch.dtype, device: str) -> None:
    case = operation.typical
    inputs = make(case, dtype, device, seed=1)
    first = run_fused(operation, case, inputs)
    for _ in range(REPEATS - 1):
        with launching(*operation.forward, *operation.backward):
            repeated = run(operation.fused, inputs, case.options, computed=case.computed)
        for name, t in first.items():
            assert torch.equal(t, repeated[name]), f"{name} is not the same bits every time"


def check_strided(operation: Operation, dtype: torch.dtype, device: str) -> None:
    """Every second column of a wider tensor, a tensor whose first two axes were swapped, and, for gradients only, as a
    sum's backward makes them, one number seen many times."""
    case = operation.typical
    tight = make(case, dtype, device, seed=2)

    def gaps(t: Tensor) -> Tensor:
        if not t.dim():
            return t
        wide = t.new_full((*t.shape[:-1], 2 * t.shape[-1]), float("nan") if t.is_floating_point() else -7)
        wide[..., ::2] = t
        return wide[..., ::2]

    def turned(t: Tensor) -> Tensor:
        return t.transpose(0, 1).contiguous().transpose(0, 1) if t.dim() > 1 else t

    want = run_fused(operation, case, tight)
    for change in (gaps, turned):
        inputs = {n: again(t, change) for n, t in tight.items()}
        for what, got in (
            ("inputs", run_fused(operation, case, inputs)),
            ("an upstream gradient", run_fused(operation, case, tight, change)),
        ):
            for name, t in want.items():
                assert torch.equal(t, got[name]), f"{name} differs for {what} with {change.__name__}"
    ones = run_fused(operation, case, tight, torch.ones_like)
    one = run_fused(operation, case, tight, lambda dy: dy.new_ones(()).expand_as(dy))
    for name, t in ones.items():
        assert torch.equal(t, one[name]), f"{name} differs for an upstream gradient that is one number for all"


def check_one_by_one(operation: Operation, dtype: torch.dtype, device: str) -> None:
    case = operation.typical
    all_of_them = make(case, dtype, device, seed=8)
    want = run_fused(operation, case, all_of_them)
    results = {name for name in want if name.startswith("y")}
    for only in [name for name, t in all_of_them.items() if t is not None and t.requires_grad]:
        inputs = {n: again(t) for n, t in all_of_them.items()}
        for name, t in inputs.items():
            if t is not None and name != only:
                t.requires_grad_(False)
        with launching(*operation.forward):
            got = run(operation.fused, inputs, case.options)
        assert got.keys() == {*results, f"d{only}"}
        for name, t in got.items():
            assert torch.equal(t, want[name]), f"{name} differs if only {only} wants a gradient"


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
        run_fused(operation, case, make(case, dtype, device, seed=4))
    assert len(calls.seen) >= 2, "forward and backward are operators each"
    for function, args, kwargs in calls.seen:
        args = tuple(a.detach() if isinstance(a, Tensor) else a for a in args)
        operators.opcheck(function, args, kwargs)


def check_compiled(operation: Operation, dtype: torch.dtype, device: str) -> None:
    case = operation.typical
    inputs = make(case, dtype, device, seed=5)
    want = run_fused(operation, case, inputs)
    torch._dynamo.reset()
    backend = "inductor" if device == "cuda" else "aot_eager"  # the latter needs no C++ compiler
    compiled = torch.compile(
        lambda **kw: tuple(y + 0 for y in as_tuple(operation.fused(**kw))), fullgraph=True, backend=backend
    )
    with launching(*operation.forward), launching(*operation.backward):
        got = run(compiled, inputs, case.options)
    for name, t in want.items():
        assert torch.equal(t, got[name]), f"{name} differs under torch.compile"


def check_exported(operation: Operation, dtype: torch.dtype, device: str) -> None:
    case = operation.typical
    inputs = {n: None if t is None else t.detach() for n, t in make(case, dtype, device, seed=6).items()}

    class Module(torch.nn.Module):
        def forward(self, **tensors: Tensor) -> Results:
            return operation.fused(**tensors, **case.options)

    program = torch.export.export(Module(), (), inputs)
    assert f"hornbook.{operation.name}" in str(program.graph), "the operator is a node of the exported graph"
    with launching(*operation.forward):
        got = as_tuple(program.module()(**inputs))
    for mine, direct in zip(got, as_tuple(operation.fused(**inputs, **case.options)), strict=True):
        assert torch.equal(mine, direct)


def check_checkpointed(operation: Operation, dtype: torch.dtype, device: str) -> None:
    """Computed a second time on the way back; and, selectively, the kernel's result kept."""
    case = operation.typical
    inputs = make(case, dtype, device, seed=7)
    want = run_fused(operation, case, inputs)
    operator = getattr(torch.ops.hornbook, operation.name).default

    def keep(ctx: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        keeps = function is operator
        return checkpointing.CheckpointPolicy.MUST_SAVE if keeps else checkpointing.CheckpointPolicy.PREFER_RECOMPUTE

    def selectively() -> Any:
        return checkpointing.create_selective_checkpoint_contexts(keep)

    for options, launches in (({}, 2), ({"context_fn": selectively}, 1)):
        names = [name for choice in operation.forward for name in choice.split("|")]
        before = sum(library.launches[name] for name in names)

        def function(options: dict[str, Any] = options, **kw: Any) -> Results:
            call = lambda *values: operation.fused(**dict(zip(kw, values, strict=True)))  # noqa: E731
            return checkpointing.checkpoint(call, *kw.values(), use_reentrant=False, **options)

        got = run(function, inputs, case.options)
        for name, t in want.items():
            assert torch.equal(t, got[name]), f"{name} differs under checkpointing"
        assert sum(library.launches[name] for name in names) - before == launches
