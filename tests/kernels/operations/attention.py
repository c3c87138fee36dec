from __future__ import annotations

from dataclasses import replace

from hornbook import native
from hornbook.kernels import attention
from hornbook.reference.attention import attention as reference_attention

from ..harness import Case, Operation


def heads(B: int, T_q: int, T_k: int, H: int, H_kv: int, D: int, gpu_only: bool = False, **options: object) -> Case:
    shapes = {"q": (B, T_q, H, D), "k": (B, T_k, H_kv, D), "v": (B, T_k, H_kv, D)}
    return Case(shapes, options, gpu_only)


ATTENTION = Operation(
    name="attention",
    fused=attention.attention,
    reference=reference_attention,
    torch=native.attention,
    forward=("attention_forward",),
    backward=("attention_backward_q", "attention_backward_kv"),
    cases=[
        *(heads(1, T, T, 2, 1, 32, causal=causal) for T in (1, 7, 63, 64, 65, 123) for causal in (True, False)),
        *(heads(1, 40, 70, 1, 1, D) for D in (16, 24, 40, 64, 72, 96, 128, 136, 192, 256)),
        *(heads(2, 33, 33, H, H_kv, 16) for H, H_kv in ((3, 1), (4, 2), (6, 6), (8, 1))),
        heads(1, 1, 130, 2, 2, 64),  # a step of decoding
        heads(1, 70, 33, 2, 2, 32),  # queries that see nothing
        heads(2, 65, 129, 2, 1, 48, causal=False, scale=0.7),
        heads(1, 40, 40, 1, 1, 16, scale=-1.5),
        replace(heads(1, 40, 70, 2, 1, 32), times=8.0),  # exponentials of these scores overflow
        *(
            heads(1, T, T, 1, 1, 64, gpu_only=(T, c) != (1000, True), causal=c)
            for T in (1000, 4096)
            for c in (True, False)
        ),
        heads(2, 2048, 2048, 8, 2, 128, gpu_only=True),
        heads(1, 1000, 3000, 4, 4, 96, gpu_only=True),
        heads(1, 1000, 1000, 4, 4, 256, gpu_only=True),
    ],
    empty=[
        heads(0, 5, 5, 2, 1, 16),
        heads(1, 0, 5, 2, 1, 16),
        heads(1, 5, 0, 2, 1, 16),
        heads(1, 5, 5, 0, 1, 16),
    ],
    typical=heads(2, 20, 40, 2, 1, 24),
)
