from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .base import WIDE_ROWS, Operation, Shape, back, empty, rows_error

# The last three are GPT-2 XL's, a Llama's, and rows that are not held whole. cuDNN, which has norms too, is not timed:
# PyTorch does not reach them (of cuDNN's norms it has the batch norm only), and the other way in is a graph of
# operations that is built and compiled by hand.
SHAPES = (*WIDE_ROWS, (131072, 1600), (32768, 5120), (8192, 32768))


def layer_norm_work(shape: Shape, form: str, direction: str, size: int) -> tuple[int, int]:
    """x and y with weight and bias; backward x, dy and dx with weight and two gradients of parameters."""
    rows, columns = shape
    return ((3 * rows + 3) if direction == "backward" else (2 * rows + 2)) * columns * size, 0


def examples(dtype: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    from ...kernels import layer_norm, norms_backward

    for width in (*norms_backward.TABLE, 2 * max(norms_backward.TABLE)):

        def call(width: int = width) -> None:
            weight, bias = (empty(width, dtype="fp32") for _ in range(2))
            back(layer_norm.layer_norm(empty(96, width, dtype=dtype), weight, bias))

        yield f"{width} columns", call


OPERATION = Operation(
    "layer_norm", "ROWSxCOLUMNS", SHAPES, (SHAPES[0], SHAPES[3]), (64, 256), (8192, 768), {"": {}},
    lambda shape, form: [shape, shape[1:], shape[1:]], layer_norm_work, rows_error,
    {"Liger": ("liger_kernel.ops.layer_norm", "LigerLayerNormFunction", (1e-5,))},
    examples,
)  # fmt: skip
