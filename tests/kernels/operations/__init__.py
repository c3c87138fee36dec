"""The operations that have a kernel, and the shapes that each is tried on: one file an operation."""

from __future__ import annotations

from .attention import ATTENTION
from .cross_entropy import CROSS_ENTROPY
from .layer_norm import LAYER_NORM
from .linear_cross_entropy import LINEAR_CROSS_ENTROPY
from .softmax import SOFTMAX

OPERATIONS = [SOFTMAX, LAYER_NORM, ATTENTION, CROSS_ENTROPY, LINEAR_CROSS_ENTROPY]

__all__ = ["ATTENTION", "CROSS_ENTROPY", "LAYER_NORM", "LINEAR_CROSS_ENTROPY", "OPERATIONS", "SOFTMAX"]
