"""What the kernels are to reach on an H200, as data, and whether a measured row reaches it.

C is the bandwidth of a copy, measured in the same run. Most goals are shares of it, of the bytes that a call must read
and write; others are multiples of another implementation's time, or of the time of matrix products that cannot be
avoided. They hold for bf16 and tensors of 256 MB and more, which no cache holds, unless a goal says otherwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .operations import Case
from .timing import FORMATS

LARGE = 256_000_000  # bytes of one tensor, at least, where a goal is a share of C
Check = dict[str, Any]
"""For JSON: ``goal`` in words; ``value``, None if it could not be measured; ``met``, None if there is no value."""


@dataclass(frozen=True)
class Goal:
    """One of ``share``, ``times`` and ``most`` is set."""

    operations: tuple[str, ...]
    directions: tuple[str, ...]
    share: float = 0.0
    """of C, at least"""
    newer: tuple[tuple[int, int], float] | None = None
    """the same from a version of Triton on"""
    times: float = 0.0
    """as fast as each of ``peers``, at least"""
    peers: tuple[str, ...] = ()
    if_there: bool = False
    """no word of a peer that was not measured"""
    most: float = 0.0
    """times the operation's products of matrices, at most"""
    forms: tuple[str, ...] = ()
    """all if empty"""
    widths: tuple[int, int] = (1, 1 << 62)
    """of rows, from and to"""
    shapes: tuple[frozenset[int], ...] = ()
    """these only, whatever the order of their numbers; else all large ones"""
    dtypes: tuple[str, ...] = ("bf16",)

    def concerns(self, row: dict[str, Any]) -> bool:
        """Whether a row of the benchmark is one of those that this goal is about."""
        shape = row["shape"]
        if self.shapes:
            fits = frozenset(shape) in self.shapes
        else:
            fits = math.prod(shape) * FORMATS[row["dtype"]].itemsize >= LARGE
        return (
            fits
            and row["operation"] in self.operations
            and row["direction"] in self.directions
            and row["dtype"] in self.dtypes
            and (not self.forms or row["form"] in self.forms)
            and self.widths[0] <= shape[-1] <= self.widths[1]
        )

    def check(self, row: dict[str, Any], triton: str) -> Iterator[Check]:
        """What became of it in a row that it concerns."""
        fused = row["ms"].get("fused", {}).get("median")
        if self.share:
            share = self.newer[1] if self.newer is not None and version(triton) >= self.newer[0] else self.share
            yield checked(f"≥ {share:g} C", row["of_floor"].get("fused"), least=share)
        elif self.most:
            products = row.get("products_ms")
            value = fused / products if fused and products else None
            yield checked(f"≤ {self.most:g} × its matmuls", value, most=self.most)
        else:
            for peer in self.peers:
                if peer in row["ms"] or not self.if_there:
                    value = row["ms"][peer]["median"] / fused if fused and peer in row["ms"] else None
                    yield checked(f"≥ {self.times:g} × {peer}", value, least=self.times)


NORMS = ("layer_norm", "rms_norm", "add_norm")
BOTH_WAYS = ("forward", "backward")
ANY = (*BOTH_WAYS, "both")

GOALS = (
    Goal(NORMS, ("forward",), share=0.85, widths=(768, 2047)),
    Goal(NORMS, ("forward",), share=0.95, widths=(2048, 1 << 62)),
    Goal(NORMS, ("backward",), share=0.88, widths=(768, 1 << 62)),
    Goal(NORMS, ("backward",), times=2.0, peers=("torch.compile",), widths=(768, 1 << 62)),
    Goal(("softmax",), BOTH_WAYS, share=0.95, widths=(768, 32_768)),
    Goal(("softmax",), BOTH_WAYS, times=1.0, peers=("Liger", "QuACK"), if_there=True, widths=(768, 32_768)),
    Goal(("softmax",), BOTH_WAYS, share=0.85, newer=((3, 8), 0.92), widths=(32_769, 262_144)),
    # A gradient that is not 1 costs another pass over what was made: it is shown, and not judged.
    Goal(("cross_entropy",), ANY, share=0.93, forms=("", "in place"), widths=(768, 65_535)),
    Goal(
        ("cross_entropy",), ANY, share=0.85, newer=((3, 8), 0.92), forms=("", "in place"), widths=(65_536, 262_144)
    ),
    Goal(("cross_entropy",), ANY, times=3.0, peers=("Liger",), forms=("",), widths=(768, 262_144)),
    Goal(("linear_cross_entropy",), ("both",), most=1.15, shapes=(frozenset((8192, 128_256, 4096)),)),
    Goal(("linear_cross_entropy",), ("both",), most=1.30, shapes=(frozenset((65_536, 50_304, 768)),)),
    Goal(("gelu", "relu2", "swiglu", "rope"), BOTH_WAYS, share=0.95),
    # decode_attention's are in `attention_goals`, as attention's are.
    # At most four times as long as reading the logits once takes.
    Goal(
        ("sample_logits",), ("forward",), share=0.25, forms=("all filters",), shapes=(frozenset((128, 128_256)),),
        dtypes=("bf16", "fp32"),
    ),
)  # fmt: skip

