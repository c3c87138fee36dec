from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Case, Operation, Shape, back, distance, empty, reference_of
from .softmax import pairs_seen

# Each class of the launch table: full, and with few channels of a second half, which are read less wide.
HEAD_DIMS = (16, 24, 32, 40, 48, 64, 72, 80, 96, 128, 192, 256)
QUERIES = 512
"""checked at a time, together with the heads that share a key-value head"""


def sizes(shape: Shape) -> tuple[int, int, int, int, int]:
    """B, T, H, D, H_kv; the last one is H if a shape has four numbers."""
    B, T, H, D = shape[:4]
    return B, T, H, D, shape[4] if len(shape) > 4 else H


def inputs(shape: Shape) -> list[Shape]:
    """Of q, k and v."""
    B, T, H, D, H_kv = sizes(shape)
    return [(B, T, H, D), (B, T, H_kv, D), (B, T, H_kv, D)]


def spans(T: int, documents: int = 1) -> list[tuple[int, int]]:
    """Where so many documents in a row begin and end: of the same length, but for the last, which may be shorter."""
    length = -(-T // documents)
    return [(start, min(T, start + length)) for start in range(0, T, length)]


def pairs(T: int, *, causal: bool = True, window: int | None = None, documents: int = 1, **_: Any) -> int:
    """How many pairs of a query and a key see each other in a head; with a window, causal ones."""
    total = 0
    for start, end in spans(T, documents):
        length = end - start
        if not causal:
            total += length * length
        elif window is None or window >= length:
            total += pairs_seen(length, length)
        else:  # the first queries see as many keys as stand there, the others ``window``
            total += pairs_seen(window, window) + (length - window) * window
    return total


USUAL = (64, 128)


def attention_work(
    shape: Shape, form: str, direction: str, size: int, options: dict[str, Any] | None = None
) -> tuple[int, int]:
    """q, k, v and o once, and two products; backward o, do, q, k, v, dq, dk, dv, and five products."""
    B, T, H, D, H_kv = sizes(shape)
    options = {"causal": form == "causal"} if options is None else options
    back_ = direction == "backward"
    numbers = (4 if back_ else 2) * B * T * (H + H_kv) * D  # as many of q's shape as of k's
    return numbers * size, (10 if back_ else 4) * B * H * pairs(T, **options) * D


def attention_error(
    case: Case, tensors: list[Tensor], dys: Sequence[Tensor], ys: Sequence[Tensor], grads: Sequence[Tensor]
) -> float:
    """As `rows_error`, for the first key-value head of the first sequence and the last of the last, with the query
    heads that share it. The queries of a part of the sequence are a smaller case: with the keys from the first that one
    of them sees to the last."""
    (q, k, v), (dy,), (y,) = tensors, dys, ys
    reference = reference_of(case)
    options = dict(case.options)
    documents, window = options.pop("documents", 1), options.get("window")
    B, T, H, _, H_kv = sizes(case.shape)
    group = H // H_kv
    worst = 0.0
    for b, h in {(0, 0), (B - 1, H_kv - 1)}:
        heads, head = slice(h * group, (h + 1) * group), slice(h, h + 1)
        wide_k, wide_v = (t[b : b + 1, :, head].detach().double().requires_grad_() for t in (k, v))
        dk, dv = torch.zeros_like(wide_k), torch.zeros_like(wide_v)
        for first, last in spans(T, documents):
            step = max(32, QUERIES // group)
            for start in range(first, last, step):
                end = min(last, start + step)
                at = (slice(b, b + 1), slice(start, end), heads)
                # The reference shows the last query the last key, so keys that it does not see are cut off.
                from_ = first if window is None else max(first, start - window + 1)
                seen = slice(from_, end if options["causal"] else last)
                wide_q = q[at].detach().double().requires_grad_()
                expected = reference(wide_q, wide_k[:, seen], wide_v[:, seen], **options)
                wanted = (wide_q, wide_k, wide_v) if grads else ()
                found = torch.autograd.grad(expected, wanted, dy[at].double()) if wanted else ()
                worst = max(worst, distance(y[at], expected))
                if found:
                    worst = max(worst, distance(grads[0][at], found[0]))
                    dk, dv = dk + found[1], dv + found[2]
        for got, expected in zip(grads[1:], (dk, dv), strict=False):
            worst = max(worst, distance(got[b : b + 1, :, head], expected))
    return worst


def examples(dtype: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    from ...kernels import attention

    # fp16 compiles to what bf16 compiles to, and fp32 is not for speed: of these some are enough.
    for D in {"bf16": HEAD_DIMS, "fp16": USUAL, "fp32": (16, 32, 64, 128, 256)}[dtype]:
        for causal in (False, True) if dtype == "bf16" and D in USUAL else (True,):

            def call(D: int = D, causal: bool = causal) -> None:
                q, k, v = (empty(2, 48, heads, D, dtype=dtype) for heads in (4, 2, 2))
                back(attention.attention(q, k, v, causal=causal))

            yield f"head_dim {D}{', causal' if causal else ''}", call
    if dtype == "bf16":
        for D in USUAL:
            for name, options in with_options().items():

                def call(D: int = D, options: dict[str, Any] = options) -> None:
                    q, k, v = (empty(2, 48, heads, D, dtype=dtype) for heads in (4, 2, 2))
                    back(attention.attention(q, k, v, **options))

                yield f"head_dim {D}, {name}", call


def with_options() -> dict[str, dict[str, Any]]:
    """Masks and scores that have code of their own."""
    ids, slopes = torch.zeros(2, 48, dtype=torch.int64), torch.ones(4)
    return {
        "window": {"window": 20},
        "documents": {"document_ids": ids},
        "soft-cap and ALiBi": {"softcap": 20.0, "alibi_slopes": slopes},
        "everything": {"window": 20, "document_ids": ids, "softcap": 20.0, "alibi_slopes": slopes, "return_lse": True},
    }


OPERATION = Operation(
    "attention", "BxTxHxD", ((16, 1024, 12, 64), (4, 4096, 16, 64), (4, 4096, 16, 128), (1, 16384, 16, 128)),
    ((16, 1024, 12, 64), (4, 4096, 16, 128)), (1, 64, 2, 64), (8, 1024, 12, 64),
    {"causal": {"causal": True}, "full": {"causal": False}},
    lambda shape, form: list(inputs(shape)), attention_work, attention_error, {}, examples,
)  # fmt: skip
