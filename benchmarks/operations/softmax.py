from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .base import WIDE_ROWS, Case, Operation, Shape, back, distance, empty, reference_of, rows_error


def causal_shape(shape: Shape) -> Shape:
    """ROWSxCOLUMNS as (B, T_q, T_k): as many whole squares as fit, or one part of a square."""
    rows, columns = shape
    return max(1, rows // columns), min(rows, columns), columns


def pairs_seen(T_q: int, T_k: int) -> int:
    """How many keys the queries see together where the last query sees all; T_q ≤ T_k."""
    return T_q * (T_k - T_q) + T_q * (T_q + 1) // 2


def softmax_work(shape: Shape, form: str, direction: str, size: int) -> tuple[int, int]:
    """Of x (backward: of y and dy) only what is visible must be read; y (dx) is written whole."""
    if form != "causal":
        return (3 if direction == "backward" else 2) * math.prod(shape) * size, 0
    B, T_q, T_k = causal_shape(shape)
    return B * ((2 if direction == "backward" else 1) * pairs_seen(T_q, T_k) + T_q * T_k) * size, 0


def softmax_error(
    case: Case, tensors: list[Tensor], dys: Sequence[Tensor], ys: Sequence[Tensor], grads: Sequence[Tensor]
) -> float:
    """As `rows_error`. Some queries of the causal form are a smaller causal form, and what they do not see is 0."""
    if case.form != "causal":
        return rows_error(case, tensors, dys, ys, grads)
    (x,), (dx,), (dy,), (y,) = tensors, grads, dys, ys
    reference = reference_of(case)
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


def examples(dtype: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    from ...kernels import softmax

    long = [width for width in softmax.LONG_TABLE if width < 1 << 30]
    for width in (*softmax.TABLE, *long, 2 * max(long)):
        for causal in (False, True):

            def call(width: int = width, causal: bool = causal) -> None:
                back(softmax.softmax(empty(2, 48, width, dtype=dtype), scale=0.5, causal=causal))

            yield f"{width} columns{', causal' if causal else ''}", call


OPERATION = Operation(
    "softmax", "ROWSxCOLUMNS",
    (
        *WIDE_ROWS, (4096, 32768), (4096, 50257), (2048, 65536), (1024, 131072), (1024, 262144),
    ),
    ((32768, 4096), (4096, 50257)), (64, 256), (8192, 768), {"": {}, "causal": {"causal": True}},
    lambda shape, form: [causal_shape(shape) if form == "causal" else shape], softmax_work, softmax_error,
    {
        "Liger": ("liger_kernel.ops.softmax", "LigerSoftmaxFunction", ()),
        "QuACK": ("quack.softmax", "softmax", ()),
    },
    examples,
)  # fmt: skip