HOST_US = 18.0
"""of the program's own time for a call that autograd takes note of, at most, and as much for the way back"""
BLOCK_CALLS = 10
BLOCK_RATIO = 1.05
"""of the time of so many calls in a captured CUDA graph and of the sum of their kernels' times, at most"""


def version(triton: str | None) -> tuple[int, int]:
    """(3, 6) of "3.6.0"."""
    found = re.match(r"(\d+)\.(\d+)", triton or "")
    return (int(found[1]), int(found[2])) if found else (0, 0)


def checked(goal: str, value: float | None, *, least: float = -math.inf, most: float = math.inf) -> Check:
    """A goal with its value."""
    return {"goal": goal, "value": value, "met": None if value is None else least <= value <= most}


def about(case: Case) -> Iterator[Goal]:
    """The goals that rows of a case are to reach."""
    row = {"operation": case.operation.name, "form": case.form, "shape": case.shape, "dtype": case.dtype}
    for goal in GOALS:
        if any(goal.concerns(row | {"direction": direction}) for direction in case.operation.directions):
            yield goal


def of_row(row: dict[str, Any], triton: str | None) -> list[Check]:
    """The goals of a row, and whether it reaches them. What is wrong reaches none."""
    found = [check for goal in GOALS if goal.concerns(row) for check in goal.check(row, triton or "")]
    if row["verdict"] != "ok":
        found = [check | {"met": False if check["value"] is not None else None} for check in found]
    return found


def of_host(overhead_us: dict[str, dict[str, dict[str, float]]]) -> dict[str, list[Check]]:
    """Operation → whether a call with autograd takes the program little enough time, forward, and backward (unless
    nobody has a way back)."""
    return {
        operation: [
            checked(f"{direction} ≤ {HOST_US:g} µs", times.get("fused", {}).get(direction), most=HOST_US)
            for direction in BOTH_WAYS
            if direction == "forward" or any(direction in of for of in times.values())
        ]
        for operation, times in overhead_us.items()
    }


def of_blocks(blocks: dict[str, dict[str, Any]]) -> dict[str, Check]:
    """Operation → whether a captured block of calls takes hardly longer than its kernels."""
    words = f"{BLOCK_CALLS} captured calls ≤ {BLOCK_RATIO:g} × their kernels"
    return {operation: checked(words, times.get("ratio"), most=BLOCK_RATIO) for operation, times in blocks.items()}


def counted(result: dict[str, Any]) -> dict[str, int]:
    """How many goals of a whole result are met, missed, and could not be measured."""
    checks = [check for row in result["rows"] for check in row.get("goals", ())]
    checks += [check for of in of_host(result.get("overhead_us", {})).values() for check in of]
    checks += of_blocks(result.get("blocks", {})).values()
    return {
        "met": sum(check["met"] is True for check in checks),
        "missed": sum(check["met"] is False for check in checks),
        "unmeasured": sum(check["met"] is None for check in checks),
    }


def words(check: Check) -> str:
    """ "≥ 0.95 C: met (0.97)"."""
    if check["value"] is None:
        return f"{check['goal']}: unmeasured"
    return f"{check['goal']}: {'met' if check['met'] else 'MISSED'} ({check['value']:.3g})"


def products(operation: str, tensors: Sequence[Tensor]) -> Callable[[], Any] | None:
    """The products of matrices that an operation cannot do without, one after the other on its own inputs, as a call to
    time beside it: the logits, and backward the gradients of both factors. None for an operation without any."""
    if operation != "linear_cross_entropy":
        return None
    x, weight = (t.detach() for t in tensors[:2])
    logits, dx, dweight = x.new_empty(len(x), len(weight)), torch.empty_like(x), torch.empty_like(weight)
    logits.normal_()  # zeros would be faster

    def call() -> None:
        torch.mm(x, weight.T, out=logits)
        torch.mm(logits, weight, out=dx)
        torch.mm(logits.T, x, out=dweight)

    return call
