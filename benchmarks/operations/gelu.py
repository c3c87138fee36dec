from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from .base import WIDE_ROWS, Operation, Shape, back, empty, rows_error

FORMS: dict[str, dict[str, Any]] = {"exact": {}, "tanh": {"approximate": "tanh"}, "tanh, bias": {"approximate": "tanh"}}


def pointwise_work(shape: Shape, form: str, direction: str, size: int) -> tuple[int, int]:
    """x and y; backward x, dy and dx. A bias is nothing beside them."""
    return (3 if direction == "backward" else 2) * math.prod(shape) * size, 0


def pointwise_inputs(shape: Shape, form: str) -> list[Any]:
    """x, and a bias where the form has one."""
    return [shape, shape[1:]] if form.endswith("bias") else [shape]


def examples(dtype: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    from ...kernels import gelu, pointwise

    calls = [(form, None) for form in ("exact", "tanh")] + [("exact", max(pointwise.BLOCKS))]
    for form, width in calls + [("tanh", block) for block in pointwise.BLOCKS]:

        def call(form: str = form, width: int | None = width) -> None:
            x = empty(48, width or 1024, dtype=dtype)
            bias = None if width is None else empty(width, dtype=dtype)
            back(gelu.gelu(x, bias, **FORMS[form]))

        yield f"{form}{'' if width is None else f', bias, {width} columns'}", call


OPERATION = Operation(
    "gelu", "ROWSxCOLUMNS", (*WIDE_ROWS, (65536, 3072)), ((65536, 3072), (16384, 8192)), (64, 256), (8192, 3072), FORMS,
    pointwise_inputs, pointwise_work, rows_error, {}, examples,
)  # fmt: skip
