r"""Attention of a few new tokens to a long cache of keys and values: one step of writing a text.

    o_i = sum_j p_ij v_j,    p_ij = exp(s_ij - L_i),    s_ij = scale q_i·k_j,    L_i = log sum_j exp(s_ij)

for keys j up to the position of query i, of which each sequence has a number of its own (``lengths``, known to the GPU
only). At the floor every key and value is read once, 2 · length · D numbers for each key-value head, and nothing else
counts: this is a kernel that waits for memory.

**Read once.** All queries that look at one key-value head, T_q new tokens times H / H_kv heads, are rows of one matrix.
So a block of keys is loaded once for all of them, and 16 new tokens (a guess of a smaller model's that is checked)
cost hardly more than one.

**Read by all.** One sequence has fewer key-value heads than a GPU has multiprocessors, so its keys are cut into splits
(Flash-Decoding, https://pytorch.org/blog/flash-decoding/). A split's program walks over its keys as `attention` does
and leaves o and L of what it saw; `decode_attention_merge` then weighs the splits by exp(L_split - L), always in the
same order, so that the result is the same bits every time. How many splits there are is decided without asking the GPU,
from what there is room for. Where they begin is computed on the GPU from each length, so a short sequence in a large
cache is cut as finely as a long one; programs without keys end at once.

Keys may lie in pages anywhere in memory (``block_table``). The number of a block's page is loaded one block ahead, so
that no load of keys waits for it.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import library
from .functions import LOG2E, tanh

MOST_QUERIES = 16
FAR = 1 << 30  # a window that no key is outside of


@triton.jit
def stretch(Lengths, b, room, T_q, window, least, splits, BLOCK_N: tl.constexpr):
    """Of sequence b: the first key that any query sees, the one behind the last, the beginning of the first block, and
    the keys of a split, whole blocks and ``least`` of them at least."""
    end = tl.maximum(tl.minimum(tl.load(Lengths + b).to(tl.int64), room), 0).to(tl.int32)
    begin = tl.maximum(end - T_q - window + 1, 0)  # of the first query's window
    first = begin // BLOCK_N * BLOCK_N
    share = tl.cdiv(tl.maximum(end - first, 0), splits)
    return begin, end, first, tl.maximum(tl.cdiv(share, BLOCK_N) * BLOCK_N, least)


@triton.jit
def place(rows, BLOCK_M: tl.constexpr):
    """What this program is for: which split of which keys, and which block of the rows that see them."""
    blocks = tl.cdiv(rows, BLOCK_M)
    return tl.program_id(0) // blocks, tl.program_id(0) % blocks


@triton.jit
def page_of(Table, j, end, pages, PAGE: tl.constexpr, BLOCK_N: tl.constexpr):
    """The page of each key from j on: one number for all if a block never leaves a page. -1 beyond the end,
    and for a number that is no page."""
    if PAGE % BLOCK_N == 0:
        page = tl.load(Table + j // PAGE, mask=j < end, other=-1)
    else:
        at = j + tl.arange(0, BLOCK_N)
        page = tl.load(Table + at // PAGE, mask=at < end, other=-1)
    return tl.where(page < pages, page, -1)


@triton.jit
def tile(X, rows, there, FROM: tl.constexpr, TO: tl.constexpr, WIDTH: tl.constexpr):
    """Channels FROM ... TO - 1 of rows of X, WIDTH of them; 0 elsewhere."""
    d = FROM + tl.arange(0, WIDTH)
    return tl.load(X + rows[:, None] + d[None, :], mask=there[:, None] & (d < TO)[None, :], other=0.0)


STRIDES = ("table_b", "slopes_b", *(f"{t}_{axis}" for t in "qkv" for axis in "bth"))
SIZES = ("room", "T_q", "H", "window", "least", "splits")


@triton.jit(do_not_specialize=[*STRIDES, *SIZES, "H_kv", "pages"])  # not to compile it anew for a size of 1
def decode_attention_split(
    Q, K, V, Lengths, Table, Slopes, O, Part, L,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, table_b, slopes_b,
    room, T_q, H, H_kv, pages, window, least, splits, scale, softcap,
    MERGE: tl.constexpr, PAGE: tl.constexpr, CAPPED: tl.constexpr, ALIBI: tl.constexpr, UNIT: tl.constexpr,
    D: tl.constexpr, D_0: tl.constexpr, D_1: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    DOT: tl.constexpr,
):  # fmt: skip
    """One split of the keys of one key-value head of one sequence, for BLOCK_M of the rows (token, head) that see it.

    PAGE is 0 for keys in a row. Strides of Q, K and V are in units of UNIT numbers, so that the compiler knows which
    loads are aligned. Channels are two parts, D_0 and D_1, the latter 0 for none. MERGE: to Part (B, splits, T_q, H,
    D) and L (B, splits, T_q, H), the logarithm to base 2; else straight to O."""
    # Neighbours in the grid are rows that share their keys, then heads, whose keys are neighbours in memory.
    group = H // H_kv
    of_keys, block = place(T_q * group, BLOCK_M)
    h_kv, split, b = of_keys % H_kv, of_keys // H_kv % splits, (of_keys // H_kv // splits).to(tl.int64)
    begin, end, first, share = stretch(Lengths, b, room, T_q, window, least, splits, BLOCK_N)
    start, stop = first + split * share, tl.minimum(end, first + (split + 1) * share)
    if MERGE and start >= stop:
        return

    m_row = block * BLOCK_M + tl.arange(0, BLOCK_M)
    t, h = m_row // group, h_kv * group + m_row % group
    real = m_row < T_q * group
    position = end - T_q + t
    from_q = Q + b * q_b * UNIT
    rows = (t.to(tl.int64) * q_t + h * q_h) * UNIT
    q_0 = tile(from_q, rows, real, 0, D, D_0)
    if D_1 > 0:
        q_1 = tile(from_q, rows, real, D_0, D, D_1)
    if ALIBI:
        slope = tl.load(Slopes + b * slopes_b + h, mask=real, other=0.0).to(tl.float32) * LOG2E
    to_2 = scale * LOG2E

    K += h_kv.to(tl.int64) * k_h * UNIT
    V += h_kv.to(tl.int64) * v_h * UNIT
    n = tl.arange(0, BLOCK_N)
    if PAGE == 0:
        K += (b * k_b + start.to(tl.int64) * k_t) * UNIT
        V += (b * v_b + start.to(tl.int64) * v_t) * UNIT
        k_rows, v_rows = n.to(tl.int64) * k_t * UNIT, n.to(tl.int64) * v_t * UNIT
    else:
        Table += b * table_b
        page = page_of(Table, start, stop, pages, PAGE, BLOCK_N)

    m = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    l = tl.zeros((BLOCK_M,), tl.float32)
    acc_0 = tl.zeros((BLOCK_M, D_0), tl.float32)
    if D_1 > 0:
        acc_1 = tl.zeros((BLOCK_M, D_1), tl.float32)
    for at in range(start, stop, BLOCK_N):
        j = at + n
        if PAGE == 0:
            there = (j >= begin) & (j < stop)
        else:
            there = (j >= begin) & (j < tl.where(page >= 0, stop, 0))
            if PAGE % BLOCK_N == 0:
                before = tl.full((), 0, tl.int64) + at % PAGE  # keys of the page
                k_rows = (page.to(tl.int64) * k_b + before * k_t) * UNIT + n.to(tl.int64) * k_t * UNIT
                v_rows = (page.to(tl.int64) * v_b + before * v_t) * UNIT + n.to(tl.int64) * v_t * UNIT
            else:
                k_rows = (page.to(tl.int64) * k_b + (j % PAGE).to(tl.int64) * k_t) * UNIT
                v_rows = (page.to(tl.int64) * v_b + (j % PAGE).to(tl.int64) * v_t) * UNIT
            page = page_of(Table, at + BLOCK_N, stop, pages, PAGE, BLOCK_N)

        s = tl.dot(q_0, tl.trans(tile(K, k_rows, there, 0, D, D_0)), input_precision=DOT)  # (BLOCK_M, BLOCK_N)
        if D_1 > 0:
            s = tl.dot(q_1, tl.trans(tile(K, k_rows, there, D_0, D, D_1)), s, input_precision=DOT)
        behind = position[:, None] - j[None, :]
        seen = there[None, :] & (behind >= 0) & (behind < window)
        if CAPPED or ALIBI:  # x is the score to base 2
            if CAPPED:
                x = tanh(s * (scale / softcap)) * (softcap * LOG2E)
            else:
                x = s * to_2
            if ALIBI:
                x = x - slope[:, None] * behind
            x = tl.where(seen, x, float("-inf"))
            m_new = tl.maximum(m, tl.max(x, axis=1))
            m_safe = tl.where(m_new == float("-inf"), 0.0, m_new)  # nothing seen yet: not inf - inf
            p = tl.exp2(x - m_safe[:, None])
        else:
            m_new = tl.maximum(m, tl.max(tl.where(seen, s * to_2, float("-inf")), axis=1))
            m_safe = tl.where(m_new == float("-inf"), 0.0, m_new)
            p = tl.where(seen, tl.exp2(tl.fma(s, to_2, -m_safe[:, None])), 0.0)
        alpha = tl.exp2(m - m_safe)
        l = l * alpha + tl.sum(p, axis=1)
        m = m_new
        p = p.to(V.dtype.element_ty)
        acc_0 = tl.dot(p, tile(V, v_rows, there, 0, D, D_0), acc_0 * alpha[:, None], input_precision=DOT)
        if D_1 > 0:
            acc_1 = tl.dot(p, tile(V, v_rows, there, D_0, D, D_1), acc_1 * alpha[:, None], input_precision=DOT)
        if PAGE == 0:
            K += tl.full((), BLOCK_N * UNIT, tl.int64) * k_t
            V += tl.full((), BLOCK_N * UNIT, tl.int64) * v_t

    sums = tl.where(l == 0.0, 1.0, l)  # a query that sees nothing gets 0
    if not MERGE:
        rows = ((b * T_q + t) * H + h) * D
        keep(O, rows, real, acc_0 / sums[:, None], 0, D, D_0)
        if D_1 > 0:
            keep(O, rows, real, acc_1 / sums[:, None], D_0, D, D_1)
    else:
        row = ((b * splits + split) * T_q + t) * H + h
        keep(Part, row * D, real, acc_0 / sums[:, None], 0, D, D_0)
        if D_1 > 0:
            keep(Part, row * D, real, acc_1 / sums[:, None], D_0, D, D_1)
        tl.store(L + row, m + tl.log2(sums), mask=real)


@triton.jit
def keep(X, rows, real, x, FROM: tl.constexpr, TO: tl.constexpr, WIDTH: tl.constexpr):
    """Write what `tile` would read."""
    d = FROM + tl.arange(0, WIDTH)
    tl.store(X + rows[:, None] + d[None, :], x.to(X.dtype.element_ty), mask=real[:, None] & (d < TO)[None, :])


@triton.jit(do_not_specialize=SIZES)
def decode_attention_merge(
    Part, L, Lengths, O, room, T_q, H, window, least, splits,
    BLOCK_N: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """One query of one head: the splits that had keys, weighed by what they added up."""
    row = tl.program_id(0).to(tl.int64)
    b = row // (T_q * H)
    _, end, first, share = stretch(Lengths, b, room, T_q, window, least, splits, BLOCK_N)
    used = tl.cdiv(tl.maximum(end - first, 0), share)
    d = tl.arange(0, BLOCK_D)
    s = tl.arange(0, BLOCK_S)
    from_part = b * (splits - 1) * T_q * H + row  # the row of split 0
    m = tl.full((), float("-inf"), tl.float32)
    l = tl.full((), 0.0, tl.float32)
    acc = tl.zeros((BLOCK_D,), tl.float32)
    for at in range(0, used, BLOCK_S):
        there = at + s < used
        rows = from_part + (at + s).to(tl.int64) * T_q * H
        each = tl.load(L + rows, mask=there, other=float("-inf"))
        o = tl.load(Part + rows[:, None] * D + d[None, :], mask=there[:, None] & (d < D)[None, :], other=0.0)
        m_new = tl.maximum(m, tl.max(each, axis=0))
        m_safe = tl.where(m_new == float("-inf"), 0.0, m_new)
        w = tl.exp2(each - m_safe)
        alpha = tl.exp2(m - m_safe)
        l = l * alpha + tl.sum(w, axis=0)
        acc = acc * alpha + tl.sum(w[:, None] * o, axis=0)
        m = m_new
    o = acc / tl.where(l == 0.0, 1.0, l)
    tl.store(O + row * D + d, o.to(O.dtype.element_ty), mask=d < D)


class Tile(NamedTuple):
    """How the rows and keys of a split are cut, and launched."""

    rows: int
    keys: int
    warps: int
    stages: int
    programs: int
    """that a multiprocessor of sm_90 holds at once"""


# (bytes of a number, head_dim up to) → tiles for few and for many rows: one table for all GPUs, so none takes more than
# 99 KB of shared memory. The more rows, the more of it the queries take, and the fewer keys are on their way.
TABLE: dict[tuple[int, int], tuple[Tile, ...]] = {
    (2, 16): (Tile(16, 64, 4, 4, 3), Tile(32, 64, 4, 4, 3), Tile(64, 64, 4, 4, 2), Tile(128, 128, 8, 3, 1)),
    (2, 64): (Tile(16, 128, 4, 3, 3), Tile(32, 64, 4, 4, 3), Tile(64, 64, 4, 4, 2), Tile(128, 64, 8, 4, 1)),
    (2, 96): (Tile(16, 64, 4, 3, 3), Tile(32, 32, 4, 4, 2), Tile(64, 32, 4, 4, 2), Tile(128, 64, 8, 3, 1)),
    (2, 128): (Tile(16, 64, 4, 3, 3), Tile(32, 32, 4, 4, 3), Tile(64, 32, 4, 4, 2), Tile(128, 32, 8, 4, 1)),
    (2, 192): (Tile(16, 32, 4, 3, 3), Tile(32, 32, 4, 3, 2), Tile(64, 16, 4, 4, 2)),
    (2, 256): (Tile(16, 32, 4, 3, 3), Tile(32, 32, 4, 3, 2), Tile(64, 16, 4, 4, 1)),
    (4, 64): (Tile(16, 64, 4, 2, 3), Tile(32, 32, 4, 2, 3)),
    (4, 96): (Tile(16, 16, 4, 3, 3), Tile(32, 32, 4, 2, 2)),
    (4, 128): (Tile(16, 16, 4, 3, 3), Tile(32, 16, 8, 3, 2)),
    (4, 256): (Tile(16, 16, 8, 3, 2), Tile(32, 16, 8, 2, 1)),
}
SPLIT_BYTES = 1 << 16  # of keys and values, at least, and
SPLIT_SHARE = 4  # times as many as of the part of a result that a split leaves: what makes it worth merging
MOST_SPLITS = 256
MERGED = 16  # splits that a program merges at a time


def parts(D: int) -> tuple[int, int]:
    """Powers of two that hold D channels: 96 is 64 + 32, and not 128, of which a quarter would be nothing. The second
    is 0, or half of the first: of any less a thread would have fewer than 16 bytes to load."""
    whole = 1 << (D.bit_length() - 1)
    if D == whole:
        return whole, 0
    return (whole, whole // 2) if whole >= 64 and D <= whole * 3 // 2 else (2 * whole, 0)


def tile_of(size: int, D: int, rows: int) -> Tile:
    """For numbers of ``size`` bytes and ``rows`` rows: in one block if there is one so large."""
    tiles = next(tiles for (bytes_, most), tiles in TABLE.items() if bytes_ == size and D <= most)
    return next((tile for tile in tiles if rows <= tile.rows), tiles[-1])


@functools.cache
def number_of_splits(programs: int, room: int, least: int, slots: int) -> int:
    """How many, where one split would be ``programs`` programs and the GPU runs ``slots`` at once.

    Programs of one length run in waves, the last of which may be small: the fewest splits are taken that waste hardly
    more than the best number does."""
    most = max(1, min(library.cdiv(room, least), MOST_SPLITS))
    full = {n: n * programs / (library.cdiv(n * programs, slots) * slots) for n in range(1, most + 1)}
    return min(n for n, share in full.items() if share >= 0.9 * max(full.values()))


def _decode(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, lengths: Tensor, block_table: Tensor | None, window: int,
    scale: float, softcap: float, slopes: Tensor | None,
) -> Tensor:  # fmt: skip
    B, T_q, H, D = q.shape
    o = q.new_empty(q.shape)
    if o.numel() == 0:
        return o
    size, H_kv = q.element_size(), k_cache.shape[2]
    page = 0 if block_table is None else k_cache.shape[1]
    room = k_cache.shape[1] if block_table is None else block_table.shape[1] * page
    rows = T_q * H // H_kv
    cut = tile_of(size, D, rows)
    least = max(1, SPLIT_BYTES // (2 * D * size), SPLIT_SHARE * 4 * D * rows // (2 * D * size))  # keys of a split
    least = library.cdiv(least, cut.keys) * cut.keys
    programs = B * H_kv * library.cdiv(rows, cut.rows)
    splits = number_of_splits(programs, room, least, cut.programs * library.multiprocessors(q.device))
    part, log_sum = o, o
    if splits > 1:
        part = q.new_empty(B, splits, T_q, H, D, dtype=torch.float32)
        log_sum = q.new_empty(B, splits, T_q, H, dtype=torch.float32)
    strides = [stride for t in (q, k_cache, v_cache) for stride in t.stride()[:3]]
    unit = 1 if any(stride % 8 for stride in strides) else 8
    d_0, d_1 = parts(D)
    library.launch(
        decode_attention_split, (programs * splits,), q, k_cache, v_cache, lengths,
        lengths if block_table is None else block_table, lengths if slopes is None else slopes, o, part, log_sum,
        *(stride // unit for stride in strides),
        0 if block_table is None else block_table.stride(0),
        0 if slopes is None or slopes.dim() == 1 else slopes.stride(0),
        room, T_q, H, H_kv, len(k_cache), window, least, splits, scale, softcap,
        MERGE=splits > 1, PAGE=page, CAPPED=softcap > 0, ALIBI=slopes is not None, UNIT=unit,
        D=D, D_0=d_0, D_1=d_1, BLOCK_M=cut.rows, BLOCK_N=cut.keys,
        # Products of fp32 numbers are full fp32 products, not of numbers cut to the 10 bits of tf32.
        DOT="ieee" if q.dtype == torch.float32 else "tf32", num_warps=cut.warps, num_stages=cut.stages,
    )  # fmt: skip
    if splits > 1:
        library.launch(
            decode_attention_merge, (B * T_q * H,), part, log_sum, lengths, o, room, T_q, H, window, least, splits,
            BLOCK_N=cut.keys, D=D, BLOCK_D=library.power_of_2(D), BLOCK_S=MERGED,
        )  # fmt: skip
    return o


_decode_attention = library.operator(
    "decode_attention(Tensor q, Tensor k_cache, Tensor v_cache, Tensor lengths, Tensor? block_table, int window,"
    " float scale, float softcap, Tensor? slopes) -> Tensor",
    _decode, lambda q, *_: q.new_empty(q.shape),
)  # fmt: skip


def refusal(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, lengths: Tensor, *, block_table: Tensor | None = None,
    window: int | None = None, scale: float | None = None, softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
) -> str | None:  # fmt: skip
    """Why the kernel does not take this call, or None if it does."""
    if q.dim() != 4 or k_cache.dim() != 4 or k_cache.shape != v_cache.shape:
        return (
            "q is (B, T_q, H, D), k_cache and v_cache are (B, T_max, H_kv, D) or pages of that kind, but the shapes "
            f"are {tuple(q.shape)}, {tuple(k_cache.shape)} and {tuple(v_cache.shape)}"
        )
    (B, T_q, H, D), (rows, _, H_kv, D_k) = q.shape, k_cache.shape
    if D != D_k or (block_table is None and B != rows):
        return f"q has {B} sequences of {D} channels, the cache has {rows} of {D_k}"
    if H_kv == 0 or H % H_kv:
        return f"{H} query heads cannot share {H_kv} key-value heads evenly"
    if T_q > MOST_QUERIES:
        return f"{T_q} new tokens a sequence; the kernel takes up to {MOST_QUERIES}: attention is for more"
    if not 16 <= D <= 256 or D % 8:
        return f"head_dim is {D}; the kernel takes 16 to 256, in steps of 8"
    if k_cache.stride(3) != 1 or v_cache.stride(3) != 1:
        return "the channels of a key or value have to lie side by side (stride 1): a cache is not copied"
    if lengths.shape != (B,) or lengths.dtype not in (torch.int32, torch.int64):
        return f"lengths has to be ({B},), int32 or int64, and is {tuple(lengths.shape)} in {lengths.dtype}"
    if block_table is not None and (
        block_table.dim() != 2 or len(block_table) != B or block_table.dtype != torch.int32 or k_cache.shape[1] == 0
    ):
        return (
            f"block_table has to be ({B}, n) in int32, of pages that hold a key at least, and is "
            f"{tuple(block_table.shape)} in {block_table.dtype}"
        )
    if q.dtype != k_cache.dtype or q.dtype != v_cache.dtype:
        return f"q and the cache must be of one dtype, not {q.dtype}, {k_cache.dtype} and {v_cache.dtype}"
    room = k_cache.shape[1] * (1 if block_table is None else block_table.shape[1])
    if room > FAR:
        return f"the cache has room for {room} keys of a sequence, but the kernel counts to {FAR}"
    if (window is not None and window < 1) or (softcap is not None and not 0 < softcap < math.inf):
        return f"window from 1 and softcap above 0 are needed, not {window} and {softcap}"
    if scale is not None and not math.isfinite(scale):
        return f"scale must be a finite number, not {scale}"
    if alibi_slopes is not None and alibi_slopes.shape not in ((H,), (B, H)):
        return f"alibi_slopes has to be ({H},) or ({B}, {H}), and is {tuple(alibi_slopes.shape)}"
    if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k_cache, v_cache)):
        return "decode_attention has no gradient: use attention, or torch.no_grad()"
    for t in (lengths, block_table, alibi_slopes):
        if t is not None and t.device != q.device:
            return f"the tensors are on {q.device} and on {t.device}, but must be on one device"
    return library.tensors_refused(q, k_cache, v_cache)


def decode_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    lengths: Tensor,
    *,
    block_table: Tensor | None = None,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
) -> Tensor:
    """Attention of the newest tokens to a cache; see `reference.decode_attention`. There is no gradient.

    The launches depend on shapes and strides only, and nothing waits for the GPU, so a CUDA graph can hold the call,
    and the lengths may be others each time it is replayed.

    Args:
        q: (B, T_q, H, D), T_q up to 16, fp32, fp16 or bf16, D from 16 to 256 in steps of 8.
        k_cache, v_cache: (B, T_max, H_kv, D), in q's dtype, stride 1 by channel and any others; or pages of that kind,
            (pages, page_size, H_kv, D).
        lengths: (B,), int32 or int64: valid keys, the new tokens' among them. Beyond them nothing is read; a number
            above the room that there is means all of it, one below 0 means 0.
        block_table: (B, n), int32: which pages are a sequence's, in order. A number that is no page has no keys.
        window: a query sees itself and the ``window`` - 1 keys before it; those before any query's are not read.
        scale: 1 / sqrt(D) if not given.
        softcap: scores s become softcap · tanh(s / softcap).
        alibi_slopes: (H,) or (B, H); slope · distance is taken off a score.

    Returns:
        (B, T_q, H, D) in q's dtype; a query that sees no key gets 0. Sums are kept in fp32; fp32 inputs are multiplied
        as fp32 numbers (IEEE), never as tf32. The same bits every time.

    Raises:
        UnsupportedError: for other dtypes and shapes, and where a gradient is wanted.
    """
    options = {"window": window, "scale": scale, "softcap": softcap, "alibi_slopes": alibi_slopes}
    library.require(refusal(q, k_cache, v_cache, lengths, block_table=block_table, **options))
    window = FAR if window is None else min(window, FAR)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    q = q if q.stride(-1) == 1 else q.contiguous()
    if block_table is not None and block_table.stride(-1) != 1:
        block_table = block_table.contiguous()
    if alibi_slopes is not None:
        alibi_slopes = alibi_slopes.detach().contiguous()
    return _decode_attention(
        q.detach(), k_cache.detach(), v_cache.detach(), lengths.contiguous(), block_table, window, scale,
        0.0 if softcap is None else float(softcap), alibi_slopes,
    )  # fmt: skip
