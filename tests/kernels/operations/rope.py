from __future__ import annotations

from dataclasses import replace

from hornbook import native
from hornbook.kernels import rope
from hornbook.reference.rope import rope as reference_rope

from ..harness import Case, Ids, Operation


def heads(B: int, T: int, H: int, D: int, P: int | None = None, **options: object) -> Case:
    """Without ``P`` positions are not given."""
    angles = (T if P is None else P, D // 2)
    inputs = {"x": (B, T, H, D), "cos": angles, "sin": angles, "positions": None if P is None else Ids((B, T), P)}
    return Case(inputs, options, fixed=("cos", "sin"))


ROPE = Operation(
    name="rope",
    fused=rope.rope,
    reference=reference_rope,
    torch=native.rope,
    forward=("rope_forward",),
    backward=("rope_backward",),
    cases=[
        *(
            heads(2, 7, 3, D, P, interleaved=interleaved)
            for D in (2, 6, 16, 24, 64, 80, 128)
            for P, interleaved in ((None, False), (11, True))
        ),
        *(heads(1, T, H, 32, 200, interleaved=T == 65) for T in (1, 65, 130) for H in (1, 8, 12)),
        heads(1, 3, 2, 256, interleaved=True),
        heads(1, 2, 2, 5000, 3),  # more pairs than a tile has
        heads(1, 2, 2, 5000, interleaved=True),
        replace(heads(2, 9, 4, 40), in_fp32=("cos", "sin")),
        replace(heads(2, 9, 4, 40, 12, interleaved=True), in_fp32=("cos",)),
        replace(heads(4, 1024, 12, 64), gpu_only=True),
        replace(heads(2, 1000, 25, 96, 4096, interleaved=True), gpu_only=True),
    ],
    empty=[heads(0, 5, 2, 16), heads(2, 0, 2, 16), heads(2, 5, 0, 16, 9), heads(2, 5, 2, 0)],
    typical=heads(2, 5, 3, 24, 30),
)
