"""What is timed of attention: shapes, masks, decoding; see `attention`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .operations import OPERATIONS, Case, Operation, Shape
from .operations.attention import attention_work
from .operations.base import Fixed, distance
from .timing import FORMATS

FORMS: dict[str, dict[str, Any]] = {
    "causal": {"causal": True},
    "full": {"causal": False},
    "window 128": {"causal": True, "window": 128},
    "16 documents": {"causal": True, "documents": 16},
    # As small as that so that whoever leaves it out is noticed: scores of random numbers are about 1.
    "softcap 2": {"causal": True, "softcap": 2.0},
}
ATTENTION = replace(
    OPERATIONS["attention"],
    letters="BxTxHxDxH_kv",
    forms=FORMS,
    work=lambda shape, form, direction, size: attention_work(shape, form, direction, size, FORMS[form]),
)
"""the numbers of a shape are B, T, H, D and, where it is not H, H_kv"""

TOKENS, CHANNELS = 16_384, 2048
LENGTHS = (1024, 2048, 4096, 8192, 16_384)
GPT2 = (16, 1024, 12, 64)
PAGES = {"paged": 16, "pages of 256": 256}
"""form → tokens of a page of a cache in pages: as servers have them, and the fewest that FlashAttention-2 takes"""


def lengths(T: int, B: int, form: str) -> list[int]:
    """How many tokens of a cache are there, of each sequence: all, or ragged, from half of them to all."""
    if form != "ragged" or B == 1:
        return [T] * B
    return [T // 2 + (T - T // 2) * b // (B - 1) for b in range(B)]


def cache_bytes(shape: Sequence[int], form: str, dtype: str) -> int:
    """Of the keys and values that are there."""
    B, _, T, _, D, H_kv = shape
    return 2 * sum(lengths(T, B, form)) * H_kv * D * FORMATS[dtype].itemsize


def decode_work(shape: Shape, form: str, direction: str, size: int) -> tuple[int, int]:
    """The keys and values that are there once, q and o; two products."""
    B, T_q, T, H, D, H_kv = shape
    there = sum(lengths(T, B, form))
    hidden = B * T_q * (T_q - 1) // 2  # the last query sees all keys, the one before it all but one
    return (2 * there * H_kv * D + 2 * B * T_q * H * D) * size, 4 * H * D * (T_q * there - hidden)


def decode_inputs(shape: Shape, form: str) -> list[Any]:
    """q (B, T_q, H, D); caches (B, T, H_kv, D), or (pages, tokens of one, H_kv, D)."""
    B, T_q, T, H, D, H_kv = shape
    page = PAGES.get(form)
    cache = (B, T, H_kv, D) if page is None else (B * -(-T // page), page, H_kv, D)
    return [Fixed((B, T_q, H, D)), Fixed(cache), Fixed(cache)]


def block_table(B: int, T: int, page: int, device: torch.device | str) -> Tensor:
    """(B, pages of a sequence), int32: where the pages of each sequence are, all over the cache."""
    pages = -(-T // page)
    order = torch.randperm(B * pages, generator=torch.Generator().manual_seed(0))
    return order.to(device=device, dtype=torch.int32).view(B, pages)


def valid(case: Case, tensors: Sequence[Tensor], b: int) -> tuple[Tensor, Tensor]:
    """Keys and values of a sequence that are there: (1, length, H_kv, D)."""
    B, _, T = case.shape[:3]
    length = lengths(T, B, case.form)[b]
    _, k, v = tensors
    if case.form in PAGES:
        at = block_table(B, T, PAGES[case.form], k.device)[b].long()
        k, v = (t[at].flatten(0, 1)[None] for t in (k, v))
        return k[:, :length], v[:, :length]
    return k[b : b + 1, :length], v[b : b + 1, :length]


def decode_error(
    case: Case, tensors: list[Tensor], dys: Sequence[Tensor], ys: Sequence[Tensor], grads: Sequence[Tensor]
) -> float:
    """The furthest sequence's ‖a - b‖ / ‖b‖, of eight at most, the first and the last among them."""
    from ..reference.attention import attention

    B = case.shape[0]
    some = {round(i * (B - 1) / 7) for i in range(8)}
    worst = 0.0
    for b in sorted(some):
        q, k, v = (t.double() for t in (tensors[0][b : b + 1], *valid(case, tensors, b)))
        worst = max(worst, distance(ys[0][b : b + 1], attention(q, k, v, causal=True)))
    return worst


