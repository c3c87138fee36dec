r"""Softmax over the last dimension.

    y_j = exp(s x_j - m) / l,    m = max_k s x_k,    l = sum_k exp(s x_k - m)
    dx_j = s y_j (dy_j - sum_k dy_k y_k)

The causal form is the same on shorter rows: query i sees the first i + 1 + T_k - T_q columns, and the others are 0.
They are written, but never read.

A row that fits into registers is read once and written once, the least that is possible: 2 N bytes each way in bf16,
about 8 N operations, which a GPU has time for while the bytes travel. exp(s (x - m)) is 2 to the power of (x - m) times
s log₂e, a number that is known beforehand; x - m comes first, as s x alone may be too large for fp32.

A longer row is read twice. The first time, m and l are kept up to date from chunk to chunk (Milakov and Gimelshein,
2018, https://arxiv.org/abs/1805.02867), apart for each lane of a chunk, so that threads wait for each other once, at
the end. The second time goes backwards: the chunks that were read last are those that the L2 cache still has. The cache
is told to keep what is read the first time, and not to keep what is read or written the second time.
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

LOG2E = math.log2(math.e)


@triton.jit
def columns_seen(row, n_cols, T_q, CAUSAL: tl.constexpr):
    """How many columns count, for each of the rows."""
    if CAUSAL:
        return tl.maximum(row % T_q + 1 + n_cols - T_q, 0).to(tl.int32)
    else:
        return (row * 0 + n_cols).to(tl.int32)


@triton.jit
def readable(col, seen, n_cols, CAUSAL: tl.constexpr):
    """The columns to read: those that are seen, and what is read with them in one piece."""
    if CAUSAL:
        return (col < n_cols) & (col < (seen + 15) // 16 * 16)
    else:
        return col < n_cols


@triton.jit
def numbers(X, readable, NEGATIVE: tl.constexpr, POLICY: tl.constexpr):
    """What is to be exponentiated, as fp32, turned round if the scale is below 0; what is not read is -inf."""
    if NEGATIVE:
        return -tl.load(X, mask=readable, other=float("inf"), eviction_policy=POLICY).to(tl.float32)
    else:
        return tl.load(X, mask=readable, other=float("-inf"), eviction_policy=POLICY).to(tl.float32)


@triton.jit
def finite(m):
    """A maximum to subtract: 0 for a row of nothing, where -inf would make nan."""
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit
def softmax_rows(
    X, Y, n_rows, n_cols, T_q, scale,
    CAUSAL: tl.constexpr, NEGATIVE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROWS rows of up to BLOCK columns, each held whole. ``scale`` is |s| log₂e."""
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]  # (ROWS, 1)
    col = tl.arange(0, BLOCK)[None, :]  # (1, BLOCK)
    at = row * n_cols + col
    seen = columns_seen(row, n_cols, T_q, CAUSAL)
    x = numbers(X + at, (row < n_rows) & readable(col, seen, n_cols, CAUSAL), NEGATIVE, "")
    if CAUSAL:
        x = tl.where(col < seen, x, float("-inf"))
    m = finite(tl.max(x, axis=1, keep_dims=True))
    e = tl.where(col < seen, tl.exp2((x - m) * scale), 0.0)
    l = tl.sum(e, axis=1, keep_dims=True)
    y = e * (1 / tl.where(l == 0.0, 1.0, l))
    tl.store(Y + at, y.to(Y.dtype.element_ty), mask=(row < n_rows) & (col < n_cols))


