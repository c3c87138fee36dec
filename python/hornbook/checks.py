"""What every implementation of an operation refuses alike: options that make no sense, before it is asked, and what
is no tensor, once it has failed."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .errors import ConfigError, nearest


def explained(function: Callable[..., Any]) -> Callable[..., Any]:
    """An operation that, where it fails with a list or number in place of a tensor, says so.

    Raises:
        ConfigError: that names the argument. Nothing is asked of a call that does well.
    """

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if torch.compiler.is_compiling():  # which does not follow exceptions
            return function(*args, **options)
        try:
            return function(*args, **options)
        except Exception:
            _tensors(function, args, options)
            raise

    return call


def _tensors(function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> None:
    signature = inspect.signature(function)
    try:
        given = signature.bind(*args, **options).arguments
    except TypeError:  # too many arguments, or too few: Python's own words are the best
        return
    for name, value in given.items():
        kinds = str(signature.parameters[name].annotation).split(" | ")  # such as ["Tensor", "None"]
        fits = isinstance(value, Tensor) or type(value).__name__ in kinds or (value is None and "None" in kinds)
        if kinds[0] == "Tensor" and not fits:
            kind = type(value).__name__
            raise ConfigError(
                f"{function.__name__}: {name} is a tensor, not {kind}; torch.as_tensor makes one"
            ) from None


def known(what: str, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise ConfigError(f"{what} is one of {', '.join(map(repr, names))}, not {name!r}{nearest(name, names)}")


def same(what: str, t: Tensor | None, shape: torch.Size) -> None:
    if t is not None and t.shape != shape:
        raise ConfigError(f"{what} has shape {tuple(t.shape)}, but {tuple(shape)} is needed")


def filters(temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    """Whether `sample_logits` can be told so.

    Raises:
        ConfigError: that names the number which makes no sense.
    """
    if not 0 <= temperature < math.inf:
        raise ConfigError(f"temperature must be a number of at least 0, not {temperature}")
    if top_k < 0:
        raise ConfigError(f"top_k must be at least 0 (which means all), not {top_k}")
    if not 0 < top_p <= 1:
        raise ConfigError(f"top_p must be above 0 and at most 1, not {top_p}")
    if not 0 <= min_p <= 1:
        raise ConfigError(f"min_p must be from 0 to 1, not {min_p}")


def loss(reduction: str, label_smoothing: float, softcap: float | None) -> None:
    known("reduction", reduction, ("mean", "sum", "none"))
    if not 0 <= label_smoothing <= 1:
        raise ConfigError(f"label_smoothing is a share, from 0 to 1, not {label_smoothing!r}")
    cap(softcap)


def cap(softcap: float | None) -> None:
    if softcap is not None and not 0 < softcap < math.inf:
        raise ConfigError(f"softcap is a number above 0, or None, not {softcap!r}")


def scores(window: int | None, softcap: float | None, slopes: Tensor | None, q: Tensor, packed: bool) -> None:
    if window is not None and (type(window) is not int or window < 1):
        raise ConfigError(f"window is how many keys are seen on one side, the query's own among them: not {window!r}")
    cap(softcap)
    if slopes is not None:
        heads = q.shape[-2] if q.dim() == 4 or packed else 1
        if slopes.shape not in ((heads,), (1 if packed else len(q), heads)):
            raise ConfigError(
                f"alibi_slopes has shape {tuple(slopes.shape)}, but one number for each of {heads} heads is needed, or "
                "one for each head of each sequence"
            )
        if slopes.requires_grad:
            raise ConfigError("alibi_slopes are constants: they get no gradient, so they must not ask for one")


def cached(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, block_table: Tensor | None) -> None:
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        raise ConfigError("decode_attention has no gradient: use attention, or call it inside torch.no_grad()")
    rows = q.shape[:1] if block_table is None else k.shape[:1]
    if q.dim() != 4 or k.dim() != 4 or (k.shape[0], k.shape[3]) != (*rows, q.shape[3]):
        kind = "(B, T_max, H_kv, D)" if block_table is None else "(pages, page_size, H_kv, D)"
        raise ConfigError(f"q is (B, T_q, H, D) and the cache {kind}, not {tuple(q.shape)} and {tuple(k.shape)}")
    same("v_cache", v, k.shape)
    if k.shape[2] == 0 or q.shape[2] % k.shape[2]:
        raise ConfigError(f"{q.shape[2]} query heads cannot share {k.shape[2]} key-value heads evenly")
    same("lengths", lengths, q.shape[:1])
    for what, t, kinds in (
        ("lengths", lengths, (torch.int32, torch.int64)),
        ("block_table", block_table, (torch.int32,)),
    ):
        if t is not None and (t.dtype not in kinds or t.device != q.device):
            names = " or ".join(str(kind).removeprefix("torch.") for kind in kinds)
            raise ConfigError(f"{what} holds {names} numbers on {q.device}, not {t.dtype} on {t.device}")
    if block_table is not None and (block_table.dim() != 2 or len(block_table) != len(q) or k.shape[1] == 0):
        raise ConfigError(
            f"block_table has a row of pages for each of {len(q)} sequences, each page room for a key at least, not "
            f"{tuple(block_table.shape)} for pages of {k.shape[1]}"
        )


def ids(what: str, t: Tensor) -> None:
    if t.dim() != 2 or t.dtype not in (torch.int64, torch.int32):
        given = f"{tuple(t.shape)} of {str(t.dtype).removeprefix('torch.')}"
        raise ConfigError(f"{what} is (B, T), of int64 or int32 numbers, not {given}")


def documents(ids: Tensor | None, cu_seqlens: Tensor | None, q: Tensor, k: Tensor) -> None:
    if ids is not None and cu_seqlens is not None:
        raise ConfigError("document_ids and cu_seqlens both say which tokens belong together: give one of them")
    for what, t in (("document_ids", ids), ("cu_seqlens", cu_seqlens)):
        if t is not None and t.dtype not in (torch.int64, torch.int32):
            raise ConfigError(f"{what} holds int64 or int32 numbers, not {str(t.dtype).removeprefix('torch.')}")
    if ids is not None:
        if q.shape[1] != k.shape[1]:
            raise ConfigError(f"with document_ids queries are the keys' tokens, but there are {q.shape[1]} queries")
        same("document_ids", ids, q.shape[:2])
    if cu_seqlens is not None:
        if q.dim() != 3 or len(q) != len(k):
            raise ConfigError(
                f"with cu_seqlens q is (total, H, D) and k (total, H_kv, D), not {tuple(q.shape)} and {tuple(k.shape)}"
            )
        if cu_seqlens.dim() != 1 or len(cu_seqlens) < 1:
            raise ConfigError(
                f"cu_seqlens is one row, of a number more than there are sequences, not {tuple(cu_seqlens.shape)}"
            )
        if not cu_seqlens.is_cuda and not torch.compiler.is_compiling():  # asking a GPU would mean to wait for it
            ends = cu_seqlens.tolist()
            if ends[0] != 0 or ends[-1] != len(q) or any(a > b for a, b in pairwise(ends)):
                raise ConfigError(f"cu_seqlens begins with 0, never falls, and ends with the {len(q)} rows of q")
