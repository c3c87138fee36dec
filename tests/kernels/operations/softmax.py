from __future__ import annotations

from hornbook import native
from hornbook.kernels import softmax
from hornbook.reference.softmax import softmax as reference_softmax

from ..harness import WIDTHS, Case, Operation

SOFTMAX = Operation(
    name="softmax",
    fused=softmax.softmax,
    reference=reference_softmax,
    torch=native.softmax,
    forward=("softmax_rows|softmax_long_row",),
    backward=("softmax_backward_rows|softmax_backward_long_row",),
    cases=[
        *(Case({"x": (3, width)}) for width in WIDTHS),
        *(Case({"x": (2, 5, width)}, {"causal": True, "scale": 0.3}) for width in WIDTHS),
        Case({"x": (2, 3, 65, 33)}, {"causal": True}),  # the first 32 queries see nothing
        Case({"x": (70, 123)}, {"scale": -2.5}),
        Case({"x": (123,)}, {"scale": 0.0}),
        Case({"x": (7, 65)}, times=1e4),  # exponentials of these overflow
        Case({"x": (2, 5000)}, times=1e3, plus=1e4),
        Case({"x": (4096, 1000)}, gpu_only=True),
        Case({"x": (3, 262_144)}, gpu_only=True),
        Case({"x": (16, 1024, 1024)}, {"causal": True, "scale": 0.125}, gpu_only=True),
    ],
    empty=[Case({"x": (0, 5)}), Case({"x": (5, 0)}), Case({"x": (2, 0, 3)}, {"causal": True})],
    typical=Case({"x": (3, 20, 65)}, {"causal": True, "scale": 0.5}),
)