@triton.jit
def softmax_long_row(
    X, Y, n_rows, n_cols, T_q, scale,
    CAUSAL: tl.constexpr, NEGATIVE: tl.constexpr, LANES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Rows of any length, in chunks of LANES times WIDE columns; WIDE is what a thread loads at once."""
    chunk = tl.arange(0, LANES)[:, None] * WIDE + tl.arange(0, WIDE)[None, :]
    last = tl.cdiv(n_cols, LANES * WIDE) * (LANES * WIDE) - LANES * WIDE
    for row in range(tl.program_id(0), n_rows, tl.num_programs(0)):
        seen = columns_seen(row, n_cols, T_q, CAUSAL)
        x_row = X + tl.cast(row, tl.int64) * n_cols
        y_row = Y + tl.cast(row, tl.int64) * n_cols
        m = tl.full((LANES,), float("-inf"), tl.float32)
        l = tl.zeros((LANES,), tl.float32)
        for start in range(0, seen, LANES * WIDE):
            col = start + chunk
            x = numbers(x_row + col, readable(col, seen, n_cols, CAUSAL), NEGATIVE, "evict_last")
            x = tl.where(col < seen, x, float("-inf"))
            m_new = tl.maximum(m, tl.max(x, axis=1))
            e = tl.where(col < seen, tl.exp2((x - finite(m_new)[:, None]) * scale), 0.0)
            before = tl.where(m == float("-inf"), 0.0, l * tl.exp2((m - m_new) * scale))
            l = before + tl.sum(e, axis=1)
            m = m_new
        most = finite(tl.max(m, axis=0))
        total = tl.sum(tl.where(m == float("-inf"), 0.0, l * tl.exp2((m - most) * scale)), axis=0)
        share = 1 / tl.where(total == 0.0, 1.0, total)
        for back in range(0, n_cols, LANES * WIDE):
            col = last - back + chunk
            x = numbers(x_row + col, readable(col, seen, n_cols, CAUSAL), NEGATIVE, "evict_first")
            y = tl.where(col < seen, tl.exp2((x - most) * scale) * share, 0.0)
            tl.store(y_row + col, y.to(Y.dtype.element_ty), mask=col < n_cols, eviction_policy="evict_first")


@triton.jit
def softmax_backward_rows(
    Y, DY, DX, n_rows, n_cols, T_q, scale,
    CAUSAL: tl.constexpr, AGAIN: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROWS rows of up to BLOCK columns. Columns that were not seen are not read, and their dx is 0."""
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    col = tl.arange(0, BLOCK)[None, :]
    at = row * n_cols + col
    read = (row < n_rows) & readable(col, columns_seen(row, n_cols, T_q, CAUSAL), n_cols, CAUSAL)
    y = tl.load(Y + at, mask=read, other=0.0).to(tl.float32)
    dy = tl.load(DY + at, mask=read, other=0.0).to(tl.float32)
    total = tl.sum(y * dy, axis=1, keep_dims=True)
    if AGAIN:  # from the L1 cache, as there are registers for one of two numbers only
        dy = tl.load(DY + at, mask=read, other=0.0, eviction_policy="evict_first").to(tl.float32)
    dx = scale * y * (dy - total)
    tl.store(DX + at, dx.to(DX.dtype.element_ty), mask=(row < n_rows) & (col < n_cols))


@triton.jit
def softmax_backward_long_row(
    Y, DY, DX, n_rows, n_cols, T_q, scale, CAUSAL: tl.constexpr, LANES: tl.constexpr, WIDE: tl.constexpr
):
    """Forwards for the sum, backwards for dx: as `softmax_long_row` does it, and for the same reason."""
    chunk = tl.arange(0, LANES)[:, None] * WIDE + tl.arange(0, WIDE)[None, :]
    last = tl.cdiv(n_cols, LANES * WIDE) * (LANES * WIDE) - LANES * WIDE
    for row in range(tl.program_id(0), n_rows, tl.num_programs(0)):
        seen = columns_seen(row, n_cols, T_q, CAUSAL)
        start_of_row = tl.cast(row, tl.int64) * n_cols
        sums = tl.zeros((LANES,), tl.float32)
        for start in range(0, seen, LANES * WIDE):
            col = start + chunk
            read = readable(col, seen, n_cols, CAUSAL)
            y = tl.load(Y + start_of_row + col, mask=read, other=0.0, eviction_policy="evict_last").to(tl.float32)
            dy = tl.load(DY + start_of_row + col, mask=read, other=0.0, eviction_policy="evict_last").to(tl.float32)
            sums += tl.sum(y * dy, axis=1)
        total = tl.sum(sums, axis=0)
        for back in range(0, n_cols, LANES * WIDE):
            col = last - back + chunk
            read = readable(col, seen, n_cols, CAUSAL)
            y = tl.load(Y + start_of_row + col, mask=read, other=0.0, eviction_policy="evict_first").to(tl.float32)
            dy = tl.load(DY + start_of_row + col, mask=read, other=0.0, eviction_policy="evict_first").to(tl.float32)
            dx = (scale * y * (dy - total)).to(DX.dtype.element_ty)
            tl.store(DX + start_of_row + col, dx, mask=col < n_cols, eviction_policy="evict_first")


# Columns up to → rows a program, warps: one table for all GPUs. What is longer goes in chunks.
TABLE = {
    64: (32, 4), 128: (16, 4), 256: (8, 4), 512: (4, 4), 1024: (2, 4), 2048: (1, 4), 4096: (1, 8), 8192: (1, 8),
    16384: (1, 16), 32768: (1, 16),
}  # fmt: skip
# Backward has two numbers for each column, of which it holds only one where there are more than so many.
BACKWARD_TABLE, BOTH_HELD = TABLE | {32768: (1, 32)}, 8192
# Columns up to → lanes of a chunk, warps, rows that a multiprocessor works at. No more rows at a time than the L2 cache
# can hold until they are read again: on an H200 these are 264 rows of 128 KB in bf16, or 132 longer ones.
LONG_TABLE = {65536: (2048, 16, 2), 1 << 62: (4096, 32, 1)}
# What else a causal row has to know takes registers, so that it goes in smaller chunks.
CAUSAL_LANES = 1024


def tile(table: dict[int, tuple[int, int]], n_cols: int) -> tuple[int, int, int] | None:
    """(rows a program, columns up to, warps) for rows of ``n_cols``, or None if they are too long to be held whole."""
    for most, (rows, warps) in table.items():
        if n_cols <= most:
            return rows, most, warps
    return None


def long_tile(n_rows: int, n_cols: int, x: Tensor) -> tuple[int, dict[str, int]]:
    """How many programs share long rows between them, and in what chunks they go."""
    lanes, warps, at_once = next(shape for most, shape in LONG_TABLE.items() if n_cols <= most)
    programs = min(n_rows, at_once * library.multiprocessors(x.device))
    return programs, {"LANES": lanes, "WIDE": 16 // x.element_size(), "num_warps": warps}


def _forward(x: Tensor, scale: float, causal: bool) -> Tensor:
    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    n_cols = x.shape[-1]
    n_rows = x.numel() // n_cols
    arguments = (x, y, n_rows, n_cols, x.shape[-2] if causal else 1, abs(scale) * LOG2E)
    flags = {"CAUSAL": causal, "NEGATIVE": scale < 0}
    if (shape := tile(TABLE, n_cols)) is not None:
        rows, block, warps = shape
        grid = (library.cdiv(n_rows, rows),)
        library.launch(softmax_rows, grid, *arguments, **flags, ROWS=rows, BLOCK=block, num_warps=warps)
    else:
        programs, chunks = long_tile(n_rows, n_cols, x)
        if causal:
            chunks |= {"LANES": CAUSAL_LANES, "num_warps": 16}
        library.launch(softmax_long_row, (programs,), *arguments, **flags, **chunks)
    return y


def _backward(y: Tensor, dy: Tensor, scale: float, causal: bool) -> Tensor:
    dx = torch.empty_like(y)
    if y.numel() == 0:
        return dx
    dy = dy.contiguous()
    n_cols = y.shape[-1]
    n_rows = y.numel() // n_cols
    arguments = (y, dy, dx, n_rows, n_cols, y.shape[-2] if causal else 1, scale)
    if (shape := tile(BACKWARD_TABLE, n_cols)) is not None:
        rows, block, warps = shape
        flags = {"CAUSAL": causal, "AGAIN": block > BOTH_HELD, "ROWS": rows, "BLOCK": block}
        library.launch(softmax_backward_rows, (library.cdiv(n_rows, rows),), *arguments, **flags, num_warps=warps)
    else:
        programs, chunks = long_tile(n_rows, n_cols, y)
        library.launch(softmax_backward_long_row, (programs,), *arguments, CAUSAL=causal, **chunks)
    return dx


_softmax = library.operator(
    "softmax(Tensor x, float scale, bool causal) -> Tensor", _forward, lambda x, scale, causal: torch.empty_like(x)
)
_softmax_backward = library.operator(
    "softmax_backward(Tensor y, Tensor dy, float scale, bool causal) -> Tensor",
    _backward,
    lambda y, dy, scale, causal: torch.empty_like(y),
)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, causal: bool) -> Tensor:
        y = _softmax(x, scale, causal)
        ctx.save_for_backward(y)
        ctx.scale, ctx.causal = scale, causal
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        return _softmax_backward(y, dy, ctx.scale, ctx.causal), None, None


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
