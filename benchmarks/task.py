"""A task of the tokenizer's benchmark, as such: who takes part, whose turn it is when, and what is made of the times.

`tasks` has those that there are.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

from .goals import OURS, Row
from .texts import Text, Vocabulary
from .turns import Contestant, Lost, Order, Process, Record, cores, per_round, play, ratios, spread


class Bench:
    """A run: who is there, where the files are, which ids were compared already.

    Args:
        folder: for files.
        pythons: peer → the Python that has it; "" is everybody else's.
        rounds: of each task; some do fewer.
        threads: how many "several" are.
        patience: seconds to wait for any answer.
    """

    def __init__(
        self, folder: Path, pythons: Mapping[str, str], rounds: int, threads: int, patience: float = 300.0
    ) -> None:
        self.folder, self.pythons = folder, pythons
        self.rounds, self.threads, self.patience = rounds, threads, patience
        self.known: dict[str, dict[str, Any]] = {}  # peer → what its `hello` said
        self.missing: dict[str, str] = {}
        self.written: dict[str, str] = {}  # text → where its files are
        self.sizes: dict[str, tuple[int, int]] = {}  # text → bytes, documents
        self.tokens: dict[str, int] = {}  # text → ids of it
        self.vocabulary: Vocabulary | None = None
        self._checks: dict[tuple[str, str, str], dict[str, Any]] = {}

    def process(self, peer: str, threads: int = 1) -> Process:
        try:
            return Process(peer, self.pythons.get(peer, self.pythons.get("", sys.executable)), threads)
        except OSError as error:
            raise Lost(f"its Python does not start: {error}") from None

    def find(self, peers: Sequence[str]) -> None:
        """Ask who is there."""
        for peer in peers:
            try:
                process = self.process(peer)
                self.known[peer] = process.ask({"do": "hello"}, 60)
                process.close()
            except Lost as reason:
                self.missing[peer] = str(reason)

    def write(self, text: Text) -> None:
        self.written[text.name] = text.write(self.folder)
        self.sizes[text.name] = (text.size, len(text.documents))

    def start(
        self, text: str, threads: int = 1, *, uses: Sequence[str] = (), every: int = 1, ids: bool = True
    ) -> Order:
        """The order to get ready; with a vocabulary if it is about ``ids``."""
        return {
            "do": "start",
            "cores": cores(threads),
            "threads": threads,
            "text": self.written.get(text),
            "every": every,
            "vocabulary": self.vocabulary.folder if self.vocabulary is not None and ids else None,
            "uses": list(uses),
        }

    def reference(self, text: str) -> None:
        """Let tiktoken write the ids of a text, unless it has done so."""
        if text not in self.tokens:
            process = self.process("tiktoken")
            process.ask(self.start(text), self.patience)
            self.tokens[text] = process.ask({"do": "reference"}, self.patience)["tokens"]
            process.close()

    def check(self, text: str, peer: str, way: str, patience: float) -> dict[str, Any]:
        """Compare the ids of a text with tiktoken's, once: see `child.Child.check`; "lost" if that did not end well."""
        key = (text, peer, way)
        if key not in self._checks:
            self.reference(text)
            threads = 1 if way.endswith("_loop") else self.threads
            try:
                process = self.process(peer, threads)
                process.ask(self.start(text, threads, uses=[way]), self.patience)
                self._checks[key] = process.ask({"do": "check", "way": way}, patience) | {"threads": threads}
                process.close()
            except Lost as reason:
                self._checks[key] = {"lost": str(reason)}
        return self._checks[key]


@dataclass(frozen=True)
class Measure:
    """What is told of a pass: which number of the answer, of which less is better, and in what unit."""

    passes: str
    key: str
    unit: str

    def value(self, cost: float, size: int) -> float:
        """In the unit; ``size`` is what was worked on: bytes, ids or calls."""
        return (
            {
                "MB/s": size / cost / 1e6,
                "Mtok/s": size / cost / 1e6,
                "ns/byte": cost / size * 1e9,
                "µs": cost / size * 1e6,
                "ms": cost * 1e3,
                "s": cost,
                "MB": cost / 1e6,
            }[self.unit]
            if cost
            else 0.0
        )


