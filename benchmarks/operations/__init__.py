"""What there is to know about each operation in order to time it: shapes, the least work, how to check, who has it.

One file an operation; `kernels` does the timing, and `aot` compiles their examples without a GPU.
"""

from __future__ import annotations

import importlib

from . import (
    add_norm,
    attention,
    base,
    cross_entropy,
    decode_attention,
    gelu,
    layer_norm,
    linear_cross_entropy,
    relu2,
    rms_norm,
    rope,
    sample_logits,
    softmax,
    swiglu,
)
from .base import LIBRARIES, Case, Function, Operation, Shape, results

MODULES = (
    softmax, layer_norm, rms_norm, add_norm, attention, decode_attention, cross_entropy, linear_cross_entropy, gelu,
    relu2, swiglu, rope, sample_logits,
)  # fmt: skip
OPERATIONS = {module.OPERATION.name: module.OPERATION for module in MODULES}

__all__ = ["LIBRARIES", "OPERATIONS", "Case", "Function", "Operation", "Shape", "implementation", "results"]


def implementation(name: str, operation: str) -> Function:
    """The function of that name, imported now.

    Raises:
        ImportError: for a library that is not there, and KeyError for one that does not have the operation.
    """
    if name not in LIBRARIES:
        function, adapt = base.implementation(name, operation), OPERATIONS[operation].adapt
        return function if adapt is None else adapt(function)
    module, attribute, more = OPERATIONS[operation].peers[name]
    found = getattr(importlib.import_module(module), attribute)
    call = getattr(found, "apply", found)
    if not isinstance(more, tuple):
        return lambda *inputs, **options: call(*more(*inputs, **options))
    # The options are those of the form; it is `peers` that says how the library is told of them.
    return lambda *inputs, **_: call(*inputs, *more)
