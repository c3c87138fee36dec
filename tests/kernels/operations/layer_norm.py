from __future__ import annotations

from hornbook import native
from hornbook.kernels import layer_norm
from hornbook.reference.layer_norm import layer_norm as reference_layer_norm

from ..harness import WIDTHS, Case, Operation

SUMS = "norm_sum_parts"
BACKWARD = ("norm_backward_rows|norm_backward_wide_rows|norm_backward_columns", SUMS)
FILES = ("norms", "norms_backward")

LAYER_NORM = Operation(
    name="layer_norm",
    fused=layer_norm.layer_norm,
    reference=reference_layer_norm,
    torch=native.layer_norm,
    forward=("layer_norm_rows|norm_long_row",),
    backward=BACKWARD,
    cases=[
        *(Case({"x": (3, width), "weight": (width,), "bias": (width,)}) for width in WIDTHS if width > 1),
        Case({"x": (5, 1), "weight": (1,), "bias": (1,)}, {"eps": 0.5}),
        Case({"x": (2, 50, 65), "weight": None, "bias": None}, without=(SUMS,)),
        *(  # far from 0, where sums of squares are lost, and products with the mean
            Case({"x": shape, "weight": shape[-1:], "bias": shape[-1:]}, plus=plus)
            for shape in ((9, 65), (64, 768))
            for plus in (100.0, 1000.0)
        ),
        Case({"x": (2, 9000), "weight": (9000,), "bias": (9000,)}, plus=1000.0),
        Case({"x": (2, 20000), "weight": (20000,), "bias": (20000,)}, plus=1000.0),
        Case({"x": (9, 65), "weight": (65,), "bias": (65,)}, in_fp32=("weight", "bias")),
        Case({"x": (3, 9000), "weight": (9000,), "bias": (9000,)}, in_fp32=("weight",)),
        Case({"x": (2, 50, 65), "weight": (65,), "bias": None}),
        Case({"x": (2, 50, 65), "weight": None, "bias": (65,)}, {"eps": 1e-3}),
        *(
            Case({"x": (8000, width), "weight": (width,), "bias": (width,)}, gpu_only=True)
            for width in (48, 768, 1600, 2048, 5120, 16384)
        ),
        Case({"x": (64, 65537), "weight": (65537,), "bias": (65537,)}, gpu_only=True),
    ],
    empty=[
        Case({"x": (0, 5), "weight": (5,), "bias": (5,)}),
        Case({"x": (3, 0), "weight": (0,), "bias": (0,)}),
    ],
    typical=Case({"x": (3, 20, 65), "weight": (65,), "bias": (65,)}),
    files=FILES,
)
