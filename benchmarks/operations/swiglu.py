from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from .base import WIDE_ROWS, Operation, Shape, back, empty, rows_error


def swiglu_work(shape: Shape, form: str, direction: str, size: int) -> tuple[int, int]:
    """Two read and one written; backward three read and two written."""
    return (5 if direction == "backward" else 3) * math.prod(shape) * size, 0


def swiglu_inputs(shape: Shape, form: str) -> list[Any]:
    """Two tensors, or one with two halves; ``shape`` is the result's."""
    return [shape, shape] if form == "two" else [(*shape[:-1], 2 * shape[-1])]


def examples(dtype: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    from ...kernels import pointwise, swiglu

    for form, widths in (("two", (1024,)), ("halves", pointwise.BLOCKS)):
        for width in widths:

            def call(form: str = form, width: int = width) -> None:
                back(swiglu.swiglu(*(empty(*shape, dtype=dtype) for shape in swiglu_inputs((48, width), form))))

            yield f"{form}, {width} columns", call


OPERATION = Operation(
    "swiglu", "ROWSxCOLUMNS", (*WIDE_ROWS, (32768, 5504), (16384, 14336)), ((65536, 2048), (16384, 14336)), (64, 256),
    (8192, 2048), {"two": {}, "halves": {}},
    swiglu_inputs, swiglu_work, rows_error,
    {"Liger": ("liger_kernel.ops.swiglu", "LigerSiLUMulFunction", ())},
    examples, peer_forms=("two",),
)  # fmt: skip
