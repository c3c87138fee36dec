from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .base import WIDE_ROWS, Case, Ids, Operation, Shape, back, distance, empty, reference_of


def cross_entropy_work(shape: Shape, form: str, direction: str, size: int) -> tuple[int, int]:
    """Logits read, and their gradient written; the rest is a few bytes a row."""
    return 2 * math.prod(shape) * size, 0


def cross_entropy_error(
    case: Case, tensors: list[Tensor], dys: Sequence[Tensor], ys: Sequence[Tensor], grads: Sequence[Tensor]
) -> float:
    """As `rows_error`, for the mean over rows: a part of its sum at a time."""
    (logits, targets), (dy,), (y,), (gradient,) = tensors, dys, ys, grads
    reference = reference_of(case)
    n = len(logits)
    total, worst = torch.zeros((), dtype=torch.float64, device=y.device), 0.0
    step = max(1, (1 << 24) // logits.shape[1])
    for start in range(0, n, step):
        part = slice(start, start + step)
        wide = logits[part].detach().double().requires_grad_()
        loss = reference(wide, targets[part], reduction="sum") / n
        (expected,) = torch.autograd.grad(loss, wide, dy.double())
        worst = max(worst, distance(gradient[part], expected))
        total += loss.detach()
    return max(worst, distance(y, total))


def targets(n: int, below: int) -> Tensor:
    """Of an example."""
    return torch.zeros(n, dtype=torch.int64) % below


def examples(dtype: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    from ...kernels import cross_entropy as kernel
    from ...kernels import softmax

    everything = {"label_smoothing": 0.1, "z_loss": 1e-4, "softcap": 30.0}
    long = [width for width in softmax.LONG_TABLE if width < 1 << 30]
    for width in (*softmax.TABLE, *long, 2 * max(long)):
        for name, options in {"": {}, ", all options": everything}.items():

            def call(width: int = width, options: dict[str, Any] = options) -> None:
                logits, ids = empty(48, width, dtype=dtype), targets(48, width)
                back(kernel.cross_entropy(logits, ids, **options))
                if not options:
                    back(kernel.cross_entropy(logits, ids, reduction="none"))

            yield f"{width} columns{name}", call


OPERATION = Operation(
    "cross_entropy", "ROWSxCOLUMNS",
    (
        *WIDE_ROWS, (4096, 32768), (4096, 50257), (2048, 65536), (2048, 128256), (1024, 131072), (1024, 262144),
    ),
    ((16384, 8192), (4096, 50257)), (64, 256), (1024, 50257),
    {"": {}, "in place": {"inplace": True}, "gradient of 0.5": {}},
    lambda shape, form: [shape, Ids(shape[:1], shape[1])], cross_entropy_work, cross_entropy_error,
    {
        "Liger": ("liger_kernel.ops.cross_entropy", "LigerCrossEntropyFunction", (None,)),  # classes without a weight
        "QuACK": ("quack.cross_entropy", "cross_entropy", ()),
    },
    # A loss that is scaled, as of several micro-batches: then the gradient that is made on the way forth is multiplied.
    examples, ("both",), upstream={"gradient of 0.5": 0.5},
)  # fmt: skip
