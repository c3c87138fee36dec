from __future__ import annotations

from hornbook import native
from hornbook.kernels import swiglu
from hornbook.reference.swiglu import swiglu as reference_swiglu

from ..harness import WIDTHS, Case, Operation

SWIGLU = Operation(
    name="swiglu",
    fused=swiglu.swiglu,
    reference=reference_swiglu,
    torch=native.swiglu,
    forward=("swiglu_forward",),
    backward=("swiglu_backward",),
    cases=[
        *(Case({"gate": (3, 2 * width), "up": None}) for width in WIDTHS if width != 50257),
        Case({"gate": (14,), "up": None}),
        Case({"gate": (2, 70, 258), "up": None}),
        *(Case({"gate": shape, "up": shape}) for shape in ((), (7,), (3, 65), (2, 3, 683), (6, 4096))),
        *(Case({"gate": shape, "up": up}, times=50.0) for shape, up in (((3, 40), None), ((3, 20), (3, 20)))),
        Case({"gate": (2000, 5504), "up": None}, gpu_only=True),
        Case({"gate": (2000, 2753), "up": (2000, 2753)}, gpu_only=True),
    ],
    empty=[
        Case({"gate": (0, 6), "up": None}),
        Case({"gate": (3, 0), "up": None}),
        Case({"gate": (0, 5), "up": (0, 5)}),
    ],
    typical=Case({"gate": (3, 5, 65), "up": (3, 5, 65)}),
)
