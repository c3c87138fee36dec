from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...reference.sample_logits import probabilities
from .base import Case, Chances, Fixed, Operation, Shape, empty

BOUNDARY = 1e-5  # so near to a boundary between two tokens rounding may draw either

SPREAD = 3.0
"""of the logits: then, in nearly every row, each of all filters leaves out some of what the ones before it keep"""
FORMS: dict[str, dict[str, Any]] = {
    "all filters": {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "min_p": 0.1},
    "top-k, top-p": {"top_k": 50, "top_p": 0.9},
    "top-p": {"top_p": 0.9},
    "no filter": {},
}


def sample_inputs(shape: Shape, form: str) -> list[Any]:
    """Logits and a number a row."""
    return [Fixed(shape, SPREAD), Chances(shape[:1])]


def sample_work(shape: Shape, form: str, direction: str, size: int) -> tuple[int, int]:
    """One read of the logits and of a number a row; one id written a row."""
    return math.prod(shape) * size + 12 * shape[0], 0


def sample_error(
    case: Case, tensors: list[Tensor], dys: Sequence[Tensor], ys: Sequence[Tensor], grads: Sequence[Tensor]
) -> float:
    """The share of rows whose token is not the one that float64 draws, unless the number is on the boundary."""
    (logits, uniform), (tokens,) = tensors, ys
    wrong = 0
    step = max(1, (1 << 24) // logits.shape[1])
    for start in range(0, len(logits), step):
        part = slice(start, start + step)
        p = probabilities(logits[part].double(), **case.options)
        below = p.cumsum(-1)
        known = (tokens[part] >= 0) & (tokens[part] < logits.shape[1])
        at = tokens[part].where(known, 0)[:, None]
        weight, end, u = p.gather(-1, at)[:, 0], below.gather(-1, at)[:, 0], uniform[part].double()
        right = known & (weight > 0) & (end - weight - BOUNDARY <= u) & (u <= end + BOUNDARY)
        wrong += int((~right).sum())
    return wrong / max(1, len(logits))


def peer_error(
    case: Case, tensors: list[Tensor], dys: Sequence[Tensor], ys: Sequence[Tensor], grads: Sequence[Tensor]
) -> float:
    """The share of rows whose token the filters leave out: who draws numbers of its own draws other tokens."""
    logits, ids = tensors[0], ys[0].long()
    p = probabilities(logits.double(), **case.options)
    known = (ids >= 0) & (ids < logits.shape[1])
    kept = known & (p.gather(-1, ids.where(known, 0)[:, None])[:, 0] > 0)
    return float((~kept).double().mean())


def flashinfer(logits: Tensor, uniform: Tensor, top_k: int, top_p: float) -> tuple[Any, ...]:
    """It draws its own numbers, and sampling wants fp32; it has no temperature and no min-p in the same call."""
    return logits.float(), top_k, top_p


def examples(dtype: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    from ...kernels import sample_logits

    for width in (2048, 4096, 131_072):

        def call(width: int = width) -> None:
            filters = FORMS["all filters"]
            sample_logits.sample_logits(empty(2, width, dtype=dtype), torch.empty(2), **filters)

        yield f"{width} columns", call


OPERATION = Operation(
    "sample_logits", "ROWSxCOLUMNS", ((128, 128256), (128, 50257), (1, 128256)), ((128, 128256),), (4, 256),
    (32, 50257), FORMS, sample_inputs, sample_work, sample_error,
    {"FlashInfer": ("flashinfer.sampling", "top_k_top_p_sampling_from_logits", flashinfer)},
    examples, directions=("forward",), peer_forms=("top-k, top-p",), peer_error=peer_error,
)  # fmt: skip
