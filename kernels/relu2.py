r"""Squared ReLU (So et al., 2021, https://arxiv.org/abs/2109.08668).

    y = max(z, 0)²,    dx = 2 max(z, 0) dy,    with z = x + b

In bf16 4 bytes a number forward and 6 backward, and three operations. `pointwise` moves the numbers and sums up db.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import library, pointwise


@triton.jit
def rectified(z):
    return tl.where(z <= 0.0, 0.0, z)  # tl.maximum would make 0 of a nan


@triton.jit
def value(z):
    r = rectified(z)
    return r * r


@triton.jit
def slope(z):
    return 2.0 * rectified(z)


def _forward(x: Tensor, bias: Tensor | None) -> Tensor:
    return pointwise.forward(x, bias, value)


def _backward(x: Tensor, bias: Tensor | None, dy: Tensor, wants_x: bool, wants_bias: bool) -> tuple[Tensor, Tensor]:
    return pointwise.backward(x, bias, dy, slope, wants_x, wants_bias)


_relu2 = library.operator("relu2(Tensor x, Tensor? bias) -> Tensor", _forward, lambda x, bias: torch.empty_like(x))
_relu2_backward = library.operator(
    "relu2_backward(Tensor x, Tensor? bias, Tensor dy, bool wants_x, bool wants_bias) -> (Tensor, Tensor)",
    _backward, pointwise.fake_backward,
)  # fmt: skip


class _ReLU2(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, bias)
        return _relu2(x, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, bias = ctx.saved_tensors
        wants_x, wants_bias = ctx.needs_input_grad
        dx, db = _relu2_backward(x, bias, dy, wants_x, wants_bias)
        return dx if wants_x else None, db if wants_bias else None


def refusal(x: Tensor, bias: Tensor | None = None) -> str | None:
    """Why the kernel does not take this call, or None if it does."""
    return pointwise.refusal(x, bias)


def relu2(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """max(x + bias, 0)², in one pass over memory; see `reference.relu2`.

    Args:
        x: (..., N), or any shape without a bias; fp32, fp16 or bf16.
        bias: (N,), of any of these dtypes, or none.

    Returns:
        The shape and dtype of x; computed in fp32.

    Raises:
        UnsupportedError: for other dtypes and shapes.
    """
    library.require(refusal(x, bias))
    return _ReLU2.apply(x.contiguous(), None if bias is None else bias.contiguous())
