r"""Drawing the next token: temperature, top-k, top-p, min-p and the draw itself in one launch, without sorting.

    w_j = exp((x_j - m) / temperature),    m = max_j x_j
    kept: x_j ≥ t_k (the k-th largest),  then x_j ≥ t_p (the highest number at which the w of those that are left reach
          top_p of their sum),  then w_j ≥ min_p
    token: the first one at which the kept w, added up in the order of ids, are above uniform · their sum

Nothing is sorted, for every filter is a threshold (as in FlashInfer, https://flashinfer.ai/2025/03/10/sampling.html). A
threshold is found in the order of all floating-point numbers, seen as whole numbers, between two places of which the
lower one is known to reach the goal and the upper one not: four pivots at a time, so a fifth of the way is left each
time, and after 14 times nothing.

One program has a row and reads it once from memory: N bytes times the size of a logit, one comparison a number. It
keeps BLOCK maxima, of every BLOCK-th column each (a lane). As the k largest maxima are logits, the k-th largest of them
is at most t_k, and hardly below it. So what may stay lies in the few lanes whose maxima are that high, and only these
are read again, into one tile, in which thresholds and token are found; the same goes for top-p and the masses of the
maxima, and for min-p. That is the short way, for whatever has few tokens to choose from.

The long way, for all else (many tokens stay, or too many are alike), reads the row anew for each four pivots (it is in
the L2 by then) and another time for the sums of its chunks. In one of them is the token. So the row is read at most 32
times, and twice if there is no filter.

All sums are taken in a fixed order, so the same numbers draw the same tokens, bit for bit.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import library

LOWEST = tl.constexpr(-3.4028234663852886e38)  # of the finite numbers
NOWHERE = tl.constexpr(-2139095041)  # the place of -inf: everything is kept
COARSE = tl.constexpr(1 << 16)  # places between the numbers of bf16: enough for a bound


@triton.jit
def place(x):
    """Of a number in the order of all numbers. Those of bf16 have places 1 << 16 apart, those of fp16 1 << 13."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)


@triton.jit
def number(at):
    """The number at a place."""
    bits = at.to(tl.int32)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.float32, bitcast=True)


@triton.jit
def fifth(lo, hi):
    """Of the way from lo to hi, rounded up: the last pivots may lie beyond hi, where the goal is not reached."""
    return (hi - lo + 4) // 5


@triton.jit
def numbers(X, col, n_cols):
    """Logits in fp32. What lies beyond the row, or is nan, is -inf, and never drawn."""
    x = tl.load(X + col, mask=col < n_cols, other=float("-inf")).to(tl.float32)
    return tl.where(x == x, x, float("-inf"))


@triton.jit
def weight(x, m, scale):
    """exp((x - m) / temperature), 1 at the maximum, even if that is infinite."""
    return tl.where(x == m, 1.0, tl.exp2((x - m) * scale))


@triton.jit
def above(x, w, lo, hi):
    """w of the numbers at or above each of four pivots, the others 0."""
    step = fifth(lo, hi)
    return (
        tl.where(x >= number(lo + step), w, 0.0),
        tl.where(x >= number(lo + 2 * step), w, 0.0),
        tl.where(x >= number(lo + 3 * step), w, 0.0),
        tl.where(x >= number(lo + 4 * step), w, 0.0),
    )


@triton.jit
def narrowed(a, b, c, d, goal, lo, hi):
    """The fifth of the way from lo to hi at whose beginning the sum reaches the goal, and at whose end not."""
    sums = tl.sum(tl.join(tl.join(a, b), tl.join(c, d)), axis=0)  # (2, 2): all four at once
    reached = tl.sum(tl.sum((sums >= goal).to(tl.int32), axis=0), axis=0)
    start = lo + reached * fifth(lo, hi)
    return tl.minimum(start, hi - 1), tl.minimum(start + fifth(lo, hi), hi)


@triton.jit
def threshold(x, w, goal, lo, hi, GRAIN: tl.constexpr):
    """The highest place, between lo and hi, at which the w of the numbers from there on reach the goal. Places less
    than GRAIN apart are one."""
    while hi - lo > GRAIN:
        a, b, c, d = above(x, w, lo, hi)
        lo, hi = narrowed(a, b, c, d, goal, lo, hi)
    return lo


