from __future__ import annotations

from hornbook import native
from hornbook.kernels import rms_norm
from hornbook.reference.rms_norm import rms_norm as reference_rms_norm

from ..harness import WIDTHS, Case, Operation
from .layer_norm import BACKWARD, FILES, SUMS

RMS_NORM = Operation(
    name="rms_norm",
    fused=rms_norm.rms_norm,
    reference=reference_rms_norm,
    torch=native.rms_norm,
    forward=("rms_norm_rows|norm_long_row",),
    backward=BACKWARD,
    cases=[
        *(Case({"x": (3, width), "weight": (width,)}) for width in WIDTHS),
        Case({"x": (2, 50, 65), "weight": None}, without=(SUMS,)),
        Case({"x": (3, 5, 4, 16), "weight": None}, {"eps": 0.5}, without=(SUMS,)),  # heads, whose rows are narrow
        Case({"x": (9, 65), "weight": (65,), "bias": (65,)}, {"eps": 0.5}),
        Case({"x": (2, 9000), "weight": (9000,), "bias": (9000,)}, in_fp32=("weight", "bias")),
        Case({"x": (2, 20000), "weight": None, "bias": (20000,)}, in_fp32=("bias",)),
        *(Case({"x": (8000, width), "weight": (width,)}, gpu_only=True) for width in (128, 768, 4096, 8192)),
        Case({"x": (64, 65537), "weight": (65537,)}, gpu_only=True),
    ],
    empty=[Case({"x": (0, 5), "weight": (5,)}), Case({"x": (3, 0), "weight": (0,)})],
    typical=Case({"x": (3, 20, 65), "weight": (65,), "bias": (65,)}),
    files=FILES,
)
