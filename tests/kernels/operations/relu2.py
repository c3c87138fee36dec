from __future__ import annotations

from hornbook import native
from hornbook.kernels import relu2
from hornbook.reference.relu2 import relu2 as reference_relu2

from ..harness import WIDTHS, Case, Operation

BIAS = "pointwise_bias"
RELU2 = Operation(
    name="relu2",
    fused=relu2.relu2,
    reference=reference_relu2,
    torch=native.relu2,
    forward=("pointwise_forward",),
    backward=("pointwise_backward", BIAS),
    cases=[
        *(
            Case({"x": x, "bias": None}, without=(BIAS,))
            for x in ((), (7,), (3, 65), (2, 1, 3, 41), (3, 1365), (6, 4096))
        ),
        *(Case({"x": (3, width), "bias": (width,)}) for width in WIDTHS if width != 50257),
        Case({"x": (9, 5, 64), "bias": (64,)}, in_fp32=("bias",)),
        Case({"x": (2000, 3072), "bias": (3072,)}, gpu_only=True),
    ],
    empty=[Case({"x": (0, 5), "bias": None}), Case({"x": (0, 5), "bias": (5,)}), Case({"x": (3, 0), "bias": (0,)})],
    typical=Case({"x": (3, 5, 65), "bias": (65,)}),
)
