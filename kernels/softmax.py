r"""Softmax over the last dimension.

    y_j = exp(s x_j - m) / l,    m = max_k s x_k,    l = sum_k exp(s x_k - m)
    dx_j = s y_j (dy_j - sum_k dy_k y_k)

The causal form is the same on shorter rows: query i sees the first i + 1 + T_k - T_q columns, and the others are 0.

A row that fits into registers is read once and written once, the least that is possible: 2 N bytes each way in bf16,
about 5 N operations. A longer row is read twice: once for m and l, which are kept up to date from block to block
(Milakov and Gimelshein, 2018, https://arxiv.org/abs/1805.02867), and once more to write y.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import library


@triton.jit
def columns_seen(row, n_cols, T_q, CAUSAL: tl.constexpr):
    """How many columns count, for each of the rows (R,)."""
    if CAUSAL:
        seen = row % T_q + 1 + n_cols - T_q
        return tl.maximum(seen, 0)
    else:
        return row * 0 + n_cols


@triton.jit
def softmax_rows(X, Y, n_rows, n_cols, T_q, scale, CAUSAL: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """ROWS rows of up to BLOCK columns, each held whole."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # (ROWS,)
    col = tl.arange(0, BLOCK)  # (BLOCK,)
    inside = (row < n_rows)[:, None] & (col < n_cols)[None, :]
    at = row[:, None] * n_cols + col[None, :]
    x = tl.load(X + at, mask=inside, other=0.0).to(tl.float32)
    visible = inside & (col[None, :] < columns_seen(row, n_cols, T_q, CAUSAL)[:, None])
    s = tl.where(visible, x * scale, float("-inf"))
    m = tl.max(s, axis=1)
    m = tl.where(m == float("-inf"), 0.0, m)  # a row that sees nothing: e is 0 then, not nan
    e = tl.exp(s - m[:, None])
    l = tl.sum(e, axis=1)
    y = e / tl.where(l == 0.0, 1.0, l)[:, None]
    tl.store(Y + at, y.to(Y.dtype.element_ty), mask=inside)


@triton.jit
def softmax_long_row(X, Y, n_rows, n_cols, T_q, scale, CAUSAL: tl.constexpr, BLOCK: tl.constexpr):
    """One row of any length, in blocks."""
    row = tl.program_id(0).to(tl.int64)
    seen = columns_seen(row, n_cols, T_q, CAUSAL)
    X += row * n_cols
    Y += row * n_cols
    lane = tl.arange(0, BLOCK)
    m = tl.full((), float("-inf"), tl.float32)
    l = tl.full((), 0.0, tl.float32)
    for start in range(0, n_cols, BLOCK):
        col = start + lane
        x = tl.load(X + col, mask=col < n_cols, other=0.0).to(tl.float32)
        s = tl.where(col < seen, x * scale, float("-inf"))
        m_new = tl.maximum(m, tl.max(s, axis=0))
        safe = tl.where(m_new == float("-inf"), 0.0, m_new)
        l = l * tl.exp(m - safe) + tl.sum(tl.exp(s - safe), axis=0)
        m = m_new
    m = tl.where(m == float("-inf"), 0.0, m)
    l = tl.where(l == 0.0, 1.0, l)
    for start in range(0, n_cols, BLOCK):
        col = start + lane
        x = tl.load(X + col, mask=col < n_cols, other=0.0).to(tl.float32)
        s = tl.where(col < seen, x * scale, float("-inf"))
        y = tl.exp(s - m) / l
        tl.store(Y + col, y.to(Y.dtype.element_ty), mask=col < n_cols)


