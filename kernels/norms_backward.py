"""The way back of all norms.

    dx = r (g - mean(g) - x̂ mean(g x̂)),    g = w dy,    x̂ = r (x - mean)
    dw = sum over rows of dy x̂,    db = sum over rows of dy

RMSNorm has no mean: there x̂ = r x, and mean(g) is missing from dx. Where the normalised row was a sum that is used
elsewhere, too (`add_norm`), the gradient from there is added to dx.

Reading x and dy once and writing dx once is the least that is possible: 6 N bytes a row in bf16, for about 13 N
operations. One kernel does it all: of a fixed number of programs each has every so-many-th row, and adds up dw and db
of these in registers, while its next rows are on their way from memory. A second, small kernel adds up the programs.
How many there are depends on the width alone, and nothing is added atomically, so the bits are the same every time.

dw and db of 16,384 columns fill half the registers of a multiprocessor. Beside them a row is not held but read twice,
the second time from the cache (`norm_backward_wide_rows`). For longer rows the second reading is a pass of its own over
memory, in blocks of columns (`norm_long_row_means`, then `norm_backward_columns`).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import library, norms


@triton.jit
def statistics_of(Statistics, row, n_rows, RMS: tl.constexpr):
    """r and the mean of the rows, 0 for rows that are not there. Without a mean the second is nothing to use."""
    r = tl.load(Statistics + row, mask=row < n_rows, other=0.0)
    mean = r
    if not RMS:
        mean = tl.load(Statistics + n_rows + row, mask=row < n_rows, other=0.0)
    return r, mean


@triton.jit
def read_weight(
    W, k, n_cols, HAS_WEIGHT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, PIECES: tl.constexpr
):  # fmt: skip
    """Piece k of the weight, in its own format; anything if there is none."""
    if HAS_WEIGHT:
        return norms.read_parameter(W, k, n_cols, ROWS, BLOCK, PIECES)
    else:
        return tl.zeros((1, 1), tl.float32)


@triton.jit
def hat_and_g(x, dy, w, r, mean, RMS: tl.constexpr, HAS_WEIGHT: tl.constexpr):
    """x̂ and g = w dy of a piece. Where nothing is, dy and g are 0, so x̂ may be anything. The mean is subtracted first:
    of rows far from 0, r x and r mean are large and alike, and rounded."""
    x_hat = x.to(tl.float32) * r if RMS else (x.to(tl.float32) - mean) * r
    g = dy.to(tl.float32)
    if HAS_WEIGHT:
        g = g * w.to(tl.float32)
    return x_hat, g


@triton.jit
def dx_of(x_hat, g, r, mean_gx, mean_g, RMS: tl.constexpr):
    """dx = r (g - mean(g) - x̂ mean(g x̂)) as two fused operations; what is of a row is multiplied before."""
    if RMS:
        return r * g + x_hat * (-r * mean_gx)
    else:
        return r * g + (x_hat * (-r * mean_gx) + -r * mean_g)


@triton.jit
def store_part(Parts, d, which, part, parts, k, n_cols, BLOCK: tl.constexpr):
    """What a program added up of piece k. Parts is (1 or 2, parts, N)."""
    col = k * BLOCK + tl.arange(0, BLOCK)[None, :]
    at = (which * parts + part).to(tl.int64) * n_cols + col
    tl.store(Parts + at, tl.sum(d, axis=0, keep_dims=True), mask=col < n_cols)


@triton.jit
def norm_backward_rows(
    DY, DH, X, W, Statistics, DX, DResidual, Parts, n_rows, n_cols,
    RMS: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_DH: tl.constexpr,
    WANTS_X: tl.constexpr, WANTS_RESIDUAL: tl.constexpr, WANTS_WEIGHT: tl.constexpr, WANTS_BIAS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, PIECES: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Program i has the rows i ROWS, i ROWS + 1, ..., then those a whole grid further, and so on."""
    part, parts = tl.program_id(0), tl.num_programs(0)
    w = ()
    dw = ()
    db = ()
    for k in tl.static_range(PIECES):
        w += (read_weight(W, k, n_cols, HAS_WEIGHT, ROWS, BLOCK, PIECES),)
        dw += (tl.zeros((ROWS, BLOCK), tl.float32),)
        db += (tl.zeros((ROWS, BLOCK), tl.float32),)
    for start in tl.range(part * ROWS, n_rows, parts * ROWS, num_stages=STAGES):
        row = tl.cast(start, tl.int64) + tl.arange(0, ROWS)[:, None]  # (ROWS, 1)
        r, mean = statistics_of(Statistics, row, n_rows, RMS)
        x = norms.read(X, row, n_rows, n_cols, BLOCK, PIECES)
        dy = norms.read(DY, row, n_rows, n_cols, BLOCK, PIECES)
        sum_g = tl.zeros((ROWS, BLOCK), tl.float32)
        sum_gx = tl.zeros((ROWS, BLOCK), tl.float32)
        more_dw = ()
        more_db = ()
        for k in tl.static_range(PIECES):
            x_hat, g = hat_and_g(x[k], dy[k], w[k], r, mean, RMS, HAS_WEIGHT)
            sum_g += g
            sum_gx += g * x_hat
            more_dw += (dw[k] + dy[k].to(tl.float32) * x_hat,)
            more_db += (db[k] + dy[k].to(tl.float32),)
        if WANTS_WEIGHT:
            dw = more_dw
        if WANTS_BIAS:
            db = more_db
        if WANTS_X or WANTS_RESIDUAL:
            mean_gx = tl.sum(sum_gx, axis=1, keep_dims=True) / n_cols
            mean_g = mean_gx
            if not RMS:
                mean_g = tl.sum(sum_g, axis=1, keep_dims=True) / n_cols
            for k in tl.static_range(PIECES):
                x_hat, g = hat_and_g(x[k], dy[k], w[k], r, mean, RMS, HAS_WEIGHT)
                dx = dx_of(x_hat, g, r, mean_gx, mean_g, RMS)
                if HAS_DH:
                    dx += norms.read_piece(DH, k, row, n_rows, n_cols, BLOCK, PIECES).to(tl.float32)
                if WANTS_X:
                    norms.write(DX, dx, k, row, n_rows, n_cols, BLOCK, PIECES)
                if WANTS_RESIDUAL:
                    norms.write(DResidual, dx, k, row, n_rows, n_cols, BLOCK, PIECES)
    for k in tl.static_range(PIECES):
        if WANTS_WEIGHT:
            store_part(Parts, dw[k], 0, part, parts, k, n_cols, BLOCK)
        if WANTS_BIAS:
            store_part(Parts, db[k], 1 if WANTS_WEIGHT else 0, part, parts, k, n_cols, BLOCK)


