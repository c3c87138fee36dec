"""The operations that have a kernel, and the shapes that each is tried on: one file an operation."""

from __future__ import annotations

from .add_norm import ADD_NORM
from .attention import ATTENTION
from .layer_norm import LAYER_NORM
from .rms_norm import RMS_NORM
from .softmax import SOFTMAX

OPERATIONS = [SOFTMAX, LAYER_NORM, RMS_NORM, ADD_NORM, ATTENTION]

__all__ = ["ADD_NORM", "ATTENTION", "LAYER_NORM", "OPERATIONS", "RMS_NORM", "SOFTMAX"]
