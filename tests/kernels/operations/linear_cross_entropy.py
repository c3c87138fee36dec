from __future__ import annotations

from typing import Any

from hornbook import native
from hornbook.kernels import linear_cross_entropy
from hornbook.reference.linear_cross_entropy import linear_cross_entropy as reference_linear_cross_entropy

from ..harness import Case, Ids, Operation
from .cross_entropy import EVERYTHING


def head(N: int, V: int, d: int, ignored: float = 0.3, more: dict[str, Any] | None = None, **options: Any) -> Case:
    """As `cross_entropy.logits`."""
    more = {"without": ("scaled_copy",) if options.get("reduction") == "none" else ()} | (more or {})
    return Case({"x": (N, d), "weight": (V, d), "targets": Ids((N,), V, ignored)}, options, **more)


LINEAR_CROSS_ENTROPY = Operation(
    name="linear_cross_entropy",
    fused=linear_cross_entropy.linear_cross_entropy,
    reference=reference_linear_cross_entropy,
    torch=native.linear_cross_entropy,
    forward=("cross_entropy_rows|cross_entropy_long_row",),
    backward=("scaled_copy",),
    cases=[
        *(head(7, V, d, ignored=0.0) for V, d in ((1, 1), (5, 1), (1, 5), (64, 16), (65, 33), (123, 7))),
        head(5, 40_000, 3),
        head(300, 1000, 8),  # five chunks
        head(300, 1000, 8, **EVERYTHING, reduction="none"),
        head(300, 1000, 8, more={"in_fp32": ("weight",)}, reduction="sum"),
        *(head(20, 65, 9, **{name: value}) for name, value in EVERYTHING.items()),
        head(20, 65, 9, reduction="none"),
        head(20, 6, 9, ignored=0.0, ignore_index=5, reduction="sum"),
        head(20, 65, 9, more={"in_fp32": ("weight",)}, reduction="none"),
        head(9, 65, 9, more={"times": 20.0}),
        head(4096, 50304, 768, more={"gpu_only": True}),
        head(2048, 32000, 1024, more={"gpu_only": True}, **EVERYTHING),
    ],
    empty=[head(0, 5, 3), head(0, 5, 3, reduction="sum"), head(0, 5, 3, reduction="none")],
    typical=head(20, 33, 24, **EVERYTHING),
)