@triton.jit
def place_of_one(k, n_cols, BLOCK: tl.constexpr, PIECES: tl.constexpr):
    """As `norms.place` for a row that is there: only the last piece needs a mask."""
    col = k * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = tl.full((1, 1), True, tl.int1)
    if k == PIECES - 1:
        inside = col < n_cols
    return col, inside


@triton.jit
def norm_backward_wide_rows(
    DY, DH, X, W, Statistics, DX, DResidual, Parts, n_rows, n_cols,
    RMS: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_DH: tl.constexpr,
    WANTS_X: tl.constexpr, WANTS_RESIDUAL: tl.constexpr, WANTS_WEIGHT: tl.constexpr, WANTS_BIAS: tl.constexpr,
    BLOCK: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """As `norm_backward_rows`, one row at a time, for rows that find no room in registers beside dw and db: they are
    read twice, the second time from the nearest cache."""
    part, parts = tl.program_id(0), tl.num_programs(0)
    dw = ()
    db = ()
    for _ in tl.static_range(PIECES):
        dw += (tl.zeros((1, BLOCK), tl.float32),)
        db += (tl.zeros((1, BLOCK), tl.float32),)
    for start in range(part, n_rows, parts):
        row = tl.cast(start, tl.int64) + tl.arange(0, 1)[:, None]  # (1, 1)
        r, mean = statistics_of(Statistics, row, n_rows, RMS)
        sum_g = tl.zeros((1, BLOCK), tl.float32)
        sum_gx = tl.zeros((1, BLOCK), tl.float32)
        more_dw = ()
        more_db = ()
        for k in tl.static_range(PIECES):
            col, inside = place_of_one(k, n_cols, BLOCK, PIECES)
            x = tl.load(X + (row * n_cols + col), mask=inside, other=0.0, eviction_policy="evict_last")
            dy = tl.load(DY + (row * n_cols + col), mask=inside, other=0.0, eviction_policy="evict_last")
            w = tl.load(W + col, mask=inside, other=0.0, eviction_policy="evict_last") if HAS_WEIGHT else dy
            x_hat, g = hat_and_g(x, dy, w, r, mean, RMS, HAS_WEIGHT)
            sum_g += g
            sum_gx += g * x_hat
            more_dw += (dw[k] + dy.to(tl.float32) * x_hat,)
            more_db += (db[k] + dy.to(tl.float32),)
        if WANTS_WEIGHT:
            dw = more_dw
        if WANTS_BIAS:
            db = more_db
        if WANTS_X or WANTS_RESIDUAL:
            mean_gx = tl.sum(sum_gx, axis=1, keep_dims=True) / n_cols
            mean_g = tl.sum(sum_g, axis=1, keep_dims=True) / n_cols
            for k in tl.static_range(PIECES):
                col, inside = place_of_one(k, n_cols, BLOCK, PIECES)
                x = tl.load(X + (row * n_cols + col), mask=inside, other=0.0, eviction_policy="evict_first")
                dy = tl.load(DY + (row * n_cols + col), mask=inside, other=0.0, eviction_policy="evict_first")
                w = tl.load(W + col, mask=inside, other=0.0) if HAS_WEIGHT else dy
                x_hat, g = hat_and_g(x, dy, w, r, mean, RMS, HAS_WEIGHT)
                dx = dx_of(x_hat, g, r, mean_gx, mean_g, RMS)
                if HAS_DH:
                    dx += tl.load(DH + (row * n_cols + col), mask=inside, other=0.0).to(tl.float32)
                if WANTS_X:
                    tl.store(DX + (row * n_cols + col), dx.to(DX.dtype.element_ty), mask=inside)
                if WANTS_RESIDUAL:
                    tl.store(DResidual + (row * n_cols + col), dx.to(DResidual.dtype.element_ty), mask=inside)
    for k in tl.static_range(PIECES):
        if WANTS_WEIGHT:
            store_part(Parts, dw[k], 0, part, parts, k, n_cols, BLOCK)
        if WANTS_BIAS:
            store_part(Parts, db[k], 1 if WANTS_WEIGHT else 0, part, parts, k, n_cols, BLOCK)


@triton.jit
def norm_long_row_means(
    DY, X, W, Statistics, Means, n_rows, n_cols,
    RMS: tl.constexpr, HAS_WEIGHT: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The means of g x̂ and of g of one row of any length, in blocks."""
    row = tl.program_id(0).to(tl.int64)
    X += row * n_cols
    DY += row * n_cols
    r, mean = statistics_of(Statistics, row, n_rows, RMS)
    lane = tl.arange(0, BLOCK)
    sum_g = tl.zeros((BLOCK,), tl.float32)
    sum_gx = tl.zeros((BLOCK,), tl.float32)
    for start in tl.range(0, n_cols, BLOCK, num_stages=STAGES):
        col = start + lane
        x = tl.load(X + col, mask=col < n_cols, other=0.0)
        dy = tl.load(DY + col, mask=col < n_cols, other=0.0)
        w = tl.load(W + col, mask=col < n_cols, other=0.0) if HAS_WEIGHT else dy
        x_hat, g = hat_and_g(x, dy, w, r, mean, RMS, HAS_WEIGHT)
        sum_g += g
        sum_gx += g * x_hat
    tl.store(Means + row, tl.sum(sum_gx, axis=0) / n_cols)
    tl.store(Means + n_rows + row, tl.sum(sum_g, axis=0) / n_cols)


@triton.jit
def norm_backward_columns(
    DY, DH, X, W, Statistics, Means, DX, DResidual, Parts, n_rows, n_cols,
    RMS: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_DH: tl.constexpr,
    WANTS_X: tl.constexpr, WANTS_RESIDUAL: tl.constexpr, WANTS_WEIGHT: tl.constexpr, WANTS_BIAS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """As `norm_backward_rows`, for BLOCK columns of long rows whose two means are known. Columns come first, as only
    that side of a grid may be longer than 65,535."""
    j, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    col = j * BLOCK + tl.arange(0, BLOCK)[None, :]
    dw = tl.zeros((ROWS, BLOCK), tl.float32)
    db = tl.zeros((ROWS, BLOCK), tl.float32)
    w = read_weight(W + j * BLOCK, 0, n_cols - j * BLOCK, HAS_WEIGHT, ROWS, BLOCK, 1)
    for start in tl.range(part * ROWS, n_rows, parts * ROWS, num_stages=STAGES):
        row = tl.cast(start, tl.int64) + tl.arange(0, ROWS)[:, None]
        inside = (row < n_rows) & (col < n_cols)
        at = row * n_cols + col
        r, mean = statistics_of(Statistics, row, n_rows, RMS)
        x = tl.load(X + at, mask=inside, other=0.0)
        dy = tl.load(DY + at, mask=inside, other=0.0)
        x_hat, g = hat_and_g(x, dy, w, r, mean, RMS, HAS_WEIGHT)
        if WANTS_X or WANTS_RESIDUAL:
            mean_gx = tl.load(Means + row, mask=row < n_rows, other=0.0)
            mean_g = tl.load(Means + n_rows + row, mask=row < n_rows, other=0.0)
            dx = dx_of(x_hat, g, r, mean_gx, mean_g, RMS)
            if HAS_DH:
                dx += tl.load(DH + at, mask=inside, other=0.0).to(tl.float32)
            if WANTS_X:
                tl.store(DX + at, dx.to(DX.dtype.element_ty), mask=inside)
            if WANTS_RESIDUAL:
                tl.store(DResidual + at, dx.to(DResidual.dtype.element_ty), mask=inside)
        if WANTS_WEIGHT:
            dw += dy.to(tl.float32) * x_hat
        if WANTS_BIAS:
            db += dy.to(tl.float32)
    if WANTS_WEIGHT:
        store_part(Parts, dw, 0, part, parts, j, n_cols, BLOCK)
    if WANTS_BIAS:
        store_part(Parts, db, 1 if WANTS_WEIGHT else 0, part, parts, j, n_cols, BLOCK)


@triton.jit
def norm_sum_parts(
    Parts, DW, DB, parts, n_cols,
    WANTS_WEIGHT: tl.constexpr, WANTS_BIAS: tl.constexpr, STEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dw (and, in programs of their own, db) for BLOCK columns: what the programs before this added up, added up."""
    which = tl.program_id(1)
    col = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, :]
    sums = tl.zeros((STEP, BLOCK), tl.float32)
    for start in range(0, parts, STEP):
        part = start + tl.arange(0, STEP)[:, None]
        at = (which * parts + part).to(tl.int64) * n_cols + col
        sums += tl.load(Parts + at, mask=(part < parts) & (col < n_cols), other=0.0)
    d = tl.sum(sums, axis=0, keep_dims=True)
    if WANTS_WEIGHT:  # noqa: SIM102 (known when it is compiled, the other one when it runs)
        if which == 0:
            tl.store(DW + col, d.to(DW.dtype.element_ty), mask=col < n_cols)
    if WANTS_BIAS:  # noqa: SIM102
        if which == tl.num_programs(1) - 1:
            tl.store(DB + col, d.to(DB.dtype.element_ty), mask=col < n_cols)


# Columns up to → tile, of two pieces or, for widths such as 768, of three: a thread then has 16 or 24 numbers of each
# tensor, and registers for these. The number of programs is that of the 132 multiprocessors of an H100 or H200, times
# how many fit into one whatever the Triton and the number format: one more, and a second wave would have few programs.
TABLE = {
    64: norms.Tile(32, 64, 4, 396),
    128: norms.Tile(16, 128, 4, 396),
    256: norms.Tile(8, 256, 4, 396),
    512: norms.Tile(4, 256, 4, 396),
    768: norms.Tile(4, 256, 4, 264),
    1024: norms.Tile(2, 512, 4, 396),
    1536: norms.Tile(2, 512, 4, 264),
    2048: norms.Tile(1, 1024, 4, 396),
    3072: norms.Tile(1, 1024, 4, 264),
    4096: norms.Tile(1, 2048, 8, 264),
    6144: norms.Tile(1, 2048, 8, 132),
    8192: norms.Tile(1, 4096, 16, 132),
    16384: norms.Tile(1, 4096, 16, 132),
}
HELD = 8192  # columns up to which a program has registers for its rows, too
WIDE = 32 * 1024  # bytes of a row up to which it has them for dw and db at least; longer rows go in blocks of columns
AHEAD = 64 * 1024  # bytes of the next rows that a program may have on their way
LONG = norms.Tile(2, 1024, 4, 64)  # of `norm_backward_columns`
LONG_BLOCK, LONG_WARPS, LONG_STAGES = 4096, 16, 3  # of `norm_long_row_means`
# Of `norm_sum_parts`: the numbers that a program adds up at a time, and how many programs a wide dw has at least.
SUM_NUMBERS, SUM_PROGRAMS = 4096, 128


def stages(n_cols: int, tile: norms.Tile, *streams: Tensor | None) -> int:
    """How many rounds of rows a program has in hand: the one it works on, and up to two on their way."""
    columns = library.cdiv(n_cols, tile.block) * tile.block
    ahead = tile.rows * columns * sum(t.element_size() for t in streams if t is not None)
    return 1 + min(2, AHEAD // ahead)


def sum_block(n_cols: int) -> int:
    """Columns of a program of `norm_sum_parts`: 32, that is 128 bytes in one go, to 256."""
    return min(256, max(32, library.power_of_2(n_cols) // SUM_PROGRAMS))


def _outputs(
    dy: Tensor,
    dh: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    rms: bool,
    wants: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Memory for dx, dresidual, dw and db; none for what is not wanted."""
    wants_x, wants_residual, wants_weight, wants_bias = wants
    dx = torch.empty_like(x, dtype=dy.dtype) if wants_x else x.new_empty(0)
    dresidual = torch.empty_like(x) if wants_residual else x.new_empty(0)
    dw = torch.empty_like(weight) if weight is not None and wants_weight else x.new_empty(0)
    db = torch.empty_like(bias) if bias is not None and wants_bias else x.new_empty(0)
    return dx, dresidual, dw, db


def _backward(
    dy: Tensor,
    dh: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    rms: bool,
    wants: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, dresidual, dw, db = outputs = _outputs(dy, dh, x, weight, bias, statistics, rms, wants)
    n_rows, n_cols = norms.size(x)
    if x.numel() == 0:
        return dx, dresidual, dw.zero_(), db.zero_()
    wants_x, wants_residual, wants_weight, wants_bias = wants
    dy, dh = dy.contiguous(), None if dh is None else dh.contiguous()
    tile = (norms.tile(n_cols, TABLE) if n_cols * max(x.element_size(), dy.element_size()) <= WIDE else None) or LONG
    n_parts = min(tile.programs, library.cdiv(n_rows, tile.rows))
    parts = x.new_empty((wants_weight + wants_bias, n_parts, n_cols), dtype=torch.float32)
    W = x if weight is None else weight
    reads, writes = (dy, x if dh is None else dh, x, W, statistics), (dx, dresidual, parts)
    switches = {"RMS": rms, "HAS_WEIGHT": weight is not None}
    wanted = {"WANTS_WEIGHT": wants_weight, "WANTS_BIAS": wants_bias}
    flags = switches | wanted | {"HAS_DH": dh is not None, "WANTS_X": wants_x, "WANTS_RESIDUAL": wants_residual}
    if tile is not LONG and n_cols <= HELD:
        library.launch(
            norm_backward_rows, (n_parts,), *reads, *writes, n_rows, n_cols, **flags,
            STAGES=stages(n_cols, tile, dy, dh, x), **tile.constants(n_cols), num_warps=tile.warps,
        )  # fmt: skip
    elif tile is not LONG:
        library.launch(
            norm_backward_wide_rows, (n_parts,), *reads, *writes, n_rows, n_cols, **flags,
            BLOCK=tile.block, PIECES=library.cdiv(n_cols, tile.block), num_warps=tile.warps,
        )  # fmt: skip
    else:
        means = x.new_empty((2, n_rows), dtype=torch.float32)
        if wants_x or wants_residual:
            library.launch(
                norm_long_row_means, (n_rows,), dy, x, W, statistics, means, n_rows, n_cols, **switches,
                BLOCK=LONG_BLOCK, STAGES=LONG_STAGES, num_warps=LONG_WARPS,
            )  # fmt: skip
        library.launch(
            norm_backward_columns, (library.cdiv(n_cols, tile.block), n_parts),
            *reads, means, *writes, n_rows, n_cols, **flags,
            ROWS=tile.rows, BLOCK=tile.block, STAGES=stages(tile.block, tile, dy, dh, x), num_warps=tile.warps,
        )  # fmt: skip
    if len(parts):
        block = sum_block(n_cols)
        library.launch(
            norm_sum_parts, (library.cdiv(n_cols, block), len(parts)), parts, dw, db, n_parts, n_cols, **wanted,
            STEP=SUM_NUMBERS // block, BLOCK=block,
        )  # fmt: skip
    return outputs


norm_backward = library.operator(
    "norm_backward(Tensor dy, Tensor? dh, Tensor x, Tensor? weight, Tensor? bias, Tensor statistics, bool rms, "
    "bool[4] wants) -> (Tensor, Tensor, Tensor, Tensor)",
    _backward, _outputs,
)  # fmt: skip


def gradients(ctx: Any, dy: Tensor, rms: bool) -> tuple[Tensor | None, ...]:
    """Of x, weight and bias, as far as they are wanted, for a function of these and eps that saved them and the
    statistics."""
    wants_x, wants_weight, wants_bias = wants = ctx.needs_input_grad[:3]
    dx, _, dw, db = norm_backward(dy, None, *ctx.saved_tensors, rms, [wants_x, False, wants_weight, wants_bias])
    return *(d if wanted else None for d, wanted in zip((dx, dw, db), wants, strict=True)), None
