"""What the norms have in common on the way forth: rows in pieces, and long rows.

Rows of up to 16,384 columns are held whole, as pieces of one power of two each: 768 columns are three pieces of 256,
and no lane is idle, where one block of 1,024 would waste a quarter of them. A row of up to 1,024 columns has a warp to
itself, so that its sums need no shared memory. Longer rows go block by block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import library

# Rows in pieces: a tuple of PIECES tensors (ROWS, BLOCK) stands for one of (ROWS, N), whose width is no power of two.


@triton.jit
def place(k, row, n_rows, n_cols, BLOCK: tl.constexpr, PIECES: tl.constexpr):
    """The columns of piece k of the rows (ROWS, 1), and which of its numbers there are. Only the last piece can be
    ragged; the others need no mask over columns."""
    col = k * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = row < n_rows
    if k == PIECES - 1:
        inside = inside & (col < n_cols)
    return col, inside


@triton.jit
def read_piece(X, k, row, n_rows, n_cols, BLOCK: tl.constexpr, PIECES: tl.constexpr):
    """Piece k of the rows, with 0 for what is not there, in X's format."""
    col, inside = place(k, row, n_rows, n_cols, BLOCK, PIECES)
    return tl.load(X + row * n_cols + col, mask=inside, other=0.0)


@triton.jit
def read(X, row, n_rows, n_cols, BLOCK: tl.constexpr, PIECES: tl.constexpr):
    """All pieces of the rows."""
    pieces = ()
    for k in tl.static_range(PIECES):
        pieces += (read_piece(X, k, row, n_rows, n_cols, BLOCK, PIECES),)
    return pieces


@triton.jit
def write(Y, y, k, row, n_rows, n_cols, BLOCK: tl.constexpr, PIECES: tl.constexpr):
    """Piece k of the rows."""
    col, inside = place(k, row, n_rows, n_cols, BLOCK, PIECES)
    tl.store(Y + row * n_cols + col, y.to(Y.dtype.element_ty), mask=inside)


@triton.jit
def total(x, PIECES: tl.constexpr):
    """The sum of each row, (ROWS, 1)."""
    sums = x[0].to(tl.float32)
    for k in tl.static_range(1, PIECES):
        sums += x[k].to(tl.float32)
    return tl.sum(sums, axis=1, keep_dims=True)


@triton.jit
def total_of_squares(x, PIECES: tl.constexpr):
    """The sum of the squares of each row, (ROWS, 1)."""
    sums = x[0].to(tl.float32) * x[0].to(tl.float32)
    for k in tl.static_range(1, PIECES):
        sums += x[k].to(tl.float32) * x[k].to(tl.float32)
    return tl.sum(sums, axis=1, keep_dims=True)


@triton.jit
def centred(x, mean, n_cols, BLOCK: tl.constexpr, PIECES: tl.constexpr):
    """x - mean in fp32, and still 0 beyond the end of a row."""
    pieces = ()
    for k in tl.static_range(PIECES):
        c = x[k].to(tl.float32) - mean
        if k == PIECES - 1:
            c = tl.where(k * BLOCK + tl.arange(0, BLOCK)[None, :] < n_cols, c, 0.0)
        pieces += (c,)
    return pieces


@triton.jit
def read_parameter(W, k, n_cols, ROWS: tl.constexpr, BLOCK: tl.constexpr, PIECES: tl.constexpr):
    """Piece k of a weight or bias, in its own format, (ROWS, BLOCK): each row reads it for itself, from the cache, so
    that it comes in the layout that the rows have. As (1, BLOCK) it would be spread over all threads first, and have
    to go through shared memory."""
    col = tl.broadcast_to(k * BLOCK + tl.arange(0, BLOCK)[None, :], (ROWS, BLOCK))
    if k < PIECES - 1:
        return tl.load(W + col)
    else:
        return tl.load(W + col, mask=col < n_cols, other=0.0)


