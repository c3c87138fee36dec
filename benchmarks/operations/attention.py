from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Case, Operation, Shape, back, distance, empty, reference_of
from .softmax import pairs_seen

# Each class of the launch table: full, and with few channels of a second half, which are read less wide.
HEAD_DIMS = (16, 24, 32, 40, 48, 64, 72, 80, 128, 256)


def attention_work(shape: Shape, form: str, direction: str, size: int) -> tuple[int, int]:
    """q, k, v and o once, and two products; backward o, do, q, k, v, dq, dk, dv, and five products."""
    B, T, H, D = shape
    back_ = direction == "backward"
    pairs = B * H * (pairs_seen(T, T) if form == "causal" else T * T)
    return (8 if back_ else 4) * B * T * H * D * size, (10 if back_ else 4) * pairs * D


def attention_error(
    case: Case, tensors: list[Tensor], dys: Sequence[Tensor], ys: Sequence[Tensor], grads: Sequence[Tensor]
) -> float:
    """As `rows_error`, for the first head of the first sequence and the last of the last, 512 queries at a time."""
    (q, k, v), (dy,), (y,) = tensors, dys, ys
    reference = reference_of(case)
    B, T, H, _ = case.shape
    worst = 0.0
    for b, h in {(0, 0), (B - 1, H - 1)}:
        wide_k, wide_v = (t[b : b + 1, :, h : h + 1].detach().double().requires_grad_() for t in (k, v))
        dk, dv = torch.zeros_like(wide_k), torch.zeros_like(wide_v)
        for start in range(0, T, 512):
            end = min(T, start + 512)
            at = (slice(b, b + 1), slice(start, end), slice(h, h + 1))
            seen = end if case.form == "causal" else T  # the reference shows the last query all keys
            wide_q = q[at].detach().double().requires_grad_()
            expected = reference(wide_q, wide_k[:, :seen], wide_v[:, :seen], **case.options)
            dq, more_k, more_v = torch.autograd.grad(expected, (wide_q, wide_k, wide_v), dy[at].double())
            worst = max(worst, distance(y[at], expected), distance(grads[0][at], dq))
            dk, dv = dk + more_k, dv + more_v
        for got, expected in ((grads[1], dk), (grads[2], dv)):
            worst = max(worst, distance(got[b : b + 1, :, h : h + 1], expected))
    return worst


def examples(dtype: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    from ...kernels import attention

    for D in HEAD_DIMS:
        for causal in (False, True)[dtype == "fp32" :]:  # of the format that is not for speed, one is enough

            def call(D: int = D, causal: bool = causal) -> None:
                q, k, v = (empty(2, 48, heads, D, dtype=dtype) for heads in (4, 2, 2))
                back(attention.attention(q, k, v, causal=causal))

            yield f"head_dim {D}{', causal' if causal else ''}", call


OPERATION = Operation(
    "attention", "BxTxHxD", ((16, 1024, 12, 64), (4, 4096, 16, 64), (4, 4096, 16, 128), (1, 16384, 16, 128)),
    ((16, 1024, 12, 64), (4, 4096, 16, 128)), (1, 64, 2, 64), (8, 1024, 12, 64),
    {"causal": {"causal": True}, "full": {"causal": False}},
    lambda shape, form: [shape] * 3, attention_work, attention_error, {}, examples,
)  # fmt: skip
