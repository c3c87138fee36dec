from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .base import Operation, Shape, back, empty, rows_error
from .layer_norm import SHAPES


def rms_norm_work(shape: Shape, form: str, direction: str, size: int) -> tuple[int, int]:
    """x and y with weight; backward x, dy and dx with weight and its gradient."""
    rows, columns = shape
    return ((3 * rows + 2) if direction == "backward" else (2 * rows + 1)) * columns * size, 0


def examples(dtype: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    from ...kernels import norms, rms_norm

    for width in (64, 128, 768, 4096, 8192, 16384, 2 * max(norms.TABLE)):

        def call(width: int = width) -> None:
            weight = None if width == 64 else empty(width, dtype="fp32")  # the narrow ones are heads, without a weight
            back(rms_norm.rms_norm(empty(96, width, dtype=dtype), weight))

        yield f"{width} columns", call


OPERATION = Operation(
    "rms_norm", "ROWSxCOLUMNS", (*SHAPES, (2097152, 64)), (SHAPES[0], SHAPES[3]), (64, 256), (8192, 768), {"": {}},
    lambda shape, form: [shape, shape[1:]], rms_norm_work, rows_error,
    {
        # Behind eps: no offset of the weight, computed as Llama does, and dx not written over dy, which is used again.
        "Liger": ("liger_kernel.ops.rms_norm", "LigerRMSNormFunction", (1e-5, 0.0, "llama", False)),
        # Without bias and residual, in the dtype of x.
        "QuACK": ("quack.rmsnorm", "rmsnorm", (None, None, None, None, 1e-5)),
    },
    examples,
)  # fmt: skip
