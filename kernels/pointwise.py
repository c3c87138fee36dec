r"""What `gelu` and `relu2` share: they say what becomes of a number, this file how the numbers come and go.

    y = f(z),    dx = f'(z) dy,    db = sum over rows of dx,    with z = x + b

Forward reads x and writes y, backward reads x and dy and writes dx: in bf16 4 and 6 bytes a number, and some 20
operations. Memory is the limit, so what counts is how many bytes are asked for at once: a tile gives each thread 16
numbers of every tensor, which are two reads of 16 bytes in bf16 and four in fp32, and none of them waits for another.

A tensor is rows of columns; where nothing depends on the column, it is one row of all its numbers. db is a sum over
rows: each program adds up its own, always the same ones in the same order, and a small kernel adds up the programs. No
atomics, so the bits are the same every time. The sums are those of dx before it is rounded.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import library


@triton.jit
def tile_of(program, n_cols, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Rows (ROWS,) and columns (BLOCK,) of a program: side by side first, as they lie in memory, then below."""
    across = (n_cols - 1) // BLOCK + 1  # tl.cdiv would go beyond 32 bits where n_cols nearly does
    row = (program // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    col = (program % across).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return row, col


@triton.jit
def pointwise_forward(
    X, B, Y, n_rows, n_cols, F: tl.constexpr, HAS_BIAS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    row, col = tile_of(tl.program_id(0), n_cols, ROWS, BLOCK)
    inside = (row < n_rows)[:, None] & (col < n_cols)[None, :]
    at = row[:, None] * n_cols + col[None, :]
    z = tl.load(X + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        z += tl.load(B + col, mask=col < n_cols, other=0.0).to(tl.float32)[None, :]
    tl.store(Y + at, F(z).to(Y.dtype.element_ty), mask=inside)


@triton.jit
def pointwise_backward(
    X, B, DY, DX, Sums, n_rows, n_cols, SLOPE: tl.constexpr, HAS_BIAS: tl.constexpr, WANTS_X: tl.constexpr,
    WANTS_BIAS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A program has the rows of its tile, then those a whole grid further down, and so on; it reads ahead."""
    across = (n_cols - 1) // BLOCK + 1
    part, step = (tl.program_id(0) // across).to(tl.int64), tl.num_programs(0) // across * ROWS
    row, col = tile_of(tl.program_id(0), n_cols, ROWS, BLOCK)
    bias = 0.0
    if HAS_BIAS:
        bias = tl.load(B + col, mask=col < n_cols, other=0.0).to(tl.float32)[None, :]
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for _ in tl.range(part * ROWS, n_rows, step, num_stages=STAGES):  # type: ignore[reportGeneralTypeIssues]
        inside = (row < n_rows)[:, None] & (col < n_cols)[None, :]
        at = row[:, None] * n_cols + col[None, :]
        z = tl.load(X + at, mask=inside, other=0.0).to(tl.float32)
        dy = tl.load(DY + at, mask=inside, other=0.0).to(tl.float32)  # 0 outside, and so is dx
        if HAS_BIAS:
            z += bias
        dx = SLOPE(z) * dy
        if WANTS_X:
            tl.store(DX + at, dx.to(DX.dtype.element_ty), mask=inside)
        if WANTS_BIAS:
            total += dx
        row += step
    if WANTS_BIAS:
        tl.store(Sums + part * n_cols + col, tl.sum(total, axis=0), mask=col < n_cols)


@triton.jit
def pointwise_bias(Sums, DB, n_rows, n_cols, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The sum over the rows of ``Sums`` (n_rows, n_cols)."""
    col = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(0, n_rows, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < n_rows)[:, None] & (col < n_cols)[None, :]
        total += tl.load(Sums + row[:, None].to(tl.int64) * n_cols + col[None, :], mask=inside, other=0.0)
    tl.store(DB + col, tl.sum(total, axis=0).to(DB.dtype.element_ty), mask=col < n_cols)


# Numbers of a tile, of which a thread of 4 warps has 16. Columns up to → of a tile's columns.
TILE = 2048
BLOCKS = (16, 64, 256)
# Of the sums over rows: half a tile, as the sums take registers too, with the next two on their way; how many programs
# there are at most, all columns together: one wave of an H200, 8 to each of its 132 multiprocessors; and the tile of
# the small kernel. Fixed numbers, so that the order of adding up, and with it the last bit, is the same on every GPU.
SUMMED_TILE, STAGES = 1024, 3
PROGRAMS = 1024
SUM_TILES = {4: 512, 64: 32}  # programs' rows up to → columns


def tile(n_rows: int, n_cols: int, numbers: int = TILE) -> tuple[int, int]:
    """(ROWS, BLOCK) for rows of ``n_cols``."""
    block = numbers if n_rows == 1 else next((b for b in BLOCKS if n_cols <= b), BLOCKS[-1])
    return numbers // block, block


def rows_and_columns(x: Tensor, bias: Tensor | None) -> tuple[int, int]:
    """What a tensor, not empty, is taken as."""
    n_cols = x.numel() if bias is None else x.shape[-1]
    return x.numel() // n_cols, n_cols


def forward(x: Tensor, bias: Tensor | None, f: Any) -> Tensor:
    """f(x + bias) of a contiguous x; f is a ``@triton.jit`` function of a number."""
    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    n_rows, n_cols = rows_and_columns(x, bias)
    rows, block = tile(n_rows, n_cols)
    grid = (library.cdiv(n_cols, block) * library.cdiv(n_rows, rows),)
    library.launch(
        pointwise_forward, grid, x, x if bias is None else bias, y, n_rows, n_cols,
        F=f, HAS_BIAS=bias is not None, ROWS=rows, BLOCK=block,
    )  # fmt: skip
    return y


def backward(
    x: Tensor, bias: Tensor | None, dy: Tensor, slope: Any, wants_x: bool, wants_bias: bool
) -> tuple[Tensor, Tensor]:
    """dx and db; what is not wanted comes out without numbers."""
    dx, db = fake_backward(x, bias, dy, wants_x, wants_bias)
    if x.numel() == 0:
        return dx, db.zero_()
    n_rows, n_cols = rows_and_columns(x, bias)
    rows, block = tile(n_rows, n_cols, SUMMED_TILE if wants_bias else TILE)
    across, down = library.cdiv(n_cols, block), library.cdiv(n_rows, rows)
    if wants_bias:
        down = min(down, max(1, PROGRAMS // across))
    sums = x.new_empty((down, n_cols) if wants_bias else 0, dtype=torch.float32)
    library.launch(
        pointwise_backward, (across * down,), x, x if bias is None else bias, dy.contiguous(), dx, sums, n_rows, n_cols,
        SLOPE=slope, HAS_BIAS=bias is not None, WANTS_X=wants_x, WANTS_BIAS=wants_bias, ROWS=rows, BLOCK=block,
        STAGES=STAGES if wants_bias else 1,
    )  # fmt: skip
    if wants_bias:
        rows, block = next((r, c) for r, c in SUM_TILES.items() if down <= r or r == max(SUM_TILES))
        library.launch(pointwise_bias, (library.cdiv(n_cols, block),), sums, db, down, n_cols, ROWS=rows, BLOCK=block)
    return dx, db


def fake_backward(x: Tensor, bias: Tensor | None, dy: Tensor, *more: Any) -> tuple[Tensor, Tensor]:
    """The shapes of `backward`, of which the last two arguments say what is wanted."""
    wants_x, wants_bias = more[-2:]
    db = bias if wants_bias and bias is not None else x
    return torch.empty_like(x) if wants_x else x.new_empty(0), db.new_empty(db.shape if wants_bias else 0)


def refusal(x: Tensor, bias: Tensor | None) -> str | None:
    """Why the kernels do not take these, or None if they do."""
    if bias is not None and (x.dim() < 1 or bias.shape != x.shape[-1:]):
        return f"bias has shape {tuple(bias.shape)}, but x has {tuple(x.shape)}, and a bias must have its last"
    return library.tensors_refused(x, bias)
