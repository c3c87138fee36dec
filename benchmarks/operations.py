"""What there is to know about each operation in order to time it: shapes, the least work, how to check, who has it.

An operation is one entry of `OPERATIONS`; `kernels` does the timing.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .timing import FORMATS

Shape = tuple[int, ...]
Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Operation:
    """What there is to know about an operation in order to time it."""

    name: str
    letters: str
    """what the numbers of a shape are: "ROWSxCOLUMNS" """
    shapes: tuple[Shape, ...]
    """of operations on rows: more than four times the 60 MB of L2 that an H200 has"""
    quick: tuple[Shape, ...]
    tiny: Shape
    """so small that only the launch costs time"""
    forms: dict[str, dict[str, Any]]
    """name → arguments"""
    inputs: Callable[[Shape, str], list[Shape]]
    work: Callable[[Shape, str, bool, int], tuple[int, int]]
    """(shape, form, backward, bytes of a number) → bytes to move, operations in products of matrices"""
    error: Callable[[Case, list[Tensor], Tensor, Tensor, Sequence[Tensor]], float]
    peers: dict[str, tuple[str, str, tuple[Any, ...]]]
    """a library's name → its module, its (autograd) function there, and what it is given behind the inputs"""


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
        """Fresh random inputs that want gradients."""
        shapes = self.operation.inputs(self.shape, self.form)
        dtype = FORMATS[self.dtype]
        return [torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for shape in shapes]

    def work(self, backward: bool) -> tuple[int, int]:
        """Bytes to move and operations in products of matrices, at least."""
        return self.operation.work(self.shape, self.form, backward, FORMATS[self.dtype].itemsize)

    def matrix_bytes(self) -> int:
        """Bytes of one matrix of weights, of all heads, in fp32; 0 for an operation without one."""
        if self.operation.name != "attention":
            return 0
        B, T, H, _ = self.shape
        return B * H * T * T * 4


# Softmax and layer norm: rows.


