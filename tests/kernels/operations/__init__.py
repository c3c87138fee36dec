"""The operations that have a kernel, and the shapes that each is tried on: one file an operation."""

from __future__ import annotations

from .add_norm import ADD_NORM
from .attention import ATTENTION, ATTENTION_MASKED
from .cross_entropy import CROSS_ENTROPY
from .gelu import GELU
from .layer_norm import LAYER_NORM
from .linear_cross_entropy import LINEAR_CROSS_ENTROPY
from .relu2 import RELU2
from .rms_norm import RMS_NORM
from .rope import ROPE
from .softmax import SOFTMAX
from .swiglu import SWIGLU

OPERATIONS = [
    SOFTMAX, LAYER_NORM, RMS_NORM, ADD_NORM, ATTENTION, ATTENTION_MASKED, CROSS_ENTROPY, LINEAR_CROSS_ENTROPY,
    GELU, RELU2, SWIGLU, ROPE,
]  # fmt: skip

__all__ = [
    "ADD_NORM", "ATTENTION", "ATTENTION_MASKED", "CROSS_ENTROPY", "GELU", "LAYER_NORM", "LINEAR_CROSS_ENTROPY",
    "OPERATIONS", "RELU2", "RMS_NORM", "ROPE", "SOFTMAX", "SWIGLU",
]  # fmt: skip