@triton.jit
def softmax_backward_rows(Y, DY, DX, n_rows, n_cols, scale, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Masked columns need no mask here: their y is 0, and so is their dx."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    col = tl.arange(0, BLOCK)
    inside = (row < n_rows)[:, None] & (col < n_cols)[None, :]
    at = row[:, None] * n_cols + col[None, :]
    y = tl.load(Y + at, mask=inside, other=0.0).to(tl.float32)
    dy = tl.load(DY + at, mask=inside, other=0.0).to(tl.float32)
    dx = scale * y * (dy - tl.sum(y * dy, axis=1)[:, None])
    tl.store(DX + at, dx.to(DX.dtype.element_ty), mask=inside)


@triton.jit
def softmax_backward_long_row(Y, DY, DX, n_rows, n_cols, scale, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    Y += row * n_cols
    DY += row * n_cols
    DX += row * n_cols
    lane = tl.arange(0, BLOCK)
    dot = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n_cols, BLOCK):
        col = start + lane
        y = tl.load(Y + col, mask=col < n_cols, other=0.0).to(tl.float32)
        dot += y * tl.load(DY + col, mask=col < n_cols, other=0.0).to(tl.float32)
    total = tl.sum(dot, axis=0)
    for start in range(0, n_cols, BLOCK):
        col = start + lane
        y = tl.load(Y + col, mask=col < n_cols, other=0.0).to(tl.float32)
        dy = tl.load(DY + col, mask=col < n_cols, other=0.0).to(tl.float32)
        tl.store(DX + col, (scale * y * (dy - total)).to(DX.dtype.element_ty), mask=col < n_cols)


# Columns up to → rows a program, warps: one table for all GPUs. What is longer goes block by block.
TABLE = {64: (32, 4), 128: (16, 4), 256: (8, 4), 512: (4, 4), 1024: (2, 4), 2048: (1, 4), 4096: (1, 8), 8192: (1, 8)}
LONG_BLOCK, LONG_WARPS = 4096, 8


def tile(n_cols: int) -> tuple[int, int, int] | None:
    """(ROWS, BLOCK, warps) for rows of ``n_cols``, or None if they are too long to be held whole."""
    for most, (rows, warps) in TABLE.items():
        if n_cols <= most:
            return rows, most, warps
    return None


def _forward(x: Tensor, scale: float, causal: bool) -> Tensor:
    y = torch.empty_like(x)
    n_cols = x.shape[-1]
    if x.numel() == 0:
        return y
    n_rows = x.numel() // n_cols
    T_q = x.shape[-2] if causal else 1
    if (shape := tile(n_cols)) is not None:
        rows, block, warps = shape
        grid = (triton.cdiv(n_rows, rows),)
        library.launch(
            softmax_rows, grid, x, y, n_rows, n_cols, T_q, scale,
            CAUSAL=causal, ROWS=rows, BLOCK=block, num_warps=warps,
        )  # fmt: skip
    else:
        library.launch(
            softmax_long_row, (n_rows,), x, y, n_rows, n_cols, T_q, scale,
            CAUSAL=causal, BLOCK=LONG_BLOCK, num_warps=LONG_WARPS,
        )  # fmt: skip
    return y


def _backward(y: Tensor, dy: Tensor, scale: float) -> Tensor:
    dx = torch.empty_like(y)
    n_cols = y.shape[-1]
    if y.numel() == 0:
        return dx
    n_rows = y.numel() // n_cols
    dy = dy.contiguous()
    if (shape := tile(n_cols)) is not None:
        rows, block, warps = shape
        grid = (triton.cdiv(n_rows, rows),)
        library.launch(
            softmax_backward_rows, grid, y, dy, dx, n_rows, n_cols, scale, ROWS=rows, BLOCK=block, num_warps=warps
        )
    else:
        library.launch(
            softmax_backward_long_row, (n_rows,), y, dy, dx, n_rows, n_cols, scale,
            BLOCK=LONG_BLOCK, num_warps=LONG_WARPS,
        )  # fmt: skip
    return dx


_softmax = library.operator(
    "softmax(Tensor x, float scale, bool causal) -> Tensor", _forward, lambda x, scale, causal: torch.empty_like(x)
)
_softmax_backward = library.operator(
    "softmax_backward(Tensor y, Tensor dy, float scale) -> Tensor", _backward, lambda y, dy, scale: torch.empty_like(y)
)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, scale: float, causal: bool) -> Tensor:
        return _softmax(x, scale, causal)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.scale = inputs[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        return _softmax_backward(y, dy, ctx.scale), None, None


def refusal(x: Tensor, *, scale: float = 1.0, causal: bool = False) -> str | None:
    """Why the kernel does not take this call, or None if it does."""
    if x.dim() < (2 if causal else 1):
        return f"x has {x.dim()} dimensions, but (..., {'T_q, T_k' if causal else 'N'}) is needed"
    if not math.isfinite(scale):
        return f"scale must be a finite number, not {scale}"
    return library.tensors_refused(x)


def softmax(x: Tensor, *, scale: float = 1.0, causal: bool = False) -> Tensor:
    """softmax(scale · x) over the last dimension, in one pass over memory; see `reference.softmax`.

    Args:
        x: (..., N), or (..., T_q, T_k) where ``causal`` is set; fp32, fp16 or bf16.
        scale: multiplies x first.
        causal: query i sees keys 0 ... i + T_k - T_q, the later ones get 0. A row that sees none is all 0.

    Returns:
        The shape and dtype of x; computed in fp32.

    Raises:
        UnsupportedError: for other dtypes.
    """
    library.require(refusal(x, scale=scale, causal=causal))
    return _Softmax.apply(x.contiguous(), float(scale), causal)
