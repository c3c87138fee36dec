from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .base import WIDE_ROWS, Operation, back, empty, rows_error
from .gelu import pointwise_inputs, pointwise_work


def examples(dtype: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    from ...kernels import pointwise, relu2

    def plain() -> None:
        back(relu2.relu2(empty(48, 1024, dtype=dtype)))

    yield "plain", plain
    for width in pointwise.BLOCKS:

        def call(width: int = width) -> None:
            back(relu2.relu2(empty(48, width, dtype=dtype), empty(width, dtype=dtype)))

        yield f"bias, {width} columns", call


OPERATION = Operation(
    "relu2", "ROWSxCOLUMNS", (*WIDE_ROWS, (65536, 3072)), ((65536, 3072), (16384, 8192)), (64, 256), (8192, 3072),
    {"": {}, "bias": {}},
    pointwise_inputs, pointwise_work, rows_error, {}, examples,
)  # fmt: skip
