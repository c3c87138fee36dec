from __future__ import annotations

from hornbook import native
from hornbook.kernels import gelu
from hornbook.reference.gelu import gelu as reference_gelu

from ..harness import Case, Operation

TANH = {"approximate": "tanh"}
BIAS = "pointwise_bias"
GELU = Operation(
    name="gelu",
    fused=gelu.gelu,
    reference=reference_gelu,
    torch=native.gelu,
    forward=("pointwise_forward",),
    backward=("pointwise_backward", BIAS),
    cases=[
        *(
            Case({"x": x, "bias": None}, options, without=(BIAS,))
            for x in ((), (1,), (7,), (3, 65), (2, 1, 3, 41), (3, 1365), (6, 4096))
            for options in ({}, TANH)
        ),
        *(Case({"x": (3, width), "bias": (width,)}, TANH) for width in (1, 7, 16, 17, 64, 123, 1000)),
        *(Case({"x": (2, 50, width), "bias": (width,)}) for width in (1, 65, 257)),
        Case({"x": (130, 100), "bias": (100,)}, TANH, in_fp32=("bias",)),
        Case({"x": (3, 40), "bias": (40,)}, times=1e4),  # so far out that squares and exponentials overflow
        Case({"x": (3, 40), "bias": (40,)}, TANH, times=1e4),
        Case({"x": (2000, 3072), "bias": (3072,)}, gpu_only=True),
        Case({"x": (3, 262_147), "bias": (262_147,)}, TANH, gpu_only=True),
    ],
    empty=[
        Case({"x": (0, 5), "bias": None}),
        Case({"x": (0, 5), "bias": (5,)}, TANH),
        Case({"x": (3, 0), "bias": (0,)}),
    ],
    typical=Case({"x": (3, 5, 65), "bias": (65,)}, TANH),
)
