from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .base import Operation, Shape, back, empty, rows_error
from .layer_norm import SHAPES


def add_norm_work(shape: Shape, form: str, direction: str, size: int) -> tuple[int, int]:
    """x, residual, y and h with the parameters; backward h, dy, dh and one gradient for both, with the weight and the
    gradients of the parameters."""
    rows, columns = shape
    parameters = 2 if form == "layer_norm" else 1
    return (4 * rows + parameters + (direction == "backward")) * columns * size, 0


def examples(dtype: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    from ...kernels import add_norm, norms

    for width in (64, 768, 1024, 2048, 4096, 8192, 16384, 2 * max(norms.TABLE)):
        for norm, formats in (("layer_norm", (dtype, dtype)), ("rms_norm", (dtype, "fp32"))):

            def call(width: int = width, norm: str = norm, formats: tuple[str, str] = formats) -> None:
                x, residual = (empty(96, width, dtype=f) for f in formats)
                weight, bias = empty(width, dtype="fp32"), empty(width, dtype="fp32") if norm == "layer_norm" else None
                back(add_norm.add_norm(x, residual, weight, bias, norm=norm))

            yield f"{width} columns, {norm}{', fp32 residual' if formats[1] != dtype else ''}", call


OPERATION = Operation(
    "add_norm", "ROWSxCOLUMNS", SHAPES, (SHAPES[0], SHAPES[3]), (64, 256), (8192, 768),
    {"layer_norm": {"norm": "layer_norm"}, "rms_norm": {"norm": "rms_norm"}},
    lambda shape, form: [shape, shape, *[shape[1:]] * (2 if form == "layer_norm" else 1)], add_norm_work, rows_error,
    {
        # Behind eps: no offset of the weight, computed as Llama does, and dx not written over dy, which is used again.
        "Liger": ("liger_kernel.ops.fused_add_rms_norm", "LigerFusedAddRMSNormFunction", (1e-5, 0.0, "llama", False)),
        # Without a bias, in the dtypes of x and residual; True: the sum is returned too.
        "QuACK": (
            "quack.rmsnorm", "rmsnorm",
            lambda x, residual, weight, **_: (x, weight, None, residual, None, None, 1e-5, True),
        ),
    },
    examples, peer_forms=("rms_norm",),
)  # fmt: skip
