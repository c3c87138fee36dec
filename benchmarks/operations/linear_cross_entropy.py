from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Case, Ids, Operation, Shape, back, distance, empty, reference_of
from .cross_entropy import targets


def linear_work(shape: Shape, form: str, direction: str, size: int) -> tuple[int, int]:
    """x, W and their gradients once, and three products of matrices."""
    N, V, d = shape
    return 2 * (N + V) * d * size, 6 * math.prod(shape)


def linear_error(
    case: Case, tensors: list[Tensor], dys: Sequence[Tensor], ys: Sequence[Tensor], grads: Sequence[Tensor]
) -> float:
    """The worst of the loss's distance from that of the reference in float64, and the gradients'."""
    (x, weight, ids), (dy,), (y,), (dx, dw) = tensors, dys, ys, grads
    reference = reference_of(case)
    n = len(x)
    W = weight.detach().double().requires_grad_()
    total, sums, worst = torch.zeros((), dtype=torch.float64, device=y.device), torch.zeros_like(W), 0.0
    step = max(1, (1 << 26) // len(W))
    for start in range(0, n, step):
        part = slice(start, start + step)
        wide = x[part].detach().double().requires_grad_()
        loss = reference(wide, W, ids[part], reduction="sum") / n
        expected, more = torch.autograd.grad(loss, (wide, W), dy.double())
        worst = max(worst, distance(dx[part], expected))
        sums += more
        total += loss.detach()
    return max(worst, distance(y, total), distance(dw, sums))


def examples(dtype: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    from ...kernels import linear_cross_entropy as kernel

    def call() -> None:
        x, ids = empty(48, 16, dtype=dtype), targets(48, 64)
        for weight in dict.fromkeys((dtype, "fp32")):  # in this order in every process that compiles
            back(kernel.linear_cross_entropy(x, empty(64, 16, dtype=weight), ids))
        back(kernel.linear_cross_entropy(x, empty(64, 16, dtype=dtype), ids, reduction="none"))

    yield "any size", call


OPERATION = Operation(
    "linear_cross_entropy", "ROWSxIDSxCOLUMNS", ((8192, 128256, 4096), (65536, 50304, 768)), ((8192, 50304, 768),),
    (64, 256, 64), (8192, 50304, 768), {"": {}},
    lambda shape, form: [(shape[0], shape[2]), (shape[1], shape[2]), Ids(shape[:1], shape[1])],
    linear_work, linear_error,
    {
        "Liger": (
            "liger_kernel.ops.fused_linear_cross_entropy", "LigerFusedLinearCrossEntropyFunction", ()
        ),
        "QuACK": ("quack.linear_cross_entropy", "chunked_linear_cross_entropy", ()),
    },
    examples, ("both",),
)  # fmt: skip
