from __future__ import annotations

from dataclasses import replace

from hornbook import native
from hornbook.kernels import attention
from hornbook.reference.attention import attention as reference_attention

from ..harness import Case, Ends, Ids, Operation


def heads(B: int, T_q: int, T_k: int, H: int, H_kv: int, D: int, gpu_only: bool = False, **options: object) -> Case:
    shapes = {"q": (B, T_q, H, D), "k": (B, T_k, H_kv, D), "v": (B, T_k, H_kv, D)}
    return Case(shapes, options, gpu_only)


def also(case: Case, **inputs: object) -> Case:
    """With constants besides: slopes, documents, sequences."""
    return replace(case, inputs=case.inputs | inputs, fixed=tuple(inputs))


def packed(total: int, H: int, H_kv: int, D: int, parts: int, **options: object) -> Case:
    """Sequences in a row."""
    shapes = {"q": (total, H, D), "k": (total, H_kv, D), "v": (total, H_kv, D), "cu_seqlens": Ends(parts, total)}
    return Case(shapes, options)


def with_everything(B: int, T: int) -> Case:
    """All options at a time."""
    case = heads(B, T, T, 2, 1, 24, window=9, softcap=2.0, return_lse=True)
    return also(case, document_ids=Ids((B, T), 3, ascending=True), alibi_slopes=(2,))


MASKS = [
    # A window of one key, of less than a block, of more, and of more than there are keys.
    *(heads(1, 130, 130, 2, 1, 32, window=w, causal=c) for w in (1, 20, 100, 500) for c in (True, False)),
    heads(1, 50, 200, 1, 1, 24, window=60),
    heads(1, 200, 50, 1, 1, 24, window=60),  # queries that see nothing, before and behind
    heads(1, 200, 50, 1, 1, 24, window=10, causal=False),
    heads(1, 70, 70, 2, 1, 32, softcap=1.5),
    heads(1, 70, 70, 2, 2, 96, softcap=30.0, causal=False, window=9),
    also(heads(2, 70, 90, 4, 2, 32), alibi_slopes=(4,)),
    also(heads(2, 70, 70, 2, 1, 40, causal=False), alibi_slopes=(2, 2)),
    also(heads(2, 130, 130, 2, 1, 32), document_ids=Ids((2, 130), 4, ascending=True)),
    also(heads(1, 200, 200, 1, 1, 16, causal=False), document_ids=Ids((1, 200), 3, ascending=True)),
    also(heads(1, 150, 150, 2, 2, 32), document_ids=Ids((1, 150), 3)),  # their tokens mixed
    also(heads(1, 65, 65, 1, 1, 32), document_ids=Ids((1, 65), 1000, ascending=True)),  # most of one token
    also(
        heads(1, 150, 150, 2, 1, 72, window=30, softcap=2.0, return_lse=True),
        document_ids=Ids((1, 150), 3, ascending=True), alibi_slopes=(2,),
    ),
    packed(150, 2, 1, 32, 5),
    packed(150, 2, 2, 24, 40, causal=False, window=3, return_lse=True),
    Case(dict.fromkeys("qkv", (2, 70, 32))),  # one head
    Case(dict.fromkeys("qkv", (1, 70, 64)), {"return_lse": True, "window": 12, "causal": False}),
    heads(2, 65, 129, 2, 1, 48, return_lse=True),
    heads(1, 40, 70, 1, 1, 32, scale=0.0),
    also(
        heads(2, 4096, 4096, 8, 2, 64, gpu_only=True, window=128),
        document_ids=Ids((2, 4096), 16, ascending=True),
    ),
    heads(2, 2000, 2000, 8, 2, 128, gpu_only=True, softcap=30.0),
]  # fmt: skip
ATTENTION = Operation(
    name="attention",
    fused=attention.attention,
    reference=reference_attention,
    torch=native.attention,
    forward=("attention_forward",),
    backward=("attention_backward_q", "attention_backward_kv"),
    files=("attention_tiles", "attention_call", "attention_backward"),
    cases=[
        *(heads(1, T, T, 2, 1, 32, causal=causal) for T in (1, 2, 63, 64, 65, 127) for causal in (True, False)),
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
        *MASKS,
    ],
    empty=[
        heads(0, 5, 5, 2, 1, 16),
        heads(1, 0, 5, 2, 1, 16),
        heads(1, 5, 0, 2, 1, 16),
        heads(1, 5, 5, 0, 1, 16),
    ],
    typical=heads(2, 20, 40, 2, 1, 24),
)

ATTENTION_MASKED = replace(
    ATTENTION,
    cases=[],
    empty=[heads(1, 5, 0, 2, 1, 16, window=2, softcap=1.0), packed(0, 2, 1, 16, 3)],
    typical=with_everything(2, 24),
)
"""with all options at a time, for the checks that are not about numbers"""
