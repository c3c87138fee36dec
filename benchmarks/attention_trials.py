"""Trying kernels that were never run: each in a process of its own.

A kernel can do worse than be wrong: it can crash, which ends the process's use of the GPU, or wait for itself for ever.
So a candidate of `kernels.attention_table` is first run in a process that is ended when its time is up, on a length
that no block divides and on those it is timed at, and held against the reference in float64. Several processes share
the time that compiling takes; the process that times them finds the code in Triton's cache. A candidate that is wrong,
fails, does not end, or does not give the same bits three times (where it must) is named and never chosen.
"""

from __future__ import annotations

import json
import math
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import torch

from . import attention_candidates, kernels, report
from .attention_candidates import Trial
from .operations.attention import attention_error

SECONDS = 75.0
"""for one candidate: most of it is compiling, and the first one's start of a process"""
RAGGED = (2, 1040, 2)
"""sequences, tokens and heads: a length that no block divides"""
SHAPES = {False: (16, 1024), True: (2, 8192)}
"""long → sequences and tokens"""


def tried(
    trial: Trial, device: str = "cuda", shapes: Sequence[tuple[int, ...]] = (RAGGED, *SHAPES.values()),
    dtype: str = "bf16",
) -> dict[str, Any]:  # fmt: skip
    """Run a candidate and compare: ``error``, how far it is from the reference in float64 at worst; or ``failed``, why
    it is not to be chosen."""
    if trial.choice is not None:
        plain = Trial(trial.direction, trial.head_dim, trial.causal, None)
        if attention_candidates.launched(trial, dtype, device) == attention_candidates.launched(plain, dtype, device):
            return {"failed": "nothing is launched that is not launched without it: no kernel takes it"}
    worst = 0.0
    for shape in shapes:
        c = attention_candidates.case(trial, shape, dtype)
        tensors, dy, y, grads = attention_candidates.both_ways(trial, c, device)
        error = attention_error(c, tensors, [dy], [y], grads)
        worst = max(worst, error)
        at = "x".join(map(str, c.shape))
        if not error <= kernels.TOLERANCE[dtype]:
            return {"failed": f"WRONG: off by {error:.1e} at {at}"}
        for _ in range(2):
            with attention_candidates.forced(trial.direction, trial.choice):
                again = attention_candidates.attend(trial.direction, trial.causal, *tensors)
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
        choice = attention_candidates.choice_of(asked["choice"])
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
