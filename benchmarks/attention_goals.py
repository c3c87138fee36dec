"""What attention is to reach on an H200, as data, and whether measured rows reach it.

G is the rate of a product of two bf16 matrices, 8192 x 8192, and C the bandwidth of a copy, both measured in the same
run. Operations are counted as 4 · B · H · D for each pair of a query and a key that see each other, and backward 2.5
times as many, whatever is computed twice. Goals hold for bf16, and for as many key-value heads as query heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from .attention_cases import GPT2, SEVERAL, cache_bytes
from .attention_peers import SDPA
from .kernel_goals import Check, checked
from .kernels import ANY_ORDER
from .operations import Case
from .operations.attention import sizes

Row = dict[str, Any]
ORDERED = ("ordered", "reduce")  # one pass over the keys, whose programs add up dQ together
LONG = (4096, 16_384)


FASTEST = ("FLASH_ATTENTION", "CUDNN_ATTENTION")
"""of SDPA's backends, on a GPU of ours"""


@dataclass(frozen=True)
class Goal:
    """Of attention, forward or backward; one of ``share``, ``floor`` and ``times`` is set."""

    direction: str
    head_dim: int
    lengths: tuple[int, int] = LONG
    """from and to"""
    form: str = "causal"
    share: float = 0.0
    """of G, at least"""
    separate: float | None = None
    """the same where dQ has a kernel of its own, and 7 products of matrices are computed in place of 5"""
    floor: float = 0.0
    """times what the bytes of the call take at C, at most"""
    times: float = 0.0
    """as fast as the best of ``peers``, at least"""
    peers: tuple[str, ...] = ()
    column: str = "fused"
    """whose time it is about: "fused", which gives the same bits every time, or the one that adds in any order"""
    shape: tuple[int, ...] | None = None
    """this one only"""

    @property
    def words(self) -> str:
        """What it is about, and how much."""
        where = f"T {self.lengths[0]} to {self.lengths[1]}" if self.lengths[0] < self.lengths[1] else ""
        where = f"T from {self.lengths[0]}" if self.lengths[1] >= 1 << 62 else where or f"T {self.lengths[0]}"
        how = {ANY_ORDER: ", any order"}.get(self.column, ", deterministic" if self.direction == "backward" else "")
        which = " (GPT-2's shape)" if self.shape == GPT2 else ""
        return f"{self.direction} {self.form} D={self.head_dim}{how}, {where}{which}: {self.much(None)}"

    def much(self, variant: str | None) -> str:
        """How much, in words; of a row whose way back ran on the kernels ``variant``, if any."""
        if self.share:
            both = self.separate is not None and variant is None
            text = f"≥ {self.least(variant):g} G" if not both else f"≥ {self.share:g} G"
            return text + (f" (≥ {self.separate:g} G with a dQ kernel of its own)" if both else "")
        if self.floor:
            return f"≤ {self.floor:g} × the memory floor"
        name = "the best SDPA backend" if self.peers == SDPA else " and ".join(self.peers)
        return f"≥ {self.times:g} × {name}"

    def least(self, variant: str | None) -> float:
        return self.share if self.separate is None or variant in ORDERED else self.separate

    def concerns(self, row: Row) -> bool:
        """Whether a row of the benchmark is one of those that this goal is about."""
        if row["operation"] != "attention" or row["dtype"] != "bf16":
            return False
        _, T, H, D, H_kv = sizes(row["shape"])
        return (
            row["form"] == self.form
            and row["direction"] == self.direction
            and (self.head_dim, H) == (D, H_kv)
            and self.lengths[0] <= T <= self.lengths[1]
            and self.shape in (None, tuple(row["shape"]))
        )

    def check(self, row: Row, rows: Sequence[Row]) -> Check:
        """What became of it in a row that it concerns."""
        mine = row["ms"].get(self.column, {}).get("median")
        if self.share:
            variant = (row.get("variant") or {}).get("variant") or "separate"
            value = row["of_matmul"].get(self.column)
            return checked(self.much(variant), value, least=self.least(variant))
        if self.floor:
            value = mine / row["memory_ms"] if mine else None
            return checked(self.much(None), value, most=self.floor)
        peers = [row["ms"][name]["median"] for name in self.peers if name in row["ms"]]
        # The fast ones have to be there: to be faster than what multiplies, masks and divides in turn says nothing.
        known = peers and all(name in row["ms"] for name in FASTEST if name in self.peers)
        return checked(self.much(None), min(peers) / mine if known and mine else None, least=self.times)


