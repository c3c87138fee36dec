r"""Layer normalisation over the last dimension (Ba et al., 2016, https://arxiv.org/abs/1607.06450).

    x̂ = r (x - mean),    r = 1 / sqrt(variance + eps),    y = w x̂ + b

A program below has a few rows and holds them whole, so x is read once and y written once: 4 N bytes a row in bf16, the
least that is possible, for about 8 N operations, so memory is the limit. r and mean of each row are kept, in fp32, for
the way back, which all norms share (`norms_backward`).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import library, norms, norms_backward


@triton.jit
def layer_norm_rows(
    X, W, B, Y, Statistics, n_rows, n_cols, eps,
    HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """ROWS rows of up to BLOCK PIECES columns, each held whole."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # (ROWS, 1)
    x = norms.read(X, row, n_rows, n_cols, BLOCK, PIECES)  # PIECES of (ROWS, BLOCK)
    mean = norms.total(x, PIECES) / n_cols  # (ROWS, 1)
    tl.store(Statistics + n_rows + row, mean, mask=row < n_rows)
    x = norms.centred(x, mean, n_cols, BLOCK, PIECES)
    r = 1 / tl.sqrt(norms.total_of_squares(x, PIECES) / n_cols + eps)
    for k in tl.static_range(PIECES):
        y = norms.scaled(x[k] * r, k, W, B, n_cols, HAS_WEIGHT, HAS_BIAS, ROWS, BLOCK, PIECES)
        norms.write(Y, y, k, row, n_rows, n_cols, BLOCK, PIECES)
    tl.store(Statistics + row, r, mask=row < n_rows)


def _forward(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    return norms.forward(layer_norm_rows, x, weight, bias, eps, rms=False)


_layer_norm = library.operator(
    "layer_norm(Tensor x, Tensor? weight, Tensor? bias, float eps) -> (Tensor, Tensor)",
    _forward, lambda x, *_: norms.outputs(x, rms=False),
)  # fmt: skip


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        y, statistics = _layer_norm(x, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, statistics)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return norms_backward.gradients(ctx, dy, rms=False)


def refusal(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> str | None:
    """Why the kernel does not take this call, or None if it does."""
    return norms.refusal(x, weight, bias)


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(variance + eps) · weight + bias over the last dimension; see `reference.layer_norm`.

    Args:
        x: (..., N), fp32, fp16 or bf16.
        weight, bias: (N,), of any of these dtypes, or none.

    Returns:
        The shape and dtype of x; the statistics are computed in fp32.

    Raises:
        UnsupportedError: for other dtypes and shapes.
    """
    library.require(refusal(x, weight, bias, eps))
    weight, bias = (None if t is None else t.contiguous() for t in (weight, bias))
    return _LayerNorm.apply(x.contiguous(), weight, bias, float(eps))
