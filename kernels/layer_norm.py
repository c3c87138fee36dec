r"""Layer normalisation over the last dimension (Ba et al., 2016, https://arxiv.org/abs/1607.06450).

    x̂ = (x - mean) r,    r = 1 / sqrt(variance + eps),    y = w x̂ + b
    dx = r (g - mean(g) - x̂ mean(g x̂)),    g = w dy
    dw = sum over rows of dy x̂,    db = sum over rows of dy

Forward reads x once and writes y once, and keeps mean and r of each row, in fp32, for the way back. About 8 N
operations a row, so memory is the limit. dw and db are sums over rows: each program adds up its own rows, always the
same ones in the same order, and a second step adds up the programs. No atomics, so the bits are the same every time.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import library


@triton.jit
def scaled(x, W, B, col, n_cols, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr):
    """w x + b for columns ``col``; x is (..., len(col))."""
    if HAS_WEIGHT:
        x = x * tl.load(W + col, mask=col < n_cols, other=0.0).to(tl.float32)
    if HAS_BIAS:
        x = x + tl.load(B + col, mask=col < n_cols, other=0.0).to(tl.float32)
    return x


@triton.jit
def layer_norm_rows(
    X, W, B, Y, Mean, R, n_rows, n_cols, eps,
    HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROWS rows of up to BLOCK columns, each held whole."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # (ROWS,)
    col = tl.arange(0, BLOCK)  # (BLOCK,)
    inside = (row < n_rows)[:, None] & (col < n_cols)[None, :]
    at = row[:, None] * n_cols + col[None, :]
    x = tl.load(X + at, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=1) / n_cols
    centred = tl.where(inside, x - mean[:, None], 0.0)
    r = 1 / tl.sqrt(tl.sum(centred * centred, axis=1) / n_cols + eps)
    y = scaled(centred * r[:, None], W, B, col[None, :], n_cols, HAS_WEIGHT, HAS_BIAS)
    tl.store(Y + at, y.to(Y.dtype.element_ty), mask=inside)
    tl.store(Mean + row, mean, mask=row < n_rows)
    tl.store(R + row, r, mask=row < n_rows)


@triton.jit
def layer_norm_long_row(
    X, W, B, Y, Mean, R, n_rows, n_cols, eps, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr
):
    """One row of any length, in blocks. The squares are summed around the mean, which is therefore found first: the
    difference of two large sums would lose what a row far from 0 has of variance."""
    row = tl.program_id(0).to(tl.int64)
    X += row * n_cols
    Y += row * n_cols
    lane = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n_cols, BLOCK):
        total += tl.load(X + start + lane, mask=start + lane < n_cols, other=0.0).to(tl.float32)
    mean = tl.sum(total, axis=0) / n_cols
    squares = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n_cols, BLOCK):
        col = start + lane
        x = tl.load(X + col, mask=col < n_cols, other=0.0).to(tl.float32)
        centred = tl.where(col < n_cols, x - mean, 0.0)
        squares += centred * centred
    r = 1 / tl.sqrt(tl.sum(squares, axis=0) / n_cols + eps)
    for start in range(0, n_cols, BLOCK):
        col = start + lane
        x = tl.load(X + col, mask=col < n_cols, other=0.0).to(tl.float32)
        y = scaled((x - mean) * r, W, B, col, n_cols, HAS_WEIGHT, HAS_BIAS)
        tl.store(Y + col, y.to(Y.dtype.element_ty), mask=col < n_cols)
    tl.store(Mean + row, mean)
    tl.store(R + row, r)


@triton.jit
def layer_norm_dx_rows(
    DY, X, W, Mean, R, DX, n_rows, n_cols, HAS_WEIGHT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    col = tl.arange(0, BLOCK)
    inside = (row < n_rows)[:, None] & (col < n_cols)[None, :]
    at = row[:, None] * n_cols + col[None, :]
    mean = tl.load(Mean + row, mask=row < n_rows, other=0.0)[:, None]
    r = tl.load(R + row, mask=row < n_rows, other=0.0)[:, None]
    x_hat = tl.where(inside, (tl.load(X + at, mask=inside, other=0.0).to(tl.float32) - mean) * r, 0.0)
    dy = tl.load(DY + at, mask=inside, other=0.0).to(tl.float32)
    g = scaled(dy, W, W, col[None, :], n_cols, HAS_WEIGHT, False)
    mean_g = tl.sum(g, axis=1)[:, None] / n_cols
    mean_gx = tl.sum(g * x_hat, axis=1)[:, None] / n_cols
    dx = r * (g - mean_g - x_hat * mean_gx)
    tl.store(DX + at, dx.to(DX.dtype.element_ty), mask=inside)


@triton.jit
def layer_norm_dx_long_row(DY, X, W, Mean, R, DX, n_rows, n_cols, HAS_WEIGHT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    X += row * n_cols
    DY += row * n_cols
    DX += row * n_cols
    mean, r = tl.load(Mean + row), tl.load(R + row)
    lane = tl.arange(0, BLOCK)
    sum_g = tl.zeros((BLOCK,), tl.float32)
    sum_gx = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n_cols, BLOCK):
        col = start + lane
        x_hat = (tl.load(X + col, mask=col < n_cols, other=0.0).to(tl.float32) - mean) * r
        dy = tl.load(DY + col, mask=col < n_cols, other=0.0).to(tl.float32)
        g = scaled(dy, W, W, col, n_cols, HAS_WEIGHT, False)
        sum_g += g
        sum_gx += g * x_hat
    mean_g, mean_gx = tl.sum(sum_g, axis=0) / n_cols, tl.sum(sum_gx, axis=0) / n_cols
    for start in range(0, n_cols, BLOCK):
        col = start + lane
        x_hat = (tl.load(X + col, mask=col < n_cols, other=0.0).to(tl.float32) - mean) * r
        dy = tl.load(DY + col, mask=col < n_cols, other=0.0).to(tl.float32)
        g = scaled(dy, W, W, col, n_cols, HAS_WEIGHT, False)
        dx = r * (g - mean_g - x_hat * mean_gx)
        tl.store(DX + col, dx.to(DX.dtype.element_ty), mask=col < n_cols)


@triton.jit
def layer_norm_dparameters(DY, X, Mean, R, DW, DB, n_rows, n_cols, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Program (j, i) adds up the rows i ROWS, i ROWS + 1, ..., then those a whole grid further, of BLOCK columns.
    Columns come first, as only that side of a grid may be longer than 65,535."""
    part, parts = tl.program_id(1), tl.num_programs(1)
    col = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    dw = tl.zeros((BLOCK,), tl.float32)
    db = tl.zeros((BLOCK,), tl.float32)
    for start in range(part * ROWS, n_rows, parts * ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < n_rows)[:, None] & (col < n_cols)[None, :]
        at = row[:, None].to(tl.int64) * n_cols + col[None, :]
        mean = tl.load(Mean + row, mask=row < n_rows, other=0.0)[:, None]
        r = tl.load(R + row, mask=row < n_rows, other=0.0)[:, None]
        dy = tl.load(DY + at, mask=inside, other=0.0).to(tl.float32)
        x_hat = (tl.load(X + at, mask=inside, other=0.0).to(tl.float32) - mean) * r
        dw += tl.sum(dy * x_hat, axis=0)
        db += tl.sum(dy, axis=0)
    at = part.to(tl.int64) * n_cols + col
    tl.store(DW + at, dw, mask=col < n_cols)
    tl.store(DB + at, db, mask=col < n_cols)


