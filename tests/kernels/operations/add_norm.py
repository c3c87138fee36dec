from __future__ import annotations

from typing import Any

from hornbook import native
from hornbook.kernels import add_norm
from hornbook.reference.add_norm import add_norm as reference_add_norm

from ..harness import Case, Operation
from .layer_norm import BACKWARD, FILES, SUMS

LAYER, RMS = {"norm": "layer_norm"}, {"norm": "rms_norm"}


def case(*shape: int, options: dict[str, Any] = LAYER, weight: bool = True, bias: bool = True, **more: Any) -> Case:
    inputs = {
        "x": shape,
        "residual": shape,
        "weight": shape[-1:] if weight else None,
        "bias": shape[-1:] if bias else None,
    }
    return Case(inputs, options, without=() if weight or bias else (SUMS,), **more)


ADD_NORM = Operation(
    name="add_norm",
    fused=add_norm.add_norm,
    reference=reference_add_norm,
    torch=native.add_norm,
    forward=("add_norm_rows|norm_long_row",),
    backward=BACKWARD,
    cases=[
        *(case(3, width) for width in (7, 64, 65, 1000, 4096)),
        *(case(3, width, options=RMS, bias=False) for width in (1, 63, 123, 1000)),
        case(5, 1, options=LAYER | {"eps": 0.5}),
        *(case(2, 20, 65, options=options, weight=False, bias=False) for options in (LAYER, RMS)),
        *(case(9, 65, options=options, in_fp32=("residual",)) for options in (LAYER, RMS)),
        case(9, 65, in_fp32=("x", "weight")),
        case(2, 9000, in_fp32=("residual", "weight", "bias")),
        case(2, 9000, options=RMS, bias=False),
        *(case(2, 20000, options=options, weight=False) for options in (LAYER, RMS)),
        case(2, 20000, in_fp32=("residual",)),
        *(case(*shape, plus=plus) for shape in ((9, 65), (64, 768)) for plus in (50.0, 500.0)),  # of each of the two
        *(case(8000, width, gpu_only=True) for width in (768, 1600, 4096, 16384)),
        *(case(8000, width, options=RMS, bias=False, in_fp32=("residual",), gpu_only=True) for width in (2048, 8192)),
    ],
    empty=[case(0, 5), case(3, 0)],
    typical=case(3, 20, 65),
    files=FILES,
)
