"""The kernels that could compute attention, of which `kernels.attention_table` says which one does.

`attention_trials` tries them, `attention_variants` times them, and `aot` compiles them where there is no GPU.
"""

from __future__ import annotations

import importlib
import math
import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..kernels import attention_call, attention_table, library
from ..kernels.attention_table import Choice, Class
from .attention_cases import ATTENTION, CHANNELS
from .operations import Case

NAME = "attention variants"
"""as which `aot` knows them"""
STATIC_TARGET = 90
"""what they are compiled for where there is no GPU"""
SOURCES = ("attention_pipelined", "attention_gluon", "attention_single_pass")
"""modules of `kernels` with CANDIDATES: head_dim → choices"""
BACKWARD = ("separate", "ordered", "reduce")
"""variants that are about the way back"""
DIRECTIONS = ("forward", "backward", "reduce")
HEAD_DIMS = (128, 64)
"""if no module says more"""
# The plain kernels in other blocks than their own table's, which was made without a GPU, too: the one of the way forth,
# and the ones of dK and dV, and of dQ, of which one at a time is in other blocks.
PLAIN = ((128, 64, 4, 2), (128, 64, 8, 3), (128, 32, 4, 3), (64, 64, 4, 3), (128, 128, 8, 2), (64, 128, 4, 2))
OF_KEYS = ((64, 64, 4, 2), (64, 64, 8, 2), (32, 64, 4, 3), (64, 128, 8, 2), (32, 128, 8, 2))
OF_QUERIES = (
    (64, 64, 4, True, 2), (64, 64, 4, False, 2), (64, 64, 8, True, 2), (128, 64, 8, True, 2), (128, 64, 8, False, 2),
    (128, 32, 8, True, 3),
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """One candidate in one kind of call; None is what runs without a row in the table."""

    direction: str
    head_dim: int
    causal: bool
    choice: Choice | None

    def __str__(self) -> str:
        return f"{self.direction} D={self.head_dim} {'causal' if self.causal else 'full'}: {words(self.choice)}"


def words(choice: Choice | None) -> str:
    """A name for a candidate."""
    if choice is None:
        return "as it is"
    name = f"{choice.variant} {choice.block_m}x{choice.block_n} w{choice.warps} s{choice.stages}"
    if choice.dq is None:
        return name
    queries, keys, warps, apart, stages = choice.dq
    return f"{name}, dQ {queries}x{keys} w{warps} s{stages}{' apart' if apart else ''}"


def choice_of(values: Sequence[Any] | None) -> Choice | None:
    """What a choice became in JSON."""
    if values is None:
        return None
    *numbers, dq = values
    return Choice(*numbers, None if dq is None else tuple(dq))


def family() -> int:
    """Compute capability of the current GPU: 90 of an H100 and H200."""
    return library.family(torch.empty(0, device="cuda"))


def because(error: BaseException) -> str:
    """An exception in one short line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}".rstrip(": ")


def separate(family: int, head_dim: int) -> tuple[list[Choice], list[Choice]]:
    """The kernels of the way back in other blocks: of the one of dK and dV, and of the one of dQ, while the other stays
    as it is."""
    _, keys, queries = attention_call.blocks_of(family, head_dim)
    unchanged = Choice("separate", keys.queries, keys.keys, keys.warps, keys.stages, tuple(queries))
    of_keys = [Choice("separate", *block, unchanged.dq) for block in OF_KEYS]
    of_queries = [unchanged._replace(dq=block) for block in OF_QUERIES]
    return [c for c in of_keys if c != unchanged], [c for c in of_queries if c != unchanged]


def together(cls: Class, ms: dict[Choice | None, float]) -> Choice | None:
    """The fastest blocks of both kernels of the way back, each of which was timed beside the other one as it is; None
    if they are not both faster than that."""
    best: list[Choice] = []
    for choices in separate(cls.family, cls.head_dim):
        fast = [c for c in choices if ms.get(c, math.inf) < ms.get(None, math.inf)]
        best += sorted(fast, key=lambda c: ms[c])[:1]
    return best[0]._replace(dq=best[1].dq) if len(best) == 2 else None


def found(family: int = STATIC_TARGET) -> tuple[dict[tuple[str, int], list[Choice]], list[str]]:
    """(direction, head_dim) → candidates, the plain kernels in other blocks among them; and which modules have none."""
    choices: dict[tuple[str, int], list[Choice]] = {}
    notes = []
    for source in SOURCES:
        try:
            offered = importlib.import_module(f"..kernels.{source}", __package__).CANDIDATES
        except Exception as error:  # not there, or of an experimental language that this Triton does not have
            notes.append(f"kernels/{source}.py: {because(error)}")
            continue
        for head_dim, some in offered.items():
            for choice in some:
                for direction in directions(choice):
                    choices.setdefault((direction, head_dim), []).append(choice)
    for head_dim in dict.fromkeys((*HEAD_DIMS, *sorted({D for _, D in choices}))):
        plain = [Choice("plain", *block) for block in PLAIN]
        for choice in sum(separate(family, head_dim), plain):
            for direction in directions(choice):
                choices.setdefault((direction, head_dim), []).append(choice)
    return {key: list(dict.fromkeys(some)) for key, some in choices.items()}, notes


def directions(choice: Choice) -> tuple[str, ...]:
    """What a candidate can be chosen for: a kernel whose bits are always the same also where they need not be."""
    if choice.variant not in BACKWARD:
        return ("forward",)
    return ("reduce",) if choice.variant == "reduce" else ("backward", "reduce")


def classes(choices: dict[tuple[str, int], list[Choice]], family: int, quick: bool = False) -> list[Class]:
    """What the table has rows about, the most important first; with ``quick`` only causal and long."""
    head_dims = dict.fromkeys((*HEAD_DIMS, *sorted(D for _, D in choices)))
    listed = [
        Class(direction, family, D, causal, long)
        for D in head_dims
        for causal in (True, False)
        for long in (True, False)
        for direction in DIRECTIONS
        if (direction, D) in choices
    ]
    # Of the usual head_dims a kind of call, then the next kind: there may not be time for all.
    listed.sort(key=lambda c: (c.head_dim not in HEAD_DIMS, not c.causal, not c.long))
    return [c for c in listed if not quick or (c.causal and c.long)]


def forced(direction: str, choice: Choice | None) -> AbstractContextManager[None]:
    """Inside, attention runs on this candidate."""
    return attention_table.using(**{direction: choice})


def attend(direction: str, causal: bool, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Our kernel; (B, T, H, D)."""
    attention = importlib.import_module("..kernels.attention", __package__).attention
    return attention(q, k, v, causal=causal, **({"deterministic": False} if direction == "reduce" else {}))


def case(trial: Trial | Class, shape: tuple[int, ...], dtype: str = "bf16") -> Case:
    """At B, T and H, or at B and T with as many heads as make `CHANNELS`."""
    B, T, *heads = shape
    H = heads[0] if heads else max(1, CHANNELS // trial.head_dim)
    return Case(ATTENTION, "causal" if trial.causal else "full", (B, T, H, trial.head_dim), dtype)


def launched(trial: Trial, dtype: str = "bf16", device: str = "cpu") -> list[str]:
    """The launches of a small call, with what they are compiled for: where they are those of no candidate at all, no
    kernel takes this one. Nothing is computed."""
    c = case(trial, (1, 256, 2), dtype)
    with library.recording(family() if device == "cuda" else 0) as recorded:
        both_ways(trial, c, device)
    kept = []
    for launch in recorded:
        numbers = {name: value for name, value in launch.arguments.items() if library.tensor_of(value) is None}
        kept.append(f"{launch.kernel.fn.__name__} {numbers} {launch.options}")
    return kept


def both_ways(trial: Trial, c: Case, device: str) -> tuple[list[Tensor], Tensor, Tensor, tuple[Tensor, ...]]:
    """Inputs, upstream gradient, result, and gradients where the trial is about those."""
    tensors = c.tensors(device)
    with forced(trial.direction, trial.choice):
        y = attend(trial.direction, trial.causal, *tensors)
        dy = torch.randn_like(y)
        grads = () if trial.direction == "forward" else torch.autograd.grad(y, tensors, dy, retain_graph=True)
    return tensors, dy, y.detach(), grads


def examples() -> Iterator[tuple[str, Callable[[], Any]]]:
    """For `aot`: a call of each candidate, after one of the plain kernels; the same launches are compiled once."""
    choices, _ = found()
    for head_dim in dict.fromkeys(D for _, D in choices):
        for causal in (True, False):
            for direction in DIRECTIONS:
                for choice in (None, *choices.get((direction, head_dim), ())):
                    trial = Trial(direction, head_dim, causal, choice)

                    def call(trial: Trial = trial) -> None:
                        if library.family(torch.empty(0)) != STATIC_TARGET:
                            return
                        try:
                            both_ways(trial, case(trial, (1, 256, 2)), "cpu")
                        except Exception as error:
                            if multiprocessing.parent_process() is None:  # the others need not say it, too
                                print(f"{trial}: {because(error)}", file=sys.stderr, flush=True)

                    yield str(trial), call


def inside(cubin: bytes) -> dict[str, Any]:
    """What only the machine code shows: tensor-core instructions of a warpgroup, and what runs while they do."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        sass = subprocess.run([tool, "-sass", file.name], capture_output=True, text=True, check=True).stdout
    return {"hgmma": sass.count("HGMMA"), "overlap": overlap(sass)}


def overlap(sass: str) -> Any:
    """What `sass` says about it; None where nobody can."""
    for module in ("sass", "aot"):
        try:
            return getattr(importlib.import_module(f".{module}", __package__), "overlap")(sass)  # noqa: B009
        except (ImportError, AttributeError):
            continue
    return None