@triton.jit
def scaled(
    x, k, W, B, n_cols, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """w x + b for piece k of some rows."""
    if HAS_WEIGHT:
        x = x * read_parameter(W, k, n_cols, ROWS, BLOCK, PIECES).to(tl.float32)
    if HAS_BIAS:
        x = x + read_parameter(B, k, n_cols, ROWS, BLOCK, PIECES).to(tl.float32)
    return x


# Long rows.


@triton.jit
def sum_of_two(X, Residual, H, col, n_cols, ADD: tl.constexpr, KEEP: tl.constexpr):
    """A block of what is normalised, in fp32: x, or the residual + x as H stores it."""
    x = tl.load(X + col, mask=col < n_cols, other=0.0, eviction_policy=KEEP).to(tl.float32)
    if ADD:
        x += tl.load(Residual + col, mask=col < n_cols, other=0.0, eviction_policy=KEEP).to(tl.float32)
        x = x.to(H.dtype.element_ty).to(tl.float32)
    return x


@triton.jit
def norm_long_row(
    X, Residual, W, B, Y, H, Statistics, n_rows, n_cols, eps,
    RMS: tl.constexpr, ADD: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr,
    BLOCK: tl.constexpr, FIRST_STAGES: tl.constexpr, SECOND_STAGES: tl.constexpr,
):  # fmt: skip
    """One row of any length, read twice, the second time from the cache if it can hold the rows that are under way.

    The first time, each lane keeps the mean of the numbers that it saw and the sum of their squared distances from it
    (Welford, 1962, https://doi.org/10.1080/00401706.1962.10490022): the difference of two large sums would lose what a
    row far from 0 has of variance."""
    row = tl.program_id(0).to(tl.int64)
    X += row * n_cols
    Residual += row * n_cols
    Y += row * n_cols
    H += row * n_cols
    lane = tl.arange(0, BLOCK)
    mean = tl.zeros((BLOCK,), tl.float32)
    squares = tl.zeros((BLOCK,), tl.float32)
    for start in tl.range(0, n_cols, BLOCK, num_stages=FIRST_STAGES):
        col = start + lane
        x = sum_of_two(X, Residual, H, col, n_cols, ADD, "evict_last")
        if RMS:
            squares += x * x
        else:
            off = tl.where(col < n_cols, x - mean, 0.0)
            mean += off * (1.0 / (start // BLOCK + 1))
            squares += off * (x - mean)
    shift = 0.0
    if RMS:
        sum_of_squares = tl.sum(squares, axis=0)
    else:
        seen = ((n_cols - lane + BLOCK - 1) // BLOCK).to(tl.float32)  # by each lane
        shift = tl.sum(mean * seen, axis=0) / n_cols
        sum_of_squares = tl.sum(squares + seen * (mean - shift) * (mean - shift), axis=0)
        tl.store(Statistics + n_rows + row, shift)
    r = 1 / tl.sqrt(sum_of_squares / n_cols + eps)
    tl.store(Statistics + row, r)
    for start in tl.range(0, n_cols, BLOCK, num_stages=SECOND_STAGES):
        col = start + lane
        x = sum_of_two(X, Residual, H, col, n_cols, ADD, "evict_first")
        if ADD:
            tl.store(H + col, x.to(H.dtype.element_ty), mask=col < n_cols)
        y = (x - shift) * r
        if HAS_WEIGHT:
            y = y * tl.load(W + col, mask=col < n_cols, other=0.0).to(tl.float32)
        if HAS_BIAS:
            y = y + tl.load(B + col, mask=col < n_cols, other=0.0).to(tl.float32)
        tl.store(Y + col, y.to(Y.dtype.element_ty), mask=col < n_cols)


class Tile(NamedTuple):
    """What a program has: so many rows, in pieces of so many columns, and so many warps."""

    rows: int
    block: int
    warps: int
    programs: int = 0
    """how many there are at most, where the number is fixed"""

    def constants(self, n_cols: int) -> dict[str, int]:
        """How a kernel is told."""
        return {"ROWS": self.rows, "BLOCK": self.block, "PIECES": library.cdiv(n_cols, self.block)}


# Columns up to → tile: one table for all GPUs. A thread has at most 32 numbers of each tensor, in bf16 four loads of 16
# bytes, so that the half of the threads that fit at once has 64 KB under way.
TABLE = {
    64: Tile(32, 64, 4),
    128: Tile(16, 128, 4),
    256: Tile(8, 256, 4),
    512: Tile(4, 256, 4),
    1024: Tile(4, 256, 4),
    2048: Tile(2, 512, 4),
    4096: Tile(1, 1024, 4),
    8192: Tile(1, 2048, 8),
    16384: Tile(1, 4096, 16),
}
# Of `norm_long_row`. What a program has under way lies in shared memory, of which some GPUs have 99 KB a program; on an
# H100 two rows a multiprocessor are read at once, and the cache (L2) holds them for the second time.
LONG_BLOCK, LONG_WARPS, LONG_AHEAD = 4096, 8, 96 * 1024


def tile(n_cols: int, table: Mapping[int, Tile] = TABLE) -> Tile | None:
    """The tile for rows of ``n_cols``, or None if they are too long to be held whole."""
    for most, found in table.items():
        if n_cols <= most:
            return found
    return None


def size(x: Tensor) -> tuple[int, int]:
    """How many rows and columns."""
    return x.numel() // max(1, x.shape[-1]), x.shape[-1]


def stages(block: int, most: int, *streams: Tensor | None) -> int:
    """How many blocks of some tensors a program has in hand: the one it works on, and up to 4 that are on their way and
    take ``most`` bytes together."""
    return 1 + min(4, most // (block * sum(t.element_size() for t in streams if t is not None)))


def launch_long_row(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    y: Tensor,
    h: Tensor | None,
    statistics: Tensor,
    eps: float,
    rms: bool,
) -> None:
    """Start `norm_long_row`; what is not there is x, which it then does not touch."""
    n_rows, n_cols = size(x)
    library.launch(
        norm_long_row, (n_rows,),
        x, x if residual is None else residual, x if weight is None else weight, x if bias is None else bias,
        y, x if h is None else h, statistics, n_rows, n_cols, eps,
        RMS=rms, ADD=residual is not None, HAS_WEIGHT=weight is not None, HAS_BIAS=bias is not None,
        BLOCK=LONG_BLOCK, num_warps=LONG_WARPS,
        FIRST_STAGES=stages(LONG_BLOCK, LONG_AHEAD, x, residual),
        SECOND_STAGES=stages(LONG_BLOCK, LONG_AHEAD, x, residual, weight, bias),
    )  # fmt: skip


def forward(
    kernel: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, rms: bool
) -> tuple[Tensor, Tensor]:
    """The norm of a contiguous x, and the statistics of its rows; ``kernel`` is for rows that are held whole."""
    y, statistics = outputs(x, rms)
    n_rows, n_cols = size(x)
    if x.numel() == 0:
        return y, statistics
    if (shape := tile(n_cols)) is None:
        launch_long_row(x, None, weight, bias, y, None, statistics, eps, rms)
    else:
        library.launch(
            kernel, (library.cdiv(n_rows, shape.rows),),
            x, x if weight is None else weight, x if bias is None else bias, y, statistics, n_rows, n_cols, eps,
            HAS_WEIGHT=weight is not None, HAS_BIAS=bias is not None, **shape.constants(n_cols), num_warps=shape.warps,
        )  # fmt: skip
    return y, statistics


def outputs(x: Tensor, rms: bool) -> tuple[Tensor, Tensor]:
    """Memory for what `forward` makes."""
    return torch.empty_like(x), statistics_for(x, rms)


def statistics_for(x: Tensor, rms: bool) -> Tensor:
    """What forward keeps of each row, in fp32: r, and the mean if there is one."""
    n_rows, _ = size(x)
    return x.new_empty((1 if rms else 2, n_rows), dtype=torch.float32)


def refusal(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> str | None:
    """Why the kernels do not take a call, or None if they do."""
    if x.dim() < 1:
        return "x has no dimension to normalise over"
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and t.shape != x.shape[-1:]:
            return f"{name} has shape {tuple(t.shape)}, but rows have {x.shape[-1]} columns"
    return library.tensors_refused(x, weight, bias)
