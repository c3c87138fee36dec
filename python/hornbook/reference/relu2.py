"""Squared ReLU (So et al., 2021, https://arxiv.org/abs/2109.08668)."""

from __future__ import annotations

from torch import Tensor


def relu2(x: Tensor) -> Tensor:
    """max(x, 0)² for any shape: sparse like ReLU, with a continuous slope."""
    return x.clamp_min(0) ** 2
