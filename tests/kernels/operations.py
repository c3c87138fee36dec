"""The operations that have a kernel, and the shapes that each is tried on."""

from __future__ import annotations

from dataclasses import replace

from hornbook import native
from hornbook.kernels import attention, layer_norm, softmax
from hornbook.reference.attention import attention as reference_attention
from hornbook.reference.layer_norm import layer_norm as reference_layer_norm
from hornbook.reference.softmax import softmax as reference_softmax

from .harness import Case, Operation

WIDTHS = (1, 7, 63, 64, 65, 123, 1000, 4096, 50257, 65537)


def heads(B: int, T_q: int, T_k: int, H: int, H_kv: int, D: int, gpu_only: bool = False, **options: object) -> Case:
    shapes = {"q": (B, T_q, H, D), "k": (B, T_k, H_kv, D), "v": (B, T_k, H_kv, D)}
    return Case(shapes, options, gpu_only)


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

SUMS = "layer_norm_dparameters"
LAYER_NORM = Operation(
    name="layer_norm",
    fused=layer_norm.layer_norm,
    reference=reference_layer_norm,
    torch=native.layer_norm,
    forward=("layer_norm_rows|layer_norm_long_row",),
    backward=("layer_norm_dx_rows|layer_norm_dx_long_row", SUMS),
    cases=[
        *(Case({"x": (3, width), "weight": (width,), "bias": (width,)}) for width in WIDTHS if width > 1),
        Case({"x": (5, 1), "weight": (1,), "bias": (1,)}, {"eps": 0.5}),
        Case({"x": (2, 50, 65), "weight": None, "bias": None}, without=(SUMS,)),
        Case({"x": (9, 65), "weight": (65,), "bias": (65,)}, plus=1000.0),  # far from 0, where sums of squares are lost
        Case({"x": (3, 9000), "weight": (9000,), "bias": (9000,)}, plus=1000.0),
        Case({"x": (9, 65), "weight": (65,), "bias": (65,)}, in_fp32=("weight", "bias")),
        Case({"x": (3, 9000), "weight": (9000,), "bias": (9000,)}, in_fp32=("weight",)),
        Case({"x": (2, 50, 65), "weight": (65,), "bias": None}),
        Case({"x": (2, 50, 65), "weight": None, "bias": (65,)}, {"eps": 1e-3}),
        Case({"x": (2100, 33), "weight": (33,), "bias": (33,)}),  # more rows than one round of the sums takes
        Case({"x": (8192, 1024), "weight": (1024,), "bias": (1024,)}, gpu_only=True),
        Case({"x": (64, 65537), "weight": (65537,), "bias": (65537,)}, gpu_only=True),
    ],
    empty=[
        Case({"x": (0, 5), "weight": (5,), "bias": (5,)}),
        Case({"x": (3, 0), "weight": (0,), "bias": (0,)}),
    ],
    typical=Case({"x": (3, 20, 65), "weight": (65,), "bias": (65,)}),
)

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

OPERATIONS = [SOFTMAX, LAYER_NORM, ATTENTION]
