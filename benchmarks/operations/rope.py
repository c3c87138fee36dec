from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from .base import Fixed, Operation, Shape, back, empty, rows_error

HEAD_DIMS = (16, 64, 80, 128, 256)


def rope_work(shape: Shape, form: str, direction: str, size: int) -> tuple[int, int]:
    """x (backward dy) read, y (dx) written, and the cosines and sines once."""
    _, T, _, D = shape
    return (2 * math.prod(shape) + T * D) * size, 0


def rope_inputs(shape: Shape, form: str) -> list[Any]:
    """x, and cosines and sines, which any numbers can stand for."""
    _, T, _, D = shape
    return [shape, Fixed((T, D // 2)), Fixed((T, D // 2))]


def examples(dtype: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    from ...kernels import rope

    for D in HEAD_DIMS:
        for interleaved in (False, True):

            def call(D: int = D, interleaved: bool = interleaved) -> None:
                cos, sin = (torch.empty(48, D // 2) for _ in range(2))
                back(rope.rope(empty(2, 48, 4, D, dtype=dtype), cos, sin, interleaved=interleaved))

            yield f"head_dim {D}{', interleaved' if interleaved else ''}", call

    def positions() -> None:
        cos, sin = (torch.empty(48, 32) for _ in range(2))
        ids = torch.empty(2, 32, dtype=torch.int64)
        back(rope.rope(empty(2, 32, 12, 64, dtype=dtype), cos, sin, positions=ids))

    yield "head_dim 64, positions", positions


OPERATION = Operation(
    "rope", "BxTxHxD", ((256, 1024, 12, 64), (32, 4096, 16, 64), (16, 4096, 32, 128), (8, 8192, 8, 256)),
    ((256, 1024, 12, 64), (16, 4096, 32, 128)), (1, 16, 4, 64), (8, 1024, 12, 64),
    {"": {}, "interleaved": {"interleaved": True}},
    rope_inputs, rope_work, rows_error, {}, examples,
)  # fmt: skip