DECODE = Operation(
    "decode", "BxT_qxTxHxDxH_kv", (), (), (2, 1, 64, 2, 64, 2), (1, 1, 1024, 12, 64, 12),
    {form: {} for form in ("", "ragged", *PAGES)}, decode_inputs, decode_work, decode_error, {}, lambda dtype: iter(()),
    directions=("forward",),
)  # fmt: skip

LARGE_CACHE = ((8, 32_768, 64, 128, 8), (32, 8192, 64, 128, 8), (128, 4096, 12, 64, 12))
"""B, T, H, D, H_kv with more than 1 GB of cache in 16 bits"""
SMALL_CACHE = (1, 8192, 64, 128, 8)
SEVERAL = (2, 4, 8, 16)
"""query tokens, as when guesses of a smaller model are checked"""


def of_length(T: int, D: int, H: int | None = None, H_kv: int | None = None) -> Shape:
    """So many tokens and channels that lengths can be compared: `TOKENS` and, if not given, `CHANNELS`."""
    H = max(1, CHANNELS // D) if H is None else H
    shape = (max(1, TOKENS // T), T, H, D)
    return shape if H_kv is None else (*shape, H_kv)


def groups(quick: bool = False) -> dict[str, list[tuple[Operation, str, Shape]]]:
    """What ``--only`` can name → operation, form and shape of its cases; those of "forward" and "backward" are timed in
    that direction, all others in both."""
    T = (4096,) if quick else LENGTHS
    causal = [(ATTENTION, "causal", of_length(t, D)) for D in (128, 64) for t in T]
    causal.append((ATTENTION, "causal", GPT2))
    window = [(ATTENTION, "window 128", (2, 8192, 64, 64)), (ATTENTION, "window 128", (1, 32_768, 64, 64))]
    full = [(ATTENTION, "full", of_length(t, D)) for D in (128, 64) for t in (4096, 16_384)]
    documents = [(ATTENTION, "16 documents", of_length(16_384, D)) for D in (128, 64)]
    gqa = [(ATTENTION, "causal", (1, t, 64, 128, 8)) for t in (2048, 4096, 8192, 16_384)]
    widths = [(ATTENTION, "causal", of_length(4096, D)) for D in (96, 192, 256)]
    softcap = [(ATTENTION, "softcap 2", of_length(4096, 256))]
    decode = [_decode(shape, T_q) for shape in (LARGE_CACHE[0], SMALL_CACHE) for T_q in (1, *SEVERAL)]
    decode += [_decode(shape, 1) for shape in LARGE_CACHE[1:]]
    decode += [_decode(LARGE_CACHE[1], 1, form) for form in ("ragged", *PAGES)]
    found = {
        "forward": causal, "backward": causal, "window": window, "decode": decode, "full": full, "gqa": gqa,
        "documents": documents, "widths": widths, "softcap": softcap,
    }  # fmt: skip
    if quick:
        few = {"window": window[:1], "full": full[:1], "gqa": gqa[1:2], "documents": documents[:1]}
        found |= few | {"widths": widths[-1:], "decode": [_decode(LARGE_CACHE[0], T_q) for T_q in (1, 4)]}
    return found


def _decode(shape: tuple[int, int, int, int, int], T_q: int, form: str = "") -> tuple[Operation, str, Shape]:
    B, *rest = shape
    return DECODE, form, (B, T_q, *rest)
