"""What an operation is to a benchmark, and what several of them share."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..timing import FORMATS

Shape = tuple[int, ...]
Function = Callable[..., Any]

LIBRARIES = ("Liger", "QuACK", "FlashInfer")
"""others, which are timed where they are installed"""
WIDE_ROWS: tuple[Shape, ...] = (
    (262144, 768), (131072, 1024), (65536, 2048), (32768, 4096), (16384, 8192), (8192, 16384),
)  # fmt: skip
"""the widths at which every operation on rows is timed; a tensor of bf16 has at least 256 MB"""


@dataclass(frozen=True)
class Ids:
    """An input of whole numbers from 0 to ``below`` - 1, such as targets."""

    shape: Shape
    below: int


@dataclass(frozen=True)
class Fixed:
    """An input that wants no gradient, such as the cosines of angles."""

    shape: Shape
    spread: float = 1.0
    """standard deviation of its numbers"""


@dataclass(frozen=True)
class Chances:
    """An input of fp32 numbers from 0 to below 1, evenly distributed."""

    shape: Shape


@dataclass(frozen=True)
class Filled:
    """An input of one whole number for all, such as lengths."""

    shape: Shape
    value: int


@dataclass(frozen=True)
class Pages:
    """An input of all whole numbers from 0 on, each once, in any order, such as the pages of a cache."""

    shape: Shape


Input = Shape | Ids | Fixed | Chances | Filled | Pages


@dataclass(frozen=True)
class Operation:
    """What there is to know about an operation in order to time it, and to compile it without a GPU."""

    name: str
    letters: str
    """what the numbers of a shape are: "ROWSxCOLUMNS" """
    shapes: tuple[Shape, ...]
    """of operations on rows: more than four times the 60 MB of L2 that an H200 has"""
    quick: tuple[Shape, ...]
    tiny: Shape
    """so small that only the launch costs time"""
    block: Shape
    """as in a model's step: of this the calls are that a CUDA graph holds together, for the time between kernels"""
    forms: dict[str, dict[str, Any]]
    """name → arguments"""
    inputs: Callable[[Shape, str], list[Input]]
    work: Callable[[Shape, str, str, int], tuple[int, int]]
    """(shape, form, direction, bytes of a number) → bytes to move, operations in products of matrices"""
    error: Callable[[Case, list[Tensor], Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], float]
    """(case, inputs, upstream gradients, results, gradients of the inputs that want one) → distance from the reference
    in float64"""
    peers: dict[str, tuple[str, str, tuple[Any, ...] | Callable[..., tuple[Any, ...]]]]
    """one of `LIBRARIES` → its module, its (autograd) function there, and what it is given behind the inputs, or a
    function of inputs and options that returns all it is given"""
    examples: Callable[[str], Iterator[tuple[str, Callable[[], Any]]]]
    """number format → for each shape class of the kernels, its name and a call on small tensors, forward and backward,
    whose launches are compiled ahead of time"""
    directions: tuple[str, ...] = ("forward", "backward")
    """what is timed: "forward", "backward", or "both" in one go where most of the way back is done on the way forth"""
    peer_forms: tuple[str, ...] | None = None
    """the forms that ``peers`` have; those without arguments if not given"""
    upstream: dict[str, float] = field(default_factory=dict)
    """form → the gradient of a loss with which the way back begins; 1 if not given"""
    peer_error: Callable[..., float] | None = None
    """as ``error``, for libraries whose results are not to be compared number by number"""
    adapt: Callable[[Function], Function] | None = None
    """a function of the operation → one that takes all ``inputs`` in a row; the function itself if not given"""


