"""The operations that have a kernel, and the shapes that each is tried on: one file an operation."""

from __future__ import annotations

from .attention import ATTENTION
from .layer_norm import LAYER_NORM
from .softmax import SOFTMAX

OPERATIONS = [SOFTMAX, LAYER_NORM, ATTENTION]

__all__ = ["ATTENTION", "LAYER_NORM", "OPERATIONS", "SOFTMAX"]
