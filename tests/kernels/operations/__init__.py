"""The operations that have a kernel, and the shapes that each is tried on: one file an operation."""

from __future__ import annotations

from .attention import ATTENTION
from .gelu import GELU
from .layer_norm import LAYER_NORM
from .relu2 import RELU2
from .rope import ROPE
from .softmax import SOFTMAX
from .swiglu import SWIGLU

OPERATIONS = [SOFTMAX, LAYER_NORM, ATTENTION, GELU, RELU2, SWIGLU, ROPE]

__all__ = ["ATTENTION", "GELU", "LAYER_NORM", "OPERATIONS", "RELU2", "ROPE", "SOFTMAX", "SWIGLU"]
