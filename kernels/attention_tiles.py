"""What attention's kernels share: which tile of the (T_q, T_k) matrix a program works on, and what is seen in it.

A tile is a block of queries against a block of keys. Which keys a query sees is a question of positions only, so a
program knows beforehand which tiles hold nothing that is seen, and skips them, and in which all is seen, so that nobody
has to ask number by number:

    outer begin        inner begin                  inner end          outer end
         | some seen, ask |   all seen, do not ask      | some seen, ask |

That is all there is to causal attention, windows and documents: the cost follows the number of pairs that see each
other, rounded up to tiles.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import attention_schedule
from .functions import LOG2E, tanh

in_turn = triton.jit(attention_schedule.place)


@triton.jit
def place(T, rows, together, BLOCK: tl.constexpr, LAST_FIRST: tl.constexpr):
    """What this program is for: the number of its block of T tokens, and its row, which is a head of a sequence."""
    return in_turn(tl.program_id(0), tl.cdiv(T, BLOCK), rows, together, LAST_FIRST)


@triton.jit
def head(X, stride_b, stride_h, b, h):
    """Where the rows of one head of one sequence begin: beyond what 32 bits can count, maybe."""
    return X + b * stride_b + tl.cast(h, tl.int64) * stride_h


@triton.jit
def load_rows(X, stride, t, length, D: tl.constexpr, FIRST: tl.constexpr, WIDTH: tl.constexpr, ASK: tl.constexpr):
    """Rows t of X, channels FIRST ... FIRST + WIDTH - 1, (len(t), WIDTH), with 0 beyond D channels and, if it is asked,
    beyond ``length`` rows."""
    d = FIRST + tl.arange(0, WIDTH)
    at = X + t[:, None].to(tl.int64) * stride + d[None, :]
    if ASK:
        return tl.load(at, mask=(t < length)[:, None] & (d < D)[None, :], other=0.0)
    elif FIRST + WIDTH > D:
        return tl.load(at, mask=(d < D)[None, :], other=0.0)
    else:
        return tl.load(at)


@triton.jit
def store_rows(X, stride, t, length, x, D: tl.constexpr, FIRST: tl.constexpr, WIDTH: tl.constexpr):
    d = FIRST + tl.arange(0, WIDTH)
    inside = (t < length)[:, None] & (d < D)[None, :]
    tl.store(X + t[:, None].to(tl.int64) * stride + d[None, :], x.to(X.dtype.element_ty), mask=inside)


@triton.jit
def visible(p, j, T_k, window, start_p, start_j, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, DOCUMENTS: tl.constexpr):
    """Whether the query at position p is shown key j; of p and j one stands in rows and one in columns."""
    seen = j < T_k
    if CAUSAL:
        seen = seen & (j <= p)
    if WINDOW:
        seen = seen & (j > p - window)
        if not CAUSAL:
            seen = seen & (j < p + window)
    if DOCUMENTS:  # a document is known by its first token
        seen = seen & (start_p == start_j)
    return seen


@triton.jit
def document_of(Start, Stop, Whole, b, t, T):
    """For each of the tokens t the first token of its document and the one behind its last; and whether all documents
    of the sequence are in one piece. Tokens behind the end belong to the last document."""
    at = b * T + tl.minimum(t, T - 1)
    return tl.load(Start + at), tl.load(Stop + at), tl.load(Whole + b)


@triton.jit
def keys_seen(
    first, last, T_k, window, start, stop, whole,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, DOCUMENTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Queries at positions first ... last: outer begin, inner begin, inner end, outer end, of keys; see above. All but
    the outer end are multiples of BLOCK, and the inner ones may be beyond the outer end, or in the wrong order."""
    begin, inner_begin = 0, 0
    end, inner_end = T_k, T_k
    if CAUSAL:
        end, inner_end = tl.minimum(T_k, last + 1), tl.minimum(T_k, first + 1)
    if WINDOW:
        begin, inner_begin = tl.maximum(0, first - window + 1), tl.maximum(0, last - window + 1)
        if not CAUSAL:
            end, inner_end = tl.minimum(T_k, last + window), tl.minimum(T_k, first + window)
    return _aligned(begin, inner_begin, inner_end, end, start, stop, whole, DOCUMENTS, BLOCK)


