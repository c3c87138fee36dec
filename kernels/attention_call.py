"""A call of attention as its kernels get it: arguments in their order, and the blocks it is cut into."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import attention_schedule, attention_table, library
from .attention_table import Choice
from .attention_tiles import split

LOG2E = math.log2(math.e)
UNSPECIALISED = ("T_q", "T_k", "rows", "H", "H_kv", "window", "slopes_b", "together")
"""Arguments of which one kernel takes all values: a length of 1, or one that 16 divides, is not compiled for anew."""


class Blocks(NamedTuple):
    """How a kernel cuts the matrix into tiles."""

    queries: int
    keys: int
    warps: int
    apart: bool = True
    """of the dQ kernel: whether the tiles in which all is seen have a loop of their own, without masks, but with more
    registers"""
    stages: int = 2


# (channels at most, bytes a number) → blocks of forward, of the dK and dV kernel, of the dQ kernel. For all GPUs: every
# entry fits into the 99 KB of shared memory that the smallest of them has, and those of two bytes up to 128 channels
# compile without a spill, or hardly any, for all of them (tests/kernels/test_compiles.py).
Table = dict[tuple[int, int], tuple[tuple[Any, ...], ...]]
TABLE: Table = {
    (16, 2): ((128, 32, 4), (32, 64, 4), (64, 64, 4, False)),
    (32, 2): ((128, 32, 4), (32, 64, 4), (64, 64, 4, False)),
    (56, 2): ((128, 64, 8), (16, 128, 8), (64, 64, 4, False)),
    (64, 2): ((128, 64, 8), (32, 64, 8), (64, 64, 4, False)),
    (128, 2): ((128, 64, 8), (32, 64, 8), (128, 32, 8, False)),
    (256, 2): ((64, 32, 8), (32, 32, 8), (32, 32, 8, False)),
    (16, 4): ((64, 32, 4), (32, 32, 4), (32, 32, 4, False)),
    (32, 4): ((64, 32, 4), (32, 32, 4), (32, 32, 4, False)),
    (64, 4): ((64, 32, 4), (32, 32, 4), (32, 32, 4, False)),
    (128, 4): ((32, 32, 4), (32, 32, 8), (32, 32, 8, False)),
    (256, 4): ((32, 16, 4), (16, 16, 8), (16, 16, 8, False)),
}
# Where it is not known better, on an H100 and H200, with registers and shared memory for these.
HOPPER: Table = TABLE | {
    (64, 2): ((128, 64, 8), (64, 128, 8), (128, 64, 8)),
    (120, 2): TABLE[128, 2],
    (128, 2): ((128, 128, 8), (32, 64, 8), (128, 64, 8)),
}
# Windows and documents: of small blocks fewer pairs are computed in vain.
NARROW: Table = {
    (16, 2): ((64, 64, 4), (32, 64, 4), (64, 64, 4, False)),
    (32, 2): ((64, 64, 4), (32, 64, 4), (64, 32, 4, False)),
    (64, 2): ((64, 64, 4), (32, 64, 8), (64, 32, 4, False)),
    (128, 2): ((64, 32, 8), (32, 64, 8), (64, 32, 4, False)),
}
NARROW_HOPPER: Table = NARROW | {
    (64, 2): ((64, 64, 4), (32, 64, 4), (64, 32, 4)),
    (128, 2): ((64, 64, 4), (32, 64, 8), (64, 32, 4, False)),
}


class Call(NamedTuple):
    """One call; tensors of four dimensions."""

    q: Tensor
    k: Tensor
    v: Tensor
    slopes: Tensor | None
    """(H,) or (B, H), fp32"""
    spans: tuple[Tensor, Tensor, Tensor] | None
    """`attention_tiles.documents`"""
    scale: float
    """above 0"""
    softcap: float
    """0 for none"""
    causal: bool
    window: int
    """0 for none"""

    @property
    def sizes(self) -> tuple[int, int, int, int, int, int]:
        """B, T_q, T_k, H, H_kv, D."""
        B, T_q, H, D = self.q.shape
        return B, T_q, self.k.shape[1], H, self.k.shape[2], D

    @property
    def plain(self) -> bool:
        """Whether it is causal or full attention without further options."""
        return self.slopes is None and self.spans is None and not self.softcap and not self.narrow

    @property
    def narrow(self) -> bool:
        """Whether the window hides any pair that would see each other without it."""
        T_q, T_k = self.q.shape[1], self.k.shape[1]
        return 0 < self.window < (T_k if self.causal else max(T_q, T_k))

    def pointers(self) -> tuple[Tensor, ...]:
        """Slopes and the documents' begin, end and wholeness; what is not there is not looked at."""
        return self.q if self.slopes is None else self.slopes, *(self.spans or (self.q, self.q, self.q))

    def numbers(self, of_keys: bool = False) -> tuple[Any, ...]:
        """Strides by batch, token and head; sizes; what scores are made with; the order of programs."""
        B, T_q, T_k, H, H_kv, D = self.sizes
        strides = [stride for t in (self.q, self.k, self.v) for stride in t.stride()[:3]]
        unit = 1.0 if self.softcap or self.slopes is not None else self.scale * LOG2E
        slopes_b = 0 if self.slopes is None or self.slopes.dim() == 1 else self.slopes.stride(0)
        group = H // max(1, H_kv)
        rows, shared, read = (B * H_kv, 1, T_q * group) if of_keys else (B * H, group, T_k)
        together = attention_schedule.fit(rows, shared, read, D, self.q.element_size())
        return (
            *strides, T_q, T_k, rows, H, H_kv, self.scale, unit, self.softcap, self.window, slopes_b, together,
        )  # fmt: skip

    def constants(self) -> dict[str, Any]:
        """What a kernel is compiled for."""
        q, scored = self.q, (self.softcap > 0, self.slopes is not None)
        return _constants(q.shape[-1], q.dtype, self.causal, self.narrow, self.spans is not None, *scored)

    def choice(self, direction: str) -> Choice | None:
        """What the table of measured kernels says of it, if it is one of those that fast kernels take: only numbers of
        two bytes were measured, and blocks that suit them are too large for others."""
        q, k = self.q, self.k
        if attention_table.is_empty() or not self.plain or q.element_size() != 2:
            return None
        found = attention_table.find(direction, library.family(q), q.shape[-1], self.causal, k.shape[1])
        if found is not None and found.variant in attention_table.FAST:
            return found if attention_table.module(found.variant).refusal(q, k, self.v) is None else None
        return found

    def blocks(self, number: int, choice: Choice | None = None) -> Blocks:
        """Of forward (0), the dK and dV kernel (1), the dQ kernel (2)."""
        if choice is not None:
            if number == 2 and choice.dq is not None:
                return Blocks(*choice.dq)
            return Blocks(choice.block_m, choice.block_n, choice.warps, True, choice.stages)
        narrow, scored = self.narrow or self.spans is not None, self.softcap > 0 or self.slopes is not None
        family = 0 if scored else library.family(self.q)  # what makes scores wants registers, too
        return blocks_of(family, self.q.shape[-1], self.q.element_size(), narrow)[number]

    def grid(self, length: int, block: int, heads: int) -> tuple[int, ...]:
        return (library.cdiv(length, block) * self.q.shape[0] * heads,)


@cache
def _constants(
    D: int, dtype: torch.dtype, causal: bool, window: bool, documents: bool, softcap: bool, alibi: bool
) -> dict[str, Any]:
    first, second = split(D)
    return {
        "CAUSAL": causal, "WINDOW": window, "DOCUMENTS": documents, "SOFTCAP": softcap, "ALIBI": alibi,
        "D": D, "D1": first, "D2": second,
        # Products of fp32 numbers are full fp32 products, not of numbers cut to the 10 bits of tf32.
        "DOT": "ieee" if dtype == torch.float32 else "tf32",
    }  # fmt: skip


@cache
def blocks_of(family: int, D: int, size: int = 2, narrow: bool = False) -> tuple[Blocks, ...]:
    """What runs without a choice: of forward, the dK and dV kernel, the dQ kernel."""
    hopper: Table = (NARROW_HOPPER if narrow else HOPPER) if family == 90 else {}
    for table in (hopper, NARROW if narrow else {}, TABLE):
        fitting = {most: found for (most, bytes_), found in table.items() if most >= D and bytes_ == size}
        if fitting:
            return tuple(Blocks(*of) for of in fitting[min(fitting)])
    raise KeyError(f"no blocks for {D} channels of {size} bytes")
