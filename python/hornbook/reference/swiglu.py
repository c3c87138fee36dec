"""SwiGLU (Shazeer, 2020, https://arxiv.org/abs/2002.05202)."""

from __future__ import annotations

import torch
from torch import Tensor


def swiglu(gate: Tensor, up: Tensor | None = None) -> Tensor:
    """silu(gate) · up, where silu(x) = x / (1 + exp(-x)): one projection decides how much of the other passes.

    Args:
        gate, up: (..., N) each; or, without ``up``, (..., 2N) with the gate in the first half and ``up`` in the second.

    Returns:
        (..., N) in gate's dtype; computed in fp32 or wider.
    """
    if up is None:
        gate, up = gate.chunk(2, dim=-1)
    wide = torch.promote_types(gate.dtype, torch.float32)
    g = gate.to(wide)
    return (g * torch.sigmoid(g) * up.to(wide)).to(gate.dtype)