@triton.jit
def queries_that_see(
    first, last, T_q, behind, window, start, stop, whole,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, DOCUMENTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The same for keys first ... last: which queries see them. Query i stands at position i + behind."""
    begin, inner_begin = 0, 0
    end, inner_end = T_q, T_q
    if CAUSAL:
        begin, inner_begin = tl.maximum(0, first - behind), tl.maximum(0, last - behind)
    if WINDOW:
        end = tl.minimum(T_q, last + window - behind)
        inner_end = tl.minimum(T_q, first + window - behind)
        if not CAUSAL:
            begin = tl.maximum(0, first - window + 1 - behind)
            inner_begin = tl.maximum(0, last - window + 1 - behind)
    return _aligned(begin, inner_begin, inner_end, end, start, stop, whole, DOCUMENTS, BLOCK)


@triton.jit
def _aligned(
    begin, inner_begin, inner_end, end, start, stop, whole, DOCUMENTS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    if DOCUMENTS:
        begin, inner_begin = tl.maximum(begin, tl.min(start)), tl.maximum(inner_begin, tl.max(start))
        end, inner_end = tl.minimum(end, tl.max(stop)), tl.minimum(inner_end, tl.min(stop))
        inner_end = tl.where(whole != 0, inner_end, 0)  # tokens of others stand between
    return begin // BLOCK * BLOCK, tl.cdiv(inner_begin, BLOCK) * BLOCK, tl.maximum(inner_end, 0) // BLOCK * BLOCK, end


@triton.jit
def part(number: tl.constexpr, begin, inner_begin, inner_end, end):
    """Begin and end of the first edge (0), the inside (1), the second edge (2), and all of it (3)."""
    if number == 0:
        return begin, tl.minimum(inner_begin, end)
    elif number == 1:
        return inner_begin, inner_end
    elif number == 3:
        return begin, end
    else:
        return tl.maximum(inner_begin, inner_end), end


@triton.jit
def scored(qk, distance, scale, softcap, slope, SOFTCAP: tl.constexpr, ALIBI: tl.constexpr):
    """Scores of products q·k, and by how much they grow with scale q·k, where they are soft-capped or fall with the
    distance."""
    s, slows = qk * scale, 1.0
    if SOFTCAP:
        t = tanh(s / softcap)
        s, slows = softcap * t, 1.0 - t * t
    if ALIBI:
        s = s - slope * tl.abs(distance).to(tl.float32)
    return s, slows


@triton.jit
def power(s, m, unit, NATURAL: tl.constexpr):
    """exp of a score less m. Of products q·k it is 2^(unit s - m), one operation, rounded once. What `scored` made of
    them are exponents of e, as m is then: where they are large they are close, and their difference is exact."""
    if NATURAL:
        return tl.exp2((s - m) * LOG2E)
    else:
        return tl.exp2(tl.fma(s, unit, -m))


def split(D: int) -> tuple[int, int]:
    """In which pieces head_dim is worked on: tiles have powers of two, of which one or two cover it, with as little
    left over as can be: 96 = 64 + 32, and 72 = 64 + 16 less 8."""
    first = 1 << (D.bit_length() - 1)
    if first == D:
        return max(16, D), 0
    second = max(16, 1 << (D - first - 1).bit_length())
    return (first, second) if first >= 16 and first + second < 2 * first else (2 * first, 0)


def documents(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the documents of tokens begin and end.

    Args:
        ids: (B, T), one number for all tokens of a document.

    Returns:
        For each token the first one of its document, and the one behind its last, each (B, T) int32; and whether no
        document of a sequence has tokens of others in between, (B,) int32.
    """
    T = ids.shape[1]
    values, order = ids.sort(dim=1, stable=True)  # tokens of a document side by side, in their order
    here = torch.arange(T, device=ids.device).expand_as(ids)
    new = torch.ones_like(ids, dtype=torch.bool)
    new[:, 1:] = values[:, 1:] != values[:, :-1]
    last = torch.ones_like(new)
    last[:, :-1] = new[:, 1:]
    first_of = torch.where(new, here, 0).cummax(dim=1).values
    last_of = torch.where(last, here, T).flip(1).cummin(dim=1).values.flip(1)
    start, stop = order.gather(1, first_of), order.gather(1, last_of) + 1
    whole = (stop - start == last_of - first_of + 1).all(dim=1)
    start, stop = (torch.empty_like(t).scatter_(1, order, t) for t in (start, stop))
    return start.int(), stop.int(), whole.int()


def packed(cu_seqlens: Tensor, total: int) -> tuple[Tensor, Tensor, Tensor]:
    """`documents` for sequences in a row, as one sequence of ``total`` tokens: (1, total) twice, and (1,)."""
    rows = torch.arange(total, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    of = torch.searchsorted(cu_seqlens, rows, right=True)
    start, stop = cu_seqlens[of - 1].int(), cu_seqlens[of.clamp(max=len(cu_seqlens) - 1)].int()
    return start[None], stop[None], torch.ones_like(start[:1])