# Columns up to → rows a program, warps: one table for all GPUs. What is longer goes block by block.
TABLE = {64: (32, 4), 128: (16, 4), 256: (8, 4), 512: (4, 4), 1024: (2, 4), 2048: (1, 4), 4096: (1, 8), 8192: (1, 8)}
LONG_BLOCK, LONG_WARPS = 4096, 8
# Of the sums over rows: rows at a time, columns a program, and how many programs share the rows, at most. Fixed
# numbers, so that the order of adding up, and with it the last bit, is the same on every GPU.
SUM_ROWS, SUM_BLOCK, SUM_PARTS = 16, 128, 64


def tile(n_cols: int) -> tuple[int, int, int] | None:
    """(ROWS, BLOCK, warps) for rows of ``n_cols``, or None if they are too long to be held whole."""
    for most, (rows, warps) in TABLE.items():
        if n_cols <= most:
            return rows, most, warps
    return None


def _forward(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    y = torch.empty_like(x)
    n_cols = x.shape[-1]
    n_rows = x.numel() // max(1, n_cols)
    mean, r = (x.new_empty(n_rows, dtype=torch.float32) for _ in range(2))
    if x.numel() == 0:
        return y, mean, r
    has = {"HAS_WEIGHT": weight is not None, "HAS_BIAS": bias is not None}
    arguments = (x, x if weight is None else weight, x if bias is None else bias, y, mean, r, n_rows, n_cols, eps)
    if (shape := tile(n_cols)) is not None:
        rows, block, warps = shape
        grid = (triton.cdiv(n_rows, rows),)
        library.launch(layer_norm_rows, grid, *arguments, **has, ROWS=rows, BLOCK=block, num_warps=warps)
    else:
        library.launch(layer_norm_long_row, (n_rows,), *arguments, **has, BLOCK=LONG_BLOCK, num_warps=LONG_WARPS)
    return y, mean, r


def _backward_x(dy: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, r: Tensor) -> Tensor:
    dx = torch.empty_like(x)
    if x.numel() == 0:
        return dx
    n_cols, n_rows = x.shape[-1], len(mean)
    arguments = (dy.contiguous(), x, x if weight is None else weight, mean, r, dx, n_rows, n_cols)
    has = {"HAS_WEIGHT": weight is not None}
    if (shape := tile(n_cols)) is not None:
        rows, block, warps = shape
        grid = (triton.cdiv(n_rows, rows),)
        library.launch(layer_norm_dx_rows, grid, *arguments, **has, ROWS=rows, BLOCK=block, num_warps=warps)
    else:
        library.launch(layer_norm_dx_long_row, (n_rows,), *arguments, **has, BLOCK=LONG_BLOCK, num_warps=LONG_WARPS)
    return dx


def _backward_parameters(dy: Tensor, x: Tensor, mean: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    n_cols, n_rows = x.shape[-1], len(mean)
    if x.numel() == 0:
        dw, db = (x.new_zeros(n_cols, dtype=torch.float32) for _ in range(2))
        return dw, db
    parts = min(SUM_PARTS, triton.cdiv(n_rows, SUM_ROWS))
    dw, db = (x.new_empty(parts, n_cols, dtype=torch.float32) for _ in range(2))
    grid = (triton.cdiv(n_cols, SUM_BLOCK), parts)
    library.launch(
        layer_norm_dparameters, grid, dy.contiguous(), x, mean, r, dw, db, n_rows, n_cols,
        ROWS=SUM_ROWS, BLOCK=SUM_BLOCK,
    )  # fmt: skip
    return dw.sum(0), db.sum(0)


def _fake_forward(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    statistics = [x.new_empty(x.numel() // max(1, x.shape[-1]), dtype=torch.float32) for _ in range(2)]
    return torch.empty_like(x), statistics[0], statistics[1]


def _fake_parameters(dy: Tensor, x: Tensor, mean: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    sums = [x.new_empty(x.shape[-1], dtype=torch.float32) for _ in range(2)]
    return sums[0], sums[1]


_layer_norm = library.operator(
    "layer_norm(Tensor x, Tensor? weight, Tensor? bias, float eps) -> (Tensor, Tensor, Tensor)", _forward, _fake_forward
)
_layer_norm_backward_x = library.operator(
    "layer_norm_backward_x(Tensor dy, Tensor x, Tensor? weight, Tensor mean, Tensor r) -> Tensor",
    _backward_x, lambda dy, x, weight, mean, r: torch.empty_like(x),
)  # fmt: skip
_layer_norm_backward_parameters = library.operator(
    "layer_norm_backward_parameters(Tensor dy, Tensor x, Tensor mean, Tensor r) -> (Tensor, Tensor)",
    _backward_parameters, _fake_parameters,
)  # fmt: skip


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        return _layer_norm(x, weight, bias, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        x, weight, bias, _ = inputs
        _, mean, r = output
        ctx.mark_non_differentiable(mean, r)
        ctx.set_materialize_grads(False)  # no zeros in the place of their gradients
        ctx.save_for_backward(x, weight, mean, r)
        ctx.bias_dtype = None if bias is None else bias.dtype

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 4
        x, weight, mean, r = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        dx = _layer_norm_backward_x(dy, x, weight, mean, r) if wants_x else None
        dw = db = None
        if wants_weight or wants_bias:
            dw, db = _layer_norm_backward_parameters(dy, x, mean, r)
            dw = dw.to(weight.dtype) if wants_weight else None
            db = db.to(ctx.bias_dtype) if wants_bias else None
        return dx, dw, db, None


def refusal(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> str | None:
    """Why the kernel does not take this call, or None if it does."""
    if x.dim() < 1:
        return "x has no dimension to normalise over"
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and t.shape != x.shape[-1:]:
            return f"{name} has shape {tuple(t.shape)}, but rows have {x.shape[-1]} columns"
    return library.tensors_refused(x, weight, bias)


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
    return _LayerNorm.apply(x.contiguous(), weight, bias, float(eps))[0]