@dataclass(frozen=True)
class Task:
    """Something that contestants do in turns.

    Attributes:
        key: its name in `goals`.
        text: whose documents.
        peers: who takes part; everybody who can if empty.
    """

    key: str
    title: str
    text: str = ""
    threads: int = 1
    peers: tuple[str, ...] = ()
    patience: float = 300.0

    MEASURES: ClassVar[dict[str, Measure]] = {}

    def measures(self) -> dict[str, Measure]:
        return self.MEASURES

    def rounds(self, bench: Bench) -> int:
        return bench.rounds

    def invited(self, bench: Bench) -> list[str]:
        """Whose task it is; a user's adapters always."""
        return [peer for peer in bench.known if not self.peers or peer in self.peers or peer.endswith(".py")]

    def contestants(self, bench: Bench) -> list[Contestant]:
        """All of them, also who is known to fail."""
        raise NotImplementedError

    def fails(self, bench: Bench, contestant: Contestant) -> str:
        """Why a contestant need not be tried; "" if he should be."""
        return ""

    def prepare(self, bench: Bench, contestant: Contestant, process: Process) -> int:
        """All that is not timed; returns the size of what is worked on."""
        raise NotImplementedError

    def passes(self, bench: Bench, contestant: Contestant) -> list[tuple[str, Order]]:
        """The names and orders of a round's passes."""
        raise NotImplementedError

    def checked(self, bench: Bench, contestant: Contestant, record: Record) -> dict[str, Any]:
        """See `goals` about "check"."""
        return {}

    def play(self, bench: Bench) -> list[Row]:
        """Do it; a row for each contestant."""
        contestants = self.contestants(bench)
        lost = {c: why for c in contestants if (why := self.fails(bench, c))}
        sizes: dict[Contestant, int] = {}

        def ready(contestant: Contestant) -> Process:
            process = bench.process(contestant.peer, self.threads)
            try:
                sizes[contestant] = max(1, self.prepare(bench, contestant, process))
            except BaseException:
                process.close()
                raise
            return process

        able = [contestant for contestant in contestants if contestant not in lost]
        patience = min(self.patience, bench.patience)
        records = play(able, self.rounds(bench), ready, lambda c: self.passes(bench, c), patience)
        records |= {contestant: Record(lost=why) for contestant, why in lost.items()}
        us = next((c for c in able if c.peer == OURS), None)
        rows = []
        for contestant in contestants:
            record = records[contestant]
            rows.append(
                {
                    "task": self.key, "title": self.title, "text": self.text, "threads": self.threads,
                    "peer": contestant.peer, "way": contestant.way, "share": contestant.every,
                    "version": bench.known[contestant.peer]["version"], "size": sizes.get(contestant),
                    "measures": self.numbers(record, sizes.get(contestant, 1), us and (records[us], sizes.get(us, 1))),
                    "check": self.checked(bench, contestant, record), "lost": record.lost,
                }
            )  # fmt: skip
        return rows

    def numbers(self, record: Record, size: int, ours: tuple[Record, int] | None) -> dict[str, Any]:
        """Each measure over the rounds: in its unit, and how many times as much as ours it takes."""
        found: dict[str, Any] = {}
        for name, measure in self.measures().items():
            costs = per_round(record, measure.passes, measure.key)
            if not costs:
                continue
            values = [measure.value(cost, size) for cost in costs.values()]
            told: dict[str, Any] = {
                "unit": measure.unit,
                **(spread(values) or {}),
            }
            told["answers"] = list(costs.values())
            if measure.key == "seconds":
                told["cpu_seconds"] = list(per_round(record, measure.passes, "cpu_seconds").values())
                counted = per_round(record, measure.passes, "instructions")
                told["instructions_per_byte"] = median(counted.values()) / size if counted else None
            if ours is not None and ours[0] is not record:
                keys = (
                    {"ratio": measure.key, "cpu_ratio": "cpu_seconds"}
                    if measure.key == "seconds"
                    else {"ratio": measure.key}
                )
                for kind, key in keys.items():
                    mine, theirs = (
                        {turn: cost / of for turn, cost in per_round(who, measure.passes, key).items()}
                        for who, of in (ours, (record, size))
                    )
                    told[kind] = spread(ratios(mine, theirs))
            found[name] = told
        return found