@dataclass(frozen=True)
class Case:
    """An operation at one shape in one form and number format."""

    operation: Operation
    form: str
    shape: Shape
    dtype: str

    @property
    def options(self) -> dict[str, Any]:
        return self.operation.forms[self.form]

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape))
        return " ".join(filter(None, [self.operation.name, self.form, shape, self.dtype]))

    def tensors(self, device: torch.device | str) -> list[Tensor]:
        """Fresh random inputs; those of numbers want gradients, unless they are `Fixed`. They are results of something,
        as in a model, and no leaves: these no kernel may write over."""
        dtype = FORMATS[self.dtype]
        origin = torch.zeros((), device=device, dtype=dtype, requires_grad=True)

        def tensor(what: Input) -> Tensor:
            if isinstance(what, Ids):
                return torch.randint(what.below, what.shape, device=device)
            if isinstance(what, Chances):
                return torch.rand(what.shape, device=device)
            if isinstance(what, Filled):
                return torch.full(what.shape, what.value, dtype=torch.int32, device=device)
            if isinstance(what, Pages):
                return torch.randperm(math.prod(what.shape), dtype=torch.int32, device=device).view(what.shape)
            shape = what.shape if isinstance(what, Fixed) else what
            if isinstance(what, Fixed):
                # Drawn in fp32: in bf16 randn is too coarse on a CPU to draw the largest numbers.
                return (torch.randn(shape, device=device) * what.spread).to(dtype)
            return torch.randn(shape, device=device, dtype=dtype).add_(origin)

        return [tensor(what) for what in self.operation.inputs(self.shape, self.form)]

    def work(self, direction: str) -> tuple[int, int]:
        """Bytes to move and operations in products of matrices, at least."""
        return self.operation.work(self.shape, self.form, direction, FORMATS[self.dtype].itemsize)

    def upstream(self, y: Tensor) -> Tensor:
        """A gradient of a result, to begin the way back with: of a loss what the form says, else normally distributed;
        of ids 0, unused."""
        if not y.is_floating_point():
            return torch.zeros_like(y)
        if y.dim() == 0:
            return torch.full_like(y, self.operation.upstream.get(self.form, 1.0))
        # In one piece, as a model's is, whatever lies in what order in the result of whoever was asked first.
        return torch.randn_like(y, memory_format=torch.contiguous_format)

    def check(
        self, name: str, tensors: list[Tensor], dys: Sequence[Tensor], ys: Sequence[Tensor], grads: Sequence[Tensor]
    ) -> float:
        """How far an implementation's results and gradients are from the reference's."""
        error = self.operation.peer_error if name in LIBRARIES else None
        return (error or self.operation.error)(self, tensors, dys, ys, grads)

    def has(self, library: str) -> bool:
        """Whether a library has the operation in this form."""
        forms = self.operation.peer_forms
        return library in self.operation.peers and (not self.options if forms is None else self.form in forms)

    def matrix_bytes(self) -> int:
        """Bytes of one matrix of weights, of all heads, in fp32; 0 for an operation without one."""
        if self.operation.name != "attention":
            return 0
        B, T, H = self.shape[:3]
        return B * H * T * T * 4


def results(y: Any) -> tuple[Tensor, ...]:
    """What a call returned, as a tuple of tensors; some return None besides, for what they were not asked for."""
    return tuple(t for t in y if t is not None) if isinstance(y, tuple | list) else (y,)


def rows_error(
    case: Case, tensors: list[Tensor], dys: Sequence[Tensor], ys: Sequence[Tensor], grads: Sequence[Tensor]
) -> float:
    """How far results and gradients are from those of the reference in float64: the worst part's ‖a - b‖ / ‖b‖.

    Rows of the inputs that have as many as the first do not depend on each other, so a part of them is compared at a
    time; the gradients of the others, of parameters, are sums over rows.
    """
    reference = reference_of(case)
    n_rows = len(tensors[0])
    by_row = [t.dim() == tensors[0].dim() and len(t) == n_rows for t in tensors]
    wanted = [i for i, t in enumerate(tensors) if t.requires_grad]
    worst = 0.0
    sums: dict[int, Tensor] = {i: torch.zeros_like(tensors[i], dtype=torch.float64) for i in wanted if not by_row[i]}
    step = max(1, (1 << 24) // max(1, tensors[0][0].numel()))
    for start in range(0, n_rows, step):
        part = slice(start, start + step)
        wide = [
            wider(t[part] if rows else t).requires_grad_(t.requires_grad)
            for t, rows in zip(tensors, by_row, strict=True)
        ]
        expected = results(reference(*wide, **case.options))
        found = torch.autograd.grad(expected, [wide[i] for i in wanted], [dy[part].double() for dy in dys])
        worst = max([worst, *(distance(y[part], e) for y, e in zip(ys, expected, strict=True))])
        for i, grad, mine in zip(wanted, found, grads, strict=True):
            if by_row[i]:
                worst = max(worst, distance(mine[part], grad))
            else:
                sums[i] += grad
    gradients = dict(zip(wanted, grads, strict=True))
    return max([worst, *(distance(gradients[i], total) for i, total in sums.items())])


def wider(t: Tensor) -> Tensor:
    """Detached, numbers in float64, ids as they are."""
    return t.detach().double() if t.is_floating_point() else t.detach()


def reference_of(case: Case) -> Function:
    """The reference of a case's operation."""
    return implementation("reference", case.operation.name)


def distance(got: Tensor, expected: Tensor) -> float:
    """‖got - expected‖ / ‖expected‖, infinite where that is no number."""
    error = ((got.detach().double() - expected.detach()).norm() / expected.detach().norm().clamp_min(1e-300)).item()
    return error if math.isfinite(error) else math.inf


def implementation(name: str, operation: str) -> Function:
    """Ours or PyTorch's function of that name, imported now.

    Raises:
        KeyError: for an operation that it does not have.
    """
    if name == "torch.compile":
        reference = implementation("reference", operation)
        return torch.compile(reference, fullgraph=True, dynamic=False)
    if name == "composed" and operation != "attention":
        raise KeyError(operation)
    where = {"reference": f"reference.{operation}", "torch": "native", "composed": "composed"}
    module = importlib.import_module(f"...{where.get(name, f'kernels.{operation}')}", __package__)
    return getattr(module, operation)


def empty(*shape: int, dtype: str) -> Tensor:
    """A small tensor for an example: of numbers nobody looks at, with a gradient."""
    return torch.empty(shape, dtype=FORMATS[dtype], requires_grad=True)


def back(y: Any) -> None:
    """The way back of an example."""
    ys = results(y)
    torch.autograd.backward(ys, [torch.empty_like(y) for y in ys])