@triton.jit
def row_threshold(
    X, n_cols, m, scale, goal, lo, hi,
    COUNT: tl.constexpr, GRAIN: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """`threshold` of a whole row, read from memory for each four pivots; COUNT: all w are 1."""
    lane = tl.arange(0, BLOCK)
    while hi - lo > GRAIN:
        a = tl.zeros((BLOCK,), tl.float32)
        b = tl.zeros((BLOCK,), tl.float32)
        c = tl.zeros((BLOCK,), tl.float32)
        d = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, n_cols, BLOCK * UNROLL):
            for i in tl.static_range(UNROLL):
                x = numbers(X, start + i * BLOCK + lane, n_cols)
                if COUNT:
                    w = tl.full((BLOCK,), 1.0, tl.float32)
                else:
                    w = weight(x, m, scale)
                more_a, more_b, more_c, more_d = above(x, w, lo, hi)
                a += more_a
                b += more_b
                c += more_c
                d += more_d
        lo, hi = narrowed(a, b, c, d, goal, lo, hi)
    return lo


@triton.jit
def row_sum(X, n_cols, m, scale, least, BLOCK: tl.constexpr, UNROLL: tl.constexpr):
    """Of the w of the numbers from ``least`` on."""
    lane = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n_cols, BLOCK * UNROLL):
        for i in tl.static_range(UNROLL):
            x = numbers(X, start + i * BLOCK + lane, n_cols)
            total += tl.where(x >= least, weight(x, m, scale), 0.0)
    return tl.sum(total, axis=0)


@triton.jit
def kept(x, m, scale, least, min_p):
    """w of what all filters keep, the others 0."""
    w = weight(x, m, scale)
    return tl.where((x >= least) & (w >= min_p), w, 0.0)


@triton.jit
def first_above(w, col, goal):
    """The first column, of ascending ones, at which the w added up are above the goal; the last one that weighs
    anything if rounding has them end a little below it."""
    reached = (w > 0.0) & (tl.cumsum(w, axis=0) > goal)
    first = tl.min(tl.where(reached, col, 1 << 30), axis=0)
    last = tl.max(tl.where(w > 0.0, col, 0), axis=0)
    return tl.minimum(first, last)


@triton.jit
def short_way(
    X, Scratch, Uniform, n_cols, width, luck, m, scale, top_k, top_p, min_p, total, hit, hits, lo, hi,
    GRAIN: tl.constexpr, BLOCK: tl.constexpr, CAPACITY: tl.constexpr,
):  # fmt: skip
    """The token, from the lanes that are ``hit``: a tile of all they have, in the order of ids."""
    lane = tl.arange(0, BLOCK)
    at = tl.cumsum(hit.to(tl.int32), axis=0) - 1
    tl.store(Scratch + at, lane.to(tl.float32), mask=hit & (at < width))
    tl.debug_barrier()  # what one thread stores others load
    slot = tl.arange(0, CAPACITY)
    held = slot < hits * tl.cdiv(n_cols, BLOCK)
    hits = tl.maximum(hits, 1)
    col = slot // hits * BLOCK + tl.load(Scratch + slot % hits, mask=held, other=0.0).to(tl.int32)
    x = numbers(X, tl.where(held, col, n_cols), n_cols)
    w = weight(x, m, scale)
    if top_k > 0:
        ones = tl.full((CAPACITY,), 1.0, tl.float32)
        lo = threshold(x, ones, top_k.to(tl.float32), lo, hi, GRAIN)
        total = tl.sum(tl.where(x >= number(lo), w, 0.0), axis=0)
    if top_p < 1.0:
        lo = threshold(x, w, top_p * total, lo, hi, GRAIN)
    w = kept(x, m, scale, number(lo), min_p)
    return first_above(w, col, tl.sum(w, axis=0) * tl.load(Uniform) * luck)


