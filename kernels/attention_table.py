"""Which kernel computes attention, and in what blocks: per GPU family, head_dim and length.

`hornbook bench attention --variants` times all `CANDIDATES` on the GPU at hand and prints the rows of `TABLE` that are
fastest there; whatever has no row runs the plain kernels of `attention` and `attention_backward`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

FAST = {
    "tma": "attention_pipelined",
    "carry_qk": "attention_pipelined",
    "carry_p": "attention_pipelined",
    "specialized": "attention_pipelined",
    "carry_p_persistent": "attention_pipelined",
    "gluon": "attention_gluon",
    "gluon_together": "attention_gluon",
    "ordered": "attention_single_pass",
    "reduce": "attention_single_pass",
}
"""Variants of fast kernels, and where they are. Of the way back, "reduce" adds in any order."""


class Choice(NamedTuple):
    """A kernel and how it is launched."""

    variant: str
    """of `FAST`; or "plain" (forward) and "separate" (backward), the plain kernels in blocks of one's own"""
    block_m: int
    """queries a block"""
    block_n: int
    """keys a block"""
    warps: int
    stages: int = 2
    dq: tuple[int, int, int, bool, int] | None = None
    """of "separate": `attention_call.Blocks` of the dQ kernel, if they are not those of the dK and dV kernel"""


class Class(NamedTuple):
    """What a row of the table is about."""

    direction: str
    """"forward", "backward", or "reduce": backward where the order of sums need not be the same every time"""
    family: int
    """compute capability: 90 of an H100 and H200"""
    head_dim: int
    causal: bool
    long: bool
    """whether there are more than 2,048 keys"""


TABLE: dict[Class, Choice] = {}
"""Measured rows only; there are none yet."""

_forced: dict[str, Choice | None] = {}


@contextmanager
def using(**choices: Choice | None) -> Iterator[None]:
    """Inside, calls that a chosen kernel takes run on it: ``using(forward=Choice(...), backward=Choice(...))``. With
    None a call runs as it would without a row in the table."""
    before = dict(_forced)
    _forced.update(choices)
    try:
        yield
    finally:
        _forced.clear()
        _forced.update(before)


@cache
def module(variant: str) -> Any:
    """The module of a fast kernel, with ``refusal`` and ``forward`` or ``backward``, imported when it is needed."""
    return importlib.import_module(f".{FAST[variant]}", __package__)


def is_empty() -> bool:
    """Whether all calls run the plain kernels."""
    return not TABLE and not _forced


def find(direction: str, family: int, head_dim: int, causal: bool, T_k: int) -> Choice | None:
    """The kernel for a call that fast kernels may take; None for the plain ones."""
    if direction in _forced:
        return _forced[direction]
    found = TABLE.get(Class(direction, family, head_dim, causal, T_k > 2048))
    # Where only kernels with the same bits every time were measured, these are also right where bits may differ.
    return find("backward", family, head_dim, causal, T_k) if found is None and direction == "reduce" else found
