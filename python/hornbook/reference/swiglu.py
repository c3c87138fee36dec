"""SwiGLU (Shazeer, 2020, https://arxiv.org/abs/2002.05202)."""

from __future__ import annotations

import torch
from torch import Tensor


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up, where silu(x) = x / (1 + exp(-x)): one projection decides how much of the other passes.

    Args:
        gate, up: the same shape.
    """
    g = gate.to(torch.promote_types(gate.dtype, torch.float32))
    return (g * torch.sigmoid(g)).to(gate.dtype) * up