@triton.jit
def long_way(
    X, Scratch, Uniform, n_cols, luck, m, scale, top_k, top_p, min_p, total, window, lo, hi,
    GRAIN: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """The token, from the whole row, a chunk of BLOCK columns at a time."""
    if top_k > 0:
        lo = row_threshold(X, n_cols, m, scale, top_k.to(tl.float32), lo, hi, True, GRAIN, BLOCK, UNROLL)
        if top_p < 1.0:
            total = row_sum(X, n_cols, m, scale, number(lo), BLOCK, UNROLL)
    if top_p < 1.0:
        lo = tl.maximum(lo, place(m - window))
        lo = row_threshold(X, n_cols, m, scale, top_p * total, lo, hi, False, GRAIN, BLOCK, UNROLL)
    least = number(lo)
    lane = tl.arange(0, BLOCK)
    chunks = tl.cdiv(n_cols, BLOCK)
    everything = tl.full((), 0.0, tl.float64)
    x = numbers(X, lane, n_cols)
    for chunk in range(chunks):
        following = numbers(X, (chunk + 1) * BLOCK + lane, n_cols)  # under way while this one is added up
        part = tl.sum(kept(x, m, scale, least, min_p), axis=0)
        x = following
        tl.store(Scratch + chunk, part)
        everything += part.to(tl.float64)
    tl.debug_barrier()
    goal = everything * tl.load(Uniform).to(tl.float64) * luck
    below = tl.full((), 0.0, tl.float64)
    found = tl.full((), 0, tl.int32)
    here = tl.load(Scratch).to(tl.float64)
    while (below + here <= goal) & (found + 1 < chunks):  # added up as before, so the end is above the goal
        below += here
        found += 1
        here = tl.load(Scratch + found).to(tl.float64)
    col = found * BLOCK + lane
    w = kept(numbers(X, col, n_cols), m, scale, least, min_p)
    return first_above(w, col, (goal - below).to(tl.float32))


@triton.jit(do_not_specialize=["top_k"])
def sample_logits_row(
    X, Uniform, Token, Scratch, n_cols, stride, width, scale, top_k, top_p, min_p, window, luck,
    GRAIN: tl.constexpr, BLOCK: tl.constexpr, CAPACITY: tl.constexpr, UNROLL: tl.constexpr,
    MAY_BE_LONG: tl.constexpr,
):  # fmt: skip
    """A row. BLOCK lanes; CAPACITY numbers in the tile of the short way. Scratch is memory of its own, for the lanes
    that are read again or for the sums of chunks: ``width`` numbers a row."""
    row = tl.program_id(0).to(tl.int64)
    X += row * stride
    Scratch += row * width
    Uniform += row
    lane = tl.arange(0, BLOCK)
    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    for start in range(0, n_cols, BLOCK * UNROLL):
        for i in tl.static_range(UNROLL):  # several loads are under way together
            top = tl.maximum(top, numbers(X, start + i * BLOCK + lane, n_cols))
    m = tl.maximum(tl.max(top, axis=0), LOWEST)
    bottom, hi = place(tl.min(top, axis=0)), place(m) + 1

    # A place below which nothing stays, or nothing that min-p keeps; and a w, but 0 where top-p is still to add up what
    # top-k leaves: it counts what min-p does not keep, too.
    lo = tl.full((), NOWHERE, tl.int64)
    least = tl.where((top_k > 0) & (top_p < 1.0), 0.0, min_p)
    total = tl.full((), 1.0, tl.float32)  # of w, of what top-p starts from
    if top_k > 0:
        if top_k <= BLOCK:
            ones = tl.full((BLOCK,), 1.0, tl.float32)
            lo = threshold(top, ones, top_k.to(tl.float32), bottom, hi, COARSE)
    elif top_p < 1.0:
        total = row_sum(X, n_cols, m, scale, float("-inf"), BLOCK, UNROLL)
        w = weight(top, m, scale)
        lo = place(m - window)
        if tl.sum(w, axis=0) >= top_p * total:
            lo = tl.maximum(lo, threshold(top, w, top_p * total, bottom, hi, COARSE))
    hit = (lane < n_cols) & (top >= number(lo)) & (weight(top, m, scale) >= least)  # without a column, nothing
    hits = tl.sum(hit.to(tl.int32), axis=0)
    if not MAY_BE_LONG:  # noqa: SIM114 (decided when it is compiled, then without the long way)
        token = short_way(
            X, Scratch, Uniform, n_cols, width, luck, m, scale, top_k, top_p, min_p, total, hit, hits, lo, hi,
            GRAIN, BLOCK, CAPACITY,
        )  # fmt: skip
    elif hits * tl.cdiv(n_cols, BLOCK) <= CAPACITY:
        token = short_way(
            X, Scratch, Uniform, n_cols, width, luck, m, scale, top_k, top_p, min_p, total, hit, hits, lo, hi,
            GRAIN, BLOCK, CAPACITY,
        )  # fmt: skip
    else:
        token = long_way(
            X, Scratch, Uniform, n_cols, luck, m, scale, top_k, top_p, min_p, total, window, lo, hi,
            GRAIN, BLOCK, UNROLL,
        )  # fmt: skip
    tl.store(Token + row, token.to(tl.int64))


# Columns up to → BLOCK, CAPACITY, warps: one table for all GPUs. A row of up to CAPACITY never goes the long way.
TABLE = {2048: (2048, 2048, 8), 1 << 24: (8192, 4096, 16)}
IN_FLIGHT = 8  # bytes of each lane that are loaded together
GRAINS = {torch.float32: 1, torch.float16: 1 << 13, torch.bfloat16: 1 << 16}
MOST = max(TABLE)  # columns: up to here fp32 counts without rounding


def tile(n_cols: int) -> tuple[int, int, int]:
    """(BLOCK, CAPACITY, warps) for rows of ``n_cols``."""
    return next(shape for most, shape in TABLE.items() if n_cols <= most)


def _sample(logits: Tensor, uniform: Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> Tensor:
    n_rows, n_cols = logits.shape
    tokens = logits.new_empty(n_rows, dtype=torch.int64)
    luck = 1.0
    if temperature == 0:  # the likeliest one, of several the first
        temperature, top_k, top_p, min_p, luck = 1.0, 1, 1.0, 0.0, 0.0
    # As fp32 has it: the exponent of 2, and how far below the maximum 1 - top_p of the sum can lie at most.
    scale = max(math.log2(math.e) / max(temperature, 1e-30), 1e-37)
    least = (1 - top_p) / n_cols if top_p < 1 else 0.0
    window = (1 - math.log2(max(least, min_p))) / scale if max(least, min_p) > 0 else math.inf
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    block, capacity, warps = tile(n_cols)
    chunks = library.cdiv(n_cols, block)
    scratch = logits.new_empty(n_rows, max(capacity // chunks, chunks), dtype=torch.float32)
    library.launch(
        sample_logits_row, (n_rows,), logits, uniform.contiguous(), tokens, scratch, n_cols, logits.stride(0),
        scratch.shape[1], scale, top_k if top_k < n_cols else 0, float(top_p), float(min_p), window, luck,
        GRAIN=GRAINS[logits.dtype], BLOCK=block, CAPACITY=capacity,
        UNROLL=IN_FLIGHT // logits.element_size(), MAY_BE_LONG=n_cols > capacity, num_warps=warps,
    )  # fmt: skip
    return tokens


_sample_logits = library.operator(
    "sample_logits(Tensor logits, Tensor uniform, float temperature, int top_k, float top_p, float min_p) -> Tensor",
    _sample, lambda logits, *_: logits.new_empty(logits.shape[0], dtype=torch.int64),
)  # fmt: skip


def refusal(
    logits: Tensor,
    uniform: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> str | None:
    """Why the kernel does not take this call, or None if it does."""
    if logits.dim() != 2 or not 1 <= logits.shape[1] <= MOST:
        return f"logits have shape {tuple(logits.shape)}, but (B, V) is needed, V from 1 to {MOST:,}"
    if uniform.shape != logits.shape[:1] or uniform.dtype != torch.float32:
        return f"uniform has to be ({logits.shape[0]},) in fp32, and is {tuple(uniform.shape)} in {uniform.dtype}"
    if not 0 <= temperature < math.inf:
        return f"temperature must be a number of at least 0, not {temperature}"
    if top_k < 0 or not top_p > 0 or not 0 <= min_p <= 1:
        return f"top_k from 0, top_p above 0 and min_p from 0 to 1 are needed, not {top_k}, {top_p} and {min_p}"
    return library.tensors_refused(logits, uniform)


def sample_logits(
    logits: Tensor,
    uniform: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Tensor:
    """Draw a token for each row; see `reference.sample_logits`, whose tokens these are, but where a sum's rounding
    decides. There is no gradient.

    A logit of -inf or nan is never drawn. One of +inf is as likely as any other +inf, and nothing else is drawn then. A
    row in which nothing can be drawn gives 0.

    Args:
        logits: (B, V), V ≥ 1, fp32, fp16 or bf16. Rows may lie apart; columns that do are copied first.
        uniform: (B,) fp32, at least 0 and below 1.
        temperature: 0 for the likeliest token, the first of equals.
        top_k: the k largest stay, and those as large as the last of them; 0 for all.
        top_p: above 0; 1 for all.
        min_p: 0 to 1; 0 for all.

    Returns:
        (B,) ids, int64.

    Raises:
        UnsupportedError: for other dtypes, shapes and numbers.
    """
    library.require(refusal(logits, uniform, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p))
    return _sample_logits(logits.detach(), uniform.detach(), float(temperature), top_k, float(top_p), float(min_p))