@dataclass(frozen=True)
class DecodeGoal:
    """Of attention to a cache; one of ``share`` and ``most`` is set."""

    share: float = 0.0
    """of C, at least, for one query token and ``least_bytes`` of cache"""
    most: float = 0.0
    """times the time of one query token, for several"""
    least_bytes: int = 0

    @property
    def words(self) -> str:
        if self.share:
            return f"decode, one query token, {self.least_bytes / 1e9:g} GB of cache and more: {self.much}"
        return f"decode, {SEVERAL[0]} to {SEVERAL[-1]} query tokens: {self.much}"

    @property
    def much(self) -> str:
        return f"≥ {self.share:g} C" if self.share else f"≤ {self.most:g} × the time of one"

    def concerns(self, row: Row) -> bool:
        if row["operation"] != "decode" or row["dtype"] != "bf16":
            return False
        if self.share:
            return row["shape"][1] == 1 and cache_bytes(row["shape"], row["form"], "bf16") >= self.least_bytes
        return SEVERAL[0] <= row["shape"][1] <= SEVERAL[-1]

    def check(self, row: Row, rows: Sequence[Row]) -> Check:
        mine = row["ms"].get("fused", {}).get("median")
        if self.share:
            return checked(self.much, row["memory_ms"] / mine if mine else None, least=self.share)
        one = [row["shape"][0], 1, *row["shape"][2:]]
        of_one = [
            r["ms"]["fused"]["median"]
            for r in rows
            if (r["operation"], r["dtype"], r["form"]) == ("decode", row["dtype"], row["form"])
            and list(r["shape"]) == one
            and "fused" in r["ms"]
        ]
        return checked(self.much, mine / median(of_one) if mine and of_one else None, most=self.most)


FAR = 1 << 62
GOALS: tuple[Goal | DecodeGoal, ...] = (
    Goal("forward", 128, share=0.84),
    Goal("forward", 128, share=0.90),
    Goal("forward", 64, share=0.53),
    Goal("forward", 64, share=0.62),
    Goal("forward", 64, (1024, 1024), share=0.40, shape=GPT2),
    Goal("forward", 64, (1024, 1024), times=1.10, peers=SDPA, shape=GPT2),
    Goal("backward", 128, share=0.70, column=ANY_ORDER),
    Goal("backward", 128, share=0.80, column=ANY_ORDER),
    Goal("backward", 128, share=0.61, separate=0.50),
    Goal("backward", 64, share=0.45, column=ANY_ORDER),
    Goal("backward", 64, share=0.42),
    Goal("backward", 64, (1024, 1024), times=1.10, peers=("CUDNN_ATTENTION",), column=ANY_ORDER, shape=GPT2),
    Goal("forward", 64, (8192, FAR), "window 128", floor=1.4),
    Goal("backward", 64, (8192, FAR), "window 128", floor=1.6),
    DecodeGoal(share=1.03, least_bytes=1_000_000_000),
    DecodeGoal(most=1.3),
)


def about(case: Case) -> Iterator[Goal | DecodeGoal]:
    """The goals that rows of a case are to reach."""
    row = {"operation": case.operation.name, "form": case.form, "shape": case.shape, "dtype": case.dtype}
    for goal in GOALS:
        if any(goal.concerns(row | {"direction": direction}) for direction in case.operation.directions):
            yield goal


def judge(rows: Sequence[Row]) -> None:
    """Write into each row its goals, and whether it reaches them. What is wrong reaches none."""
    for row in rows:
        row["goals"] = [_checked(goal, row, rows) for goal in GOALS if goal.concerns(row)]


def _checked(goal: Goal | DecodeGoal, row: Row, rows: Sequence[Row]) -> Check:
    check = goal.check(row, rows)
    if row["verdict"] != "ok":
        check["met"] = False if check["value"] is not None else None
    return check


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Each goal: "met" if all rows that it is about reach it, "missed" if one does not, "unmeasured" without a value;
    and how many rows have one, and the worst value."""
    found = []
    for goal in GOALS:
        checks = [_checked(goal, row, rows) for row in rows if goal.concerns(row)]
        checks = [check for check in checks if check["value"] is not None]
        worst: Callable[..., float] = max if getattr(goal, "floor", 0.0) or getattr(goal, "most", 0.0) else min
        verdict = "unmeasured" if not checks else "met" if all(check["met"] for check in checks) else "missed"
        value = worst(check["value"] for check in checks) if checks else None
        found.append({"goal": goal.words, "verdict": verdict, "rows": len(checks), "worst": value})
    return found