def causal_shape(shape: Shape) -> Shape:
    """ROWSxCOLUMNS as (B, T_q, T_k): as many whole squares as fit, or one part of a square."""
    rows, columns = shape
    return max(1, rows // columns), min(rows, columns), columns


def pairs_seen(T_q: int, T_k: int) -> int:
    """How many keys the queries see together where the last query sees all; T_q ≤ T_k."""
    return T_q * (T_k - T_q) + T_q * (T_q + 1) // 2


def softmax_work(shape: Shape, form: str, backward: bool, size: int) -> tuple[int, int]:
    """Of x (backward: of y and dy) only what is visible must be read; y (dx) is written whole."""
    if form != "causal":
        return (3 if backward else 2) * math.prod(shape) * size, 0
    B, T_q, T_k = causal_shape(shape)
    return B * ((2 if backward else 1) * pairs_seen(T_q, T_k) + T_q * T_k) * size, 0


def layer_norm_work(shape: Shape, form: str, backward: bool, size: int) -> tuple[int, int]:
    """x and y with weight and bias; backward x, dy and dx with weight and two gradients of parameters."""
    rows, columns = shape
    return (3 * rows + 3) * columns * size if backward else (2 * rows + 2) * columns * size, 0


def rows_error(case: Case, tensors: list[Tensor], dy: Tensor, y: Tensor, grads: Sequence[Tensor]) -> float:
    """How far a result and its gradients are from those of the reference in float64: the worst part's ‖a - b‖ / ‖b‖.

    Rows do not depend on each other, so a part of them is compared at a time; the gradients of parameters are sums.
    """
    x, *parameters = tensors
    reference = implementation("reference", case.operation.name)
    worst, sums = 0.0, [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
    step = max(1, (1 << 24) // max(1, x[0].numel()))
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        wide = [t.detach().double().requires_grad_() for t in (x[part], *parameters)]
        expected = reference(*wide, **case.options)
        dx, *dp = torch.autograd.grad(expected, wide, dy[part].double())
        worst = max(worst, distance(y[part], expected), distance(grads[0][part], dx))
        sums = [total + more for total, more in zip(sums, dp, strict=True)]
    return max([worst, *(distance(g, total) for g, total in zip(grads[1:], sums, strict=True))])


def softmax_error(case: Case, tensors: list[Tensor], dy: Tensor, y: Tensor, grads: Sequence[Tensor]) -> float:
    """As `rows_error`. Some queries of the causal form are a smaller causal form, and what they do not see is 0."""
    if case.form != "causal":
        return rows_error(case, tensors, dy, y, grads)
    (x,), (dx,) = tensors, grads
    reference = implementation("reference", "softmax")
    B, T_q, T_k = x.shape
    worst = 0.0
    step = max(1, (1 << 24) // T_k)
    for b in range(B):
        for start in range(0, T_q, step):
            queries = slice(start, min(T_q, start + step))
            seen = queries.stop + T_k - T_q
            at, hidden = (b, queries, slice(seen)), (b, queries, slice(seen, None))
            wide = x[at].detach().double().requires_grad_()
            expected = reference(wide, **case.options)
            (expected_dx,) = torch.autograd.grad(expected, wide, dy[at].double())
            worst = max(worst, distance(y[at], expected), distance(dx[at], expected_dx))
            if y[hidden].any() or dx[hidden].any():
                worst = math.inf
    return worst


# Attention.


def attention_work(shape: Shape, form: str, backward: bool, size: int) -> tuple[int, int]:
    """q, k, v and o once, and two products; backward o, do, q, k, v, dq, dk, dv, and five products."""
    B, T, H, D = shape
    pairs = B * H * (pairs_seen(T, T) if form == "causal" else T * T)
    return (8 if backward else 4) * B * T * H * D * size, (10 if backward else 4) * pairs * D


def attention_error(case: Case, tensors: list[Tensor], dy: Tensor, y: Tensor, grads: Sequence[Tensor]) -> float:
    """As `rows_error`, for the first head of the first sequence and the last of the last, 512 queries at a time."""
    q, k, v = tensors
    reference = implementation("reference", "attention")
    B, T, H, _ = case.shape
    worst = 0.0
    for b, h in {(0, 0), (B - 1, H - 1)}:
        wide_k, wide_v = (t[b : b + 1, :, h : h + 1].detach().double().requires_grad_() for t in (k, v))
        dk, dv = torch.zeros_like(wide_k), torch.zeros_like(wide_v)
        for start in range(0, T, 512):
            end = min(T, start + 512)
            at = (slice(b, b + 1), slice(start, end), slice(h, h + 1))
            seen = end if case.form == "causal" else T  # the reference shows the last query all keys
            wide_q = q[at].detach().double().requires_grad_()
            expected = reference(wide_q, wide_k[:, :seen], wide_v[:, :seen], **case.options)
            dq, more_k, more_v = torch.autograd.grad(expected, (wide_q, wide_k, wide_v), dy[at].double())
            worst = max(worst, distance(y[at], expected), distance(grads[0][at], dq))
            dk, dv = dk + more_k, dv + more_v
        for got, expected in ((grads[1], dk), (grads[2], dv)):
            worst = max(worst, distance(got[b : b + 1, :, h : h + 1], expected))
    return worst


def distance(got: Tensor, expected: Tensor) -> float:
    """‖got - expected‖ / ‖expected‖, infinite where that is no number."""
    error = ((got.detach().double() - expected.detach()).norm() / expected.detach().norm().clamp_min(1e-300)).item()
    return error if math.isfinite(error) else math.inf


_LIGER = "liger_kernel.ops"
OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation(
            "softmax", "ROWSxCOLUMNS", ((131072, 1024), (32768, 4096), (4096, 32768), (4096, 50257)),
            ((32768, 4096), (4096, 50257)), (64, 256), {"": {}, "causal": {"causal": True}},
            lambda shape, form: [causal_shape(shape) if form == "causal" else shape], softmax_work, softmax_error,
            {
                "Liger": (f"{_LIGER}.softmax", "LigerSoftmaxFunction", ()),
                "QuACK": ("quack.softmax", "softmax", ()),
            },
        ),
        Operation(
            "layer_norm", "ROWSxCOLUMNS", ((262144, 768), (131072, 1600), (32768, 8192), (8192, 32768)),
            ((262144, 768), (32768, 4096)), (64, 256), {"": {}},
            lambda shape, form: [shape, shape[1:], shape[1:]], layer_norm_work, rows_error,
            {"Liger": (f"{_LIGER}.layer_norm", "LigerLayerNormFunction", (1e-5,))},
        ),
        Operation(
            "attention", "BxTxHxD", ((16, 1024, 12, 64), (4, 4096, 16, 64), (4, 4096, 16, 128), (1, 16384, 16, 128)),
            ((16, 1024, 12, 64), (4, 4096, 16, 128)), (1, 64, 2, 64),
            {"causal": {"causal": True}, "full": {"causal": False}},
            lambda shape, form: [shape] * 3, attention_work, attention_error, {},
        ),
    )
}  # fmt: skip


def implementation(name: str, operation: str) -> Function:
    """The function of that name, imported now.

    Raises:
        ImportError: for a library that is not there, and KeyError for one that does not have the operation.
    """
    if name in ("Liger", "QuACK"):
        module, attribute, more = OPERATIONS[operation].peers[name]
        found = getattr(importlib.import_module(module), attribute)
        call = getattr(found, "apply", found)
        return lambda *inputs: call(*inputs, *more)
    if name == "torch.compile":
        reference = implementation("reference", operation)
        return torch.compile(reference, fullgraph=True, dynamic=False)
    if name == "composed" and operation != "attention":
        raise KeyError(operation)
    where = {"reference": f"reference.{operation}", "torch": "native", "composed": "composed"}
    module = importlib.import_module(f"..{where.get(name, f'kernels.{operation}')}", __package__)
    return getattr(module, operation)
