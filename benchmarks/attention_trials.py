"""Trying kernels that were never run: each in a process of its own.

A kernel can do worse than be wrong: it can crash, which ends the process's use of the GPU, or wait for itself for ever.
So a candidate of `kernels.attention_table` is first run in a process that is ended when its time is up, on a length
that no block divides and on those it is timed at, and held against the reference in float64. Several processes share
the time that compiling takes; the process that times them finds the code in Triton's cache. A candidate that is wrong,
fails, does not end, or does not give the same bits three times (where it must) is named and never chosen.
"""

from __future__ import annotations

import importlib
import json
import math
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..kernels import attention_table, library
from ..kernels.attention_table import Choice, Class
from . import kernels, report
from .attention_cases import ATTENTION, CHANNELS
from .operations import Case
from .operations.attention import attention_error

SOURCES = ("attention_pipelined", "attention_gluon", "attention_single_pass")
"""modules of `kernels` with CANDIDATES: head_dim → choices"""
BACKWARD = ("separate", "ordered", "reduce")
"""variants that are about the way back"""
DIRECTIONS = ("forward", "backward", "reduce")
HEAD_DIMS = (128, 64)
"""if no module says more"""
# The plain kernels in other blocks than their own table's, which was made without a GPU, too.
PLAIN = {
    "plain": ((128, 64, 4, 2), (128, 64, 8, 3), (128, 32, 4, 3), (64, 64, 4, 3), (128, 128, 8, 2), (64, 128, 4, 2)),
    "separate": ((64, 64, 4, 2), (64, 64, 8, 2), (32, 64, 4, 3), (64, 128, 8, 2), (128, 64, 8, 2)),
}
SECONDS = 75.0
"""for one candidate: most of it is compiling, and the first one's start of a process"""
RAGGED = (2, 1040, 2)
"""sequences, tokens and heads: a length that no block divides"""
SHAPES = {False: (16, 1024), True: (2, 8192)}
"""long → sequences and tokens"""


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
    return f"{choice.variant} {choice.block_m}x{choice.block_n} w{choice.warps} s{choice.stages}"


def family() -> int:
    """Compute capability of the current GPU: 90 of an H100 and H200."""
    return library.family(torch.empty(0, device="cuda"))


def found() -> tuple[dict[tuple[str, int], list[Choice]], list[str]]:
    """(direction, head_dim) → candidates, the plain kernels in other blocks among them; and which modules have none."""
    choices: dict[tuple[str, int], list[Choice]] = {}
    notes = []
    for source in SOURCES:
        try:
            offered = importlib.import_module(f"..kernels.{source}", __package__).CANDIDATES
        except Exception as error:  # not there, or of an experimental language that this Triton does not have
            notes.append(f"kernels/{source}.py: {report.because(error)}")
            continue
        for head_dim, some in offered.items():
            for choice in some:
                for direction in directions(choice):
                    choices.setdefault((direction, head_dim), []).append(choice)
    for head_dim in dict.fromkeys((*HEAD_DIMS, *sorted({D for _, D in choices}))):
        for variant, blocks in PLAIN.items():
            for block in blocks:
                for direction in directions(Choice(variant, *block)):
                    choices.setdefault((direction, head_dim), []).append(Choice(variant, *block))
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


