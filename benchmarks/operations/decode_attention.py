from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..timing import FORMATS
from .base import Case, Filled, Fixed, Function, Input, Operation, Pages, Shape, distance, reference_of

PAGE = 16  # keys, as servers have them
PAGED = "pages of 16"
HEAD_DIMS = (16, 24, 64, 96, 128, 192, 256)  # each class of the launch table
GROUP = 8


def decode_inputs(shape: Shape, form: str) -> list[Input]:
    """New tokens, a full cache, and how much of it is valid: all."""
    B, T_q, T, H, H_kv, D = shape
    cache, table = (B, T, H_kv, D), []
    if form == PAGED:
        pages = -(-T // PAGE)
        cache, table = (B * pages, PAGE, H_kv, D), [Pages((B, pages))]
    return [Fixed((B, T_q, H, D)), Fixed(cache), Fixed(cache), Filled((B,), T), *table]


def with_pages(function: Function) -> Function:
    """The table of pages, if there is one, is an option."""

    def call(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, table: Tensor | None = None) -> Any:
        return function(q, k, v, lengths, block_table=table)

    return call


def decode_work(shape: Shape, form: str, direction: str, size: int) -> tuple[int, int]:
    """The cache once, q and o; and two products."""
    B, T_q, T, H, H_kv, D = shape
    return 2 * B * (T * H_kv + T_q * H) * D * size, 4 * B * T_q * H * T * D


def decode_error(
    case: Case, tensors: list[Tensor], dys: Sequence[Tensor], ys: Sequence[Tensor], grads: Sequence[Tensor]
) -> float:
    """For the first key-value head of the first sequence and the last of the last."""
    q, k, v, lengths, *tables = tensors
    (y,), (B, _, _, H, H_kv, _) = ys, case.shape
    reference, group, worst = reference_of(case), H // H_kv, 0.0
    for b, h in {(0, 0), (B - 1, H_kv - 1)}:
        keys = [t[tables[0][b].long(), :, h].flatten(0, 1) if tables else t[b, :, h] for t in (k, v)]  # (T, D)
        wide = [t[None, :, None].double() for t in keys]
        heads = slice(h * group, (h + 1) * group)
        expected = reference(q[b : b + 1, :, heads].double(), *wide, lengths[b : b + 1])
        worst = max(worst, distance(y[b : b + 1, :, heads], expected))
    return worst


def examples(dtype: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Queries of 1, 4, 8 and 16 tokens are 8, 32, 64 and 128 rows for each key-value head."""
    from ...kernels import decode_attention

    def example(
        D: int, T_q: int, B: int = 1, page: int = 0, alibi: bool = False, **options: Any
    ) -> Callable[[], Any]:  # fmt: skip
        def call() -> None:
            q = torch.empty(B, T_q, GROUP, D, dtype=FORMATS[dtype])
            pages = 4096 // page if page else 1
            cache = torch.empty(B * pages, page or 4096, 1, D, dtype=FORMATS[dtype])
            lengths = torch.empty(B, dtype=torch.int32)
            if page:
                options["block_table"] = torch.empty(B, pages, dtype=torch.int32)
            if alibi:
                options["alibi_slopes"] = torch.empty(GROUP)
            decode_attention.decode_attention(q, cache, cache, lengths, **options)

        return call

    for D in HEAD_DIMS:
        for T_q in (1, 4, 8, 16) if dtype != "fp32" else (1, 16):  # of the format that is not for speed, two are enough
            yield f"head_dim {D}, {T_q} new", example(D, T_q)
    for page in (PAGE, 128, 24)[: 1 if dtype == "fp32" else 3]:
        yield f"head_dim 128, 1 new, pages of {page}", example(128, 1, page=page)
    if dtype != "fp32":
        yield "head_dim 128, 16 new, pages of 16", example(128, 16, page=PAGE)
        yield "head_dim 128, 1 new, one split", example(128, 1, B=512)
        yield "head_dim 128, 1 new, softcap, alibi", example(128, 1, softcap=30.0, alibi=True)


OPERATION = Operation(
    "decode_attention", "BxT_QxTxHxH_KVxD",
    # A look at it, for the program's own time and captured calls. Its goals, large caches and other libraries are the
    # business of `attention`: hornbook bench attention --only decode.
    ((1, 1, 8192, 64, 8, 128), (64, 1, 1024, 12, 12, 64)), ((1, 1, 8192, 64, 8, 128),), (1, 1, 64, 4, 2, 64),
    (4, 1, 1024, 12, 12, 64),
    {"": {}, PAGED: {}}, decode_inputs, decode_work, decode_error, {}, examples, directions=("forward",),
    adapt=with_pages,
)  # fmt: skip
