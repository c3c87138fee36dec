"""Child processes that take turns, so that a busy moment of the machine is everybody's.

A round begins with a fresh process for each contestant. All get ready, which is not timed; then they do the first pass
one after another, then the second, and so on, and end. Every other round goes in the opposite order. Two contestants
are compared inside a round: the ratio of their times there. What is told is the median of the rounds' ratios and how
far they spread. A process that crashes, hangs or says that something went wrong is out, and the others go on.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Protocol

Order = dict[str, Any]
Answer = dict[str, Any]


class Lost(Exception):  # noqa: N818 (it is no error of ours)
    """Someone takes no further part; the message says why."""


class Talker(Protocol):
    """What `play` needs of a process."""

    def ask(self, order: Order, seconds: float) -> Answer: ...

    def close(self) -> None: ...


class Process:
    """A `child` that waits for orders.

    Args:
        name: of a library in `peers`, or the path of an adapter.
        python: whose packages it sees.
        threads: how many a library is to start, told to those who ask the environment.
    """

    def __init__(self, name: str, python: str = sys.executable, threads: int = 1) -> None:
        script = Path(__file__).resolve().with_name("child.py")
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (`close` closes it)
        self.process = subprocess.Popen(
            [python, "-P", str(script), name, *([str(Path(name).resolve())] if name.endswith(".py") else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=os.environ | environment(threads),
        )
        self.answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self.answers.put(line)
        self.answers.put(b"")

    def ask(self, order: Order, seconds: float) -> Answer:
        """Give an order and wait for the answer.

        Raises:
            Lost: for an error, a crash, or no answer in so many seconds. The process has ended then.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()
            line = self.answers.get(timeout=seconds)
        except queue.Empty:
            self.close()
            raise Lost(f"no answer in {seconds:g} s") from None
        except OSError:
            line = b""
        if not line:
            raise Lost(self._end())
        answer = json.loads(line)
        if "error" in answer:
            self.close()
            raise Lost(answer["error"])
        return answer

    def _end(self) -> str:
        """How a process ended that was not told to."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=10)
        self.errors.seek(0)
        said = self.errors.read().decode("utf-8", "replace").strip().splitlines()
        self.close()
        code = self.process.returncode
        how = f"crashed, signal {-code}" if code < 0 else f"crashed, status {code}"
        return f"{how}: {said[-1][:200]}" if said else how

    def close(self) -> None:
        """End the process. It has nothing to put in order."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        self.errors.close()


def environment(threads: int) -> dict[str, str]:
    """Variables by which libraries learn how many threads to start. The last keeps tiktoken from copying files."""
    number = str(threads)
    names = ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {
        **dict.fromkeys(names, number),
        "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false",
        "PYTHONUTF8": "1",
        "TIKTOKEN_CACHE_DIR": "",
    }


def cores(threads: int) -> list[int]:
    """The cores for so many threads, the same for everybody; none where processes cannot be pinned.

    The last ones: the system does its own work on the first rather.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(os.sched_getaffinity(0))[-threads:]


@dataclass(frozen=True)
class Contestant:
    """A library, and which of its ways."""

    peer: str
    way: str = ""
    every: int = 1  # it does every so many of the documents, if all would take too long

    def __str__(self) -> str:
        return f"{self.peer} ({self.way})" if self.way else self.peer


@dataclass
class Record:
    """What a contestant did: for each round, the answers of its passes by name."""

    rounds: dict[int, dict[str, list[Answer]]] = field(default_factory=dict)
    lost: str = ""


def play(
    contestants: Sequence[Contestant],
    number: int,
    ready: Callable[[Contestant], Talker],
    passes: Callable[[Contestant], Sequence[tuple[str, Order]]],
    patience: float = 300.0,
) -> dict[Contestant, Record]:
    """Let them take turns.

    Args:
        contestants: all differ.
        number: of rounds.
        ready: starts a process and brings it to where passes can begin; it raises `Lost` if that fails.
        passes: (name, order) of each; as many for everybody. Those of one name are repetitions.
        patience: seconds to wait for an answer.
    """
    records = {contestant: Record() for contestant in contestants}
    for turn in range(number):
        line = [c for c in contestants if not records[c].lost][:: 1 if turn % 2 == 0 else -1]
        here: dict[Contestant, Talker] = {}
        try:
            for contestant in line:
                try:
                    here[contestant] = ready(contestant)
                except Lost as reason:
                    records[contestant].lost = str(reason)
            todo = {contestant: list(passes(contestant)) for contestant in here}
            for step in range(max(map(len, todo.values()), default=0)):
                for contestant in [c for c in line if c in here]:
                    if step >= len(todo[contestant]):
                        continue
                    name, order = todo[contestant][step]
                    try:
                        answer = here[contestant].ask(order, patience)
                    except Lost as reason:
                        records[contestant].lost = str(reason)
                        del here[contestant]
                    else:
                        records[contestant].rounds.setdefault(turn, {}).setdefault(name, []).append(answer)
        finally:
            for talker in here.values():
                talker.close()
    return records


def per_round(record: Record, name: str, key: str) -> dict[int, float]:
    """Round → the median of a number among the repetitions of a pass."""
    found = {}
    for turn, passes in record.rounds.items():
        values = [answer[key] for answer in passes.get(name, []) if answer.get(key) is not None]
        if values:
            found[turn] = median(values)
    return found


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Median, least and most; None of nothing."""
    return {"median": median(values), "least": min(values), "most": max(values)} if values else None


def ratios(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """How many times as much they take as we do, in each round where both were there."""
    return [theirs[turn] / ours[turn] for turn in sorted(ours) if turn in theirs and ours[turn] > 0]