def tried(
    trial: Trial, device: str = "cuda", shapes: Sequence[tuple[int, ...]] = (RAGGED, *SHAPES.values()),
    dtype: str = "bf16",
) -> dict[str, Any]:  # fmt: skip
    """Run a candidate and compare: ``error``, how far it is from the reference in float64 at worst; or ``failed``, why
    it is not to be chosen."""
    if trial.choice is not None:
        plain = Trial(trial.direction, trial.head_dim, trial.causal, None)
        if launched(trial, dtype, device) == launched(plain, dtype, device):
            return {"failed": "nothing is launched that is not launched without it: no kernel takes it"}
    worst = 0.0
    for shape in shapes:
        c = case(trial, shape, dtype)
        tensors, dy, y, grads = both_ways(trial, c, device)
        error = attention_error(c, tensors, [dy], [y], grads)
        worst = max(worst, error)
        at = "x".join(map(str, c.shape))
        if not error <= kernels.TOLERANCE[dtype]:
            return {"failed": f"WRONG: off by {error:.1e} at {at}"}
        for _ in range(2):
            with forced(trial.direction, trial.choice):
                again = attend(trial.direction, trial.causal, *tensors)
                more = torch.autograd.grad(again, tensors, dy) if grads else ()
            same = torch.equal(again, y) and all(map(torch.equal, more, grads))
            if not same and trial.direction != "reduce":
                return {"failed": f"other bits the next time, at {at}"}
    return {"error": worst}


def in_processes(
    trials: Sequence[Trial],
    processes: int,
    until: float = math.inf,
    *,
    command: Sequence[str] = (sys.executable, "-P", "-m", "hornbook.benchmarks.attention_trials"),
    seconds: float = SECONDS,
    say: Callable[[Trial, dict[str, Any]], None] = lambda trial, result: None,
) -> dict[Trial, dict[str, Any]]:
    """Try them all, several at a time; a process that dies or takes too long costs the candidate it was at.

    Args:
        until: of time.monotonic: what is not begun by then is not in the result.
        seconds: for one candidate.
        say: called with each as it is done.
    """
    todo: queue.SimpleQueue[Trial] = queue.SimpleQueue()
    for trial in trials:
        todo.put(trial)
    results: dict[Trial, dict[str, Any]] = {}

    def work() -> None:
        worker: _Worker | None = None
        while time.monotonic() < until:
            try:
                trial = todo.get_nowait()
            except queue.Empty:
                break
            worker = worker or _Worker(command)
            result = worker.ask(trial, seconds)
            if result.pop("over", False):
                worker.end()
                worker = None
            results[trial] = result
            say(trial, result)
        if worker is not None:
            worker.end()

    threads = [threading.Thread(target=work) for _ in range(max(1, min(processes, len(trials))))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


class _Worker:
    """A process that tries candidates: a line of JSON in, a line of JSON out."""

    def __init__(self, command: Sequence[str]) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )

    def ask(self, trial: Trial, seconds: float) -> dict[str, Any]:
        """Its result, with ``over`` where the process is of no use any more."""
        late = threading.Event()

        def kill() -> None:
            late.set()
            self.process.kill()

        timer = threading.Timer(seconds, kill)
        timer.start()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(asdict(trial) | {"choice": trial.choice}) + "\n")
            self.process.stdin.flush()
            for line in self.process.stdout:  # compilers may print, too
                if line.startswith('{"trial": '):
                    return json.loads(line)["trial"]
        except BrokenPipeError:
            pass
        finally:
            timer.cancel()
        if late.is_set():
            return {"failed": f"not done after {seconds:g} s", "over": True}
        status = self.process.wait()
        self.errors.seek(0)
        last = (self.errors.read().strip().splitlines() or [""])[-1][:160]
        return {"failed": f"its process ended with {status}{': ' + last if last else ''}", "over": True}

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.errors.close()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


def serve(lines: Iterable[str], say: Callable[[str], None], device: str = "cuda") -> None:
    """What such a process does. After an error of the GPU's, of which a process does not recover, it ends."""
    for line in lines:
        asked = json.loads(line)
        choice = None if asked["choice"] is None else Choice(*asked["choice"])
        result: dict[str, Any]
        try:
            result = tried(Trial(asked["direction"], asked["head_dim"], asked["causal"], choice), device)
        except Exception as error:  # whatever a candidate does is its result
            result = {"failed": report.because(error)}
        try:
            if device == "cuda":
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
        except Exception:
            result["over"] = True
        say(json.dumps({"trial": result}))
        if result.get("over"):
            return


if __name__ == "__main__":
    serve(sys.stdin, lambda line: print(line, flush=True))
