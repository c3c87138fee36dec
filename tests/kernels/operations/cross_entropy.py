from __future__ import annotations

from typing import Any

from hornbook import native
from hornbook.kernels import cross_entropy
from hornbook.reference.cross_entropy import cross_entropy as reference_cross_entropy

from ..harness import WIDTHS, Case, Ids, Operation

EVERYTHING: dict[str, Any] = {"label_smoothing": 0.2, "z_loss": 0.01, "softcap": 2.0}


def logits(rows: int, width: int, ignored: float = 0.3, more: dict[str, Any] | None = None, **options: Any) -> Case:
    """A call; ``more`` are what a case has besides inputs and options. With reduction="none" there is nothing to scale:
    backward starts the kernel of forward."""
    more = {"without": ("scale_in_place",) if options.get("reduction") == "none" else ()} | (more or {})
    return Case({"logits": (rows, width), "targets": Ids((rows,), width, ignored)}, options, **more)


CROSS_ENTROPY = Operation(
    name="cross_entropy",
    fused=cross_entropy.cross_entropy,
    reference=reference_cross_entropy,
    torch=native.cross_entropy,
    forward=("cross_entropy_rows|cross_entropy_long_row",),
    backward=("scale_in_place",),
    cases=[
        *(logits(3, width, ignored=0.0) for width in WIDTHS),
        *(logits(9, width, **EVERYTHING, reduction="none") for width in (1, 65, 2049, 40_000)),
        *(logits(9, 123, **{name: value}) for name, value in EVERYTHING.items()),
        *(logits(3, 65537, **{name: value}) for name, value in EVERYTHING.items()),
        *(logits(33, width, **EVERYTHING) for width in (7, 65)),
        logits(4, 40_000, **EVERYTHING, reduction="sum"),
        logits(70, 123, reduction="none"),
        logits(70, 12, ignored=0.0, reduction="sum", ignore_index=5),
        logits(3, 5, reduction="sum", ignored=1.0),  # nothing to learn from
        *(logits(*shape, more={"computed": ("logits",)}, inplace=True) for shape in ((70, 65), (3, 40_000))),
        *(logits(9, width, more={"times": 100.0}) for width in (65, 40_000)),  # exponentials of these overflow
        *(logits(9, width, more={"plus": 1e4}, label_smoothing=0.1) for width in (65, 40_000)),
        logits(5000, 7),  # more targets than are counted at once
        logits(4096, 50257, more={"gpu_only": True}),
        logits(64, 262_144, more={"gpu_only": True}, **EVERYTHING),
    ],
    empty=[logits(0, 5), logits(0, 5, reduction="sum"), logits(0, 5, reduction="none")],
    typical=logits(20, 65, **EVERYTHING),
)
