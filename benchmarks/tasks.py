"""What the tokenizer's benchmark lets contestants do.

Each kind of task says who takes part, what comes before the clock starts, what the passes of a round are, and how the
result is checked.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..tokenizer import Tokenizer
from .goals import OURS
from .task import Bench, Measure, Task
from .turns import Contestant, Lost, Order, Process, Record

TURN = 4.0  # seconds: a slow library that would take longer for a round's passes gets every second, third, ... document
PASSES = 3  # of encoding in a round; the first is cold
CYCLES = 3  # of the worst texts
IDS = 4_000_000  # to decode, about
WORST = ('"a"', "spaces", "newlines", '"!"', "letters")  # as `texts.worst` makes them


@dataclass(frozen=True)
class Train(Task):
    """Merges from the documents, as many as make ``vocab_size`` with the bytes."""

    vocab_size: int = 32_768
    pattern: str | None = "cl100k"

    def measures(self) -> dict[str, Measure]:
        unit = "s" if self.pattern is None else "MB/s"
        return {"train": Measure("train", "seconds", unit), "memory": Measure("train", "grown", "MB")}

    def rounds(self, bench: Bench) -> int:
        return -(-bench.rounds // 2)

    def contestants(self, bench: Bench) -> list[Contestant]:
        return [Contestant(peer) for peer in self.invited(bench) if bench.known[peer]["tie"]]

    def prepare(self, bench: Bench, contestant: Contestant, process: Process) -> int:
        return process.ask(bench.start(self.text, self.threads, ids=False), bench.patience)["bytes"]

    def passes(self, bench: Bench, contestant: Contestant) -> list[tuple[str, Order]]:
        return [("train", self.order(bench, contestant.peer))]

    def order(self, bench: Bench, peer: str, tie: str = "") -> Order:
        return {
            "do": "train",
            "vocab_size": self.vocab_size,
            "pattern": self.pattern,
            "regex": spelled(self.pattern),
            "write": str(self.made(bench, peer, tie)),
            "tie": tie,
        }

    def made(self, bench: Bench, peer: str, tie: str = "") -> Path:
        """Where the tokens are that a trainer made."""
        return bench.folder / f"{self.key}-{Path(peer).name}{'-' * bool(tie)}{tie}.tokens"

    def checked(self, bench: Bench, contestant: Contestant, record: Record) -> dict[str, Any]:
        """Hold the tokens against Hornbook's by the same rule for ties, for which it may have to train once more."""
        if contestant.peer == OURS or not record.rounds:
            return {}
        tie = bench.known[contestant.peer]["tie"]
        usual = tie == bench.known[OURS]["tie"] if OURS in bench.known else False
        path = self.made(bench, OURS, "" if usual else tie)
        why = ""
        if not path.exists():
            try:
                process = bench.process(OURS, bench.threads)
                process.ask(bench.start(self.text, bench.threads, ids=False), bench.patience)
                process.ask(self.order(bench, OURS, "" if usual else tie), min(self.patience, bench.patience))
                process.close()
            except Lost as reason:
                why = str(reason)
        if not path.exists():
            return {"rule": tie, "unknown": f"not compared with Hornbook's by the same rule: {why}"}
        ours, theirs = (json.loads(p.read_text("utf-8")) for p in (path, self.made(bench, contestant.peer)))
        return {"rule": tie, **same(ours, theirs)}


@dataclass(frozen=True)
class Encode(Task):
    """All documents, as lists or arrays; the first pass is cold."""

    form: str = "list"
    MEASURES: ClassVar[dict[str, Measure]] = {
        "cold": Measure("cold", "seconds", "MB/s"),
        "warm": Measure("warm", "seconds", "MB/s"),
    }

    def ways(self, bench: Bench, peer: str) -> list[str]:
        number = "one thread" if self.threads == 1 else "several threads"
        return [way for way, fit in bench.known[peer]["ways"][self.form].items() if fit in (number, "any")]

    def contestants(self, bench: Bench) -> list[Contestant]:
        return [
            Contestant(peer, way, self.share(bench, peer))
            for peer in self.invited(bench)
            for way in self.ways(bench, peer)
        ]

    def share(self, bench: Bench, peer: str) -> int:
        """n: a contestant does every n-th document, so that a turn takes no longer than `TURN`, about."""
        size, documents = bench.sizes[self.text]
        pace = bench.known[peer]["pace"]
        return min(documents, 1 + int(PASSES * size / (pace * 1e6 * TURN))) if pace else 1

    def ids(self, bench: Bench, contestant: Contestant) -> dict[str, Any]:
        return bench.check(self.text, contestant.peer, f"{self.form}_{contestant.way}", self.patience)

    def fails(self, bench: Bench, contestant: Contestant) -> str:
        return self.ids(bench, contestant).get("lost", "")

    def prepare(self, bench: Bench, contestant: Contestant, process: Process) -> int:
        way = f"{self.form}_{contestant.way}"
        order = bench.start(self.text, self.threads, uses=[way], every=contestant.every)
        return process.ask(order, bench.patience)["bytes"]

    def passes(self, bench: Bench, contestant: Contestant) -> list[tuple[str, Order]]:
        order = {"do": "encode", "way": f"{self.form}_{contestant.way}"}
        return [("cold", order), *[("warm", order)] * (PASSES - 1)]

    def checked(self, bench: Bench, contestant: Contestant, record: Record) -> dict[str, Any]:
        found = self.ids(bench, contestant)
        return {key: found[key] for key in ("documents", "differ", "first") if key in found}


@dataclass(frozen=True)
class Call(Encode):
    """One call for each of many short texts, of which no one comes twice; the first five of eight only warm up. There
    are as many texts of each length."""

    lengths: tuple[int, ...] = (500, 30)  # characters

    def measures(self) -> dict[str, Measure]:
        return {f"{n} characters": Measure(f"{n} characters", "seconds", "µs") for n in self.lengths}

    def ways(self, bench: Bench, peer: str) -> list[str]:
        return ["loop"] if bench.known[peer]["ways"]["list"] else []

    def share(self, bench: Bench, peer: str) -> int:
        return 1

    def prepare(self, bench: Bench, contestant: Contestant, process: Process) -> int:
        super().prepare(bench, contestant, process)
        return self.part(bench)

    def part(self, bench: Bench) -> int:
        """The texts of a pass: an eighth of those of one length."""
        return bench.sizes[self.text][1] // len(self.lengths) // 8

    def passes(self, bench: Bench, contestant: Contestant) -> list[tuple[str, Order]]:
        part, each = self.part(bench), bench.sizes[self.text][1] // len(self.lengths)
        made: list[tuple[str, Order]] = []
        for n, length in enumerate(self.lengths):
            cuts = [each * n, *(each * (n + 1) - part * k for k in (3, 2, 1, 0))]
            names = ["first", *[f"{length} characters"] * 3]
            orders = [{"do": "encode", "way": "list_loop", "some": some} for some in itertools.pairwise(cuts)]
            made += zip(names, orders, strict=True)
        return made


@dataclass(frozen=True)
class Worst(Call):
    """Texts that are hard on algorithms, one call each. Who is quick does a first cycle that does not count and then
    others; who takes half a second or more, only one."""

    patience: float = 120.0

    def measures(self) -> dict[str, Measure]:
        return {words: Measure(words, "seconds", "ms") for words in WORST}

    def prepare(self, bench: Bench, contestant: Contestant, process: Process) -> int:
        super().prepare(bench, contestant, process)
        return 1

    def passes(self, bench: Bench, contestant: Contestant) -> list[tuple[str, Order]]:
        quick = self.ids(bench, contestant).get("seconds", 0.0) < 0.5 * CYCLES
        orders = [{"do": "encode", "way": "list_loop", "some": [n, n + 1]} for n in range(CYCLES * len(WORST))]
        names = [*["first"] * len(WORST), *WORST * (CYCLES - 1)] if quick else WORST
        return list(zip(names, orders, strict=False))


@dataclass(frozen=True)
class Decode(Task):
    """Ids of documents to text, from lists and from numpy's arrays, one call for each document, warm."""

    MEASURES: ClassVar[dict[str, Measure]] = {
        "list": Measure("list", "seconds", "Mtok/s"),
        "numpy": Measure("array", "seconds", "Mtok/s"),
    }

    def contestants(self, bench: Bench) -> list[Contestant]:
        bench.reference(self.text)
        every = -(-bench.tokens[self.text] // IDS)
        return [Contestant(peer, every=every) for peer in self.invited(bench) if bench.known[peer]["ways"]["list"]]

    def prepare(self, bench: Bench, contestant: Contestant, process: Process) -> int:
        process.ask(bench.start(self.text, every=contestant.every), bench.patience)
        return process.ask({"do": "ids", "form": "list"}, bench.patience)["tokens"]

    def passes(self, bench: Bench, contestant: Contestant) -> list[tuple[str, Order]]:
        made: list[tuple[str, Order]] = []
        for form in bench.known[contestant.peer]["decodes"]:
            made += [("", {"do": "ids", "form": form}), ("first", {"do": "decode"}), *[(form, {"do": "decode"})] * 2]
        return made

    def checked(self, bench: Bench, contestant: Contestant, record: Record) -> dict[str, Any]:
        answers = [answer for passes in record.rounds.values() for found in passes.values() for answer in found]
        worst = max((a for a in answers if "differ" in a), key=lambda a: a["differ"], default={})
        return {key: worst[key] for key in ("documents", "differ") if worst}


@dataclass(frozen=True)
class Load(Task):
    """A vocabulary from its files until the first text is encoded; then copies."""

    MEASURES: ClassVar[dict[str, Measure]] = {
        "load": Measure("load", "seconds", "ms"),
        "memory": Measure("load", "kept", "MB"),
        "pickle": Measure("load", "pickle", "ms"),
        "deepcopy": Measure("load", "deepcopy", "ms"),
    }

    def contestants(self, bench: Bench) -> list[Contestant]:
        return [Contestant(peer) for peer in self.invited(bench) if bench.known[peer]["ways"]["list"]]

    def prepare(self, bench: Bench, contestant: Contestant, process: Process) -> int:
        process.ask(bench.start("", ids=False), bench.patience)
        return 1

    def passes(self, bench: Bench, contestant: Contestant) -> list[tuple[str, Order]]:
        assert bench.vocabulary is not None
        return [("load", {"do": "load", "folder": bench.vocabulary.folder})]

    def checked(self, bench: Bench, contestant: Contestant, record: Record) -> dict[str, Any]:
        answers = [answer for passes in record.rounds.values() for found in passes.values() for answer in found]
        said = (
            [f"{key}: {answers[0][key]}" for key in ("no pickle", "no deepcopy") if key in answers[0]]
            if answers
            else []
        )
        return {"unknown": "; ".join(said)} if said else {}


@dataclass(frozen=True)
class Growth(Task):
    """How time grows with the length of one text, ordinary or a single word: Hornbook alone, a contestant a length."""

    what: str = "text"
    train: bool = False
    lengths: tuple[int, ...] = ()
    vocab_size: int = 32_768
    MEASURES: ClassVar[dict[str, Measure]] = {
        "time": Measure("once", "seconds", "ns/byte"),
        "memory": Measure("once", "grown", "MB"),
    }

    def rounds(self, bench: Bench) -> int:
        return 1 if self.train else max(1, bench.rounds // 2)

    def contestants(self, bench: Bench) -> list[Contestant]:
        there = [n for n in self.lengths if f"_{self.what}-{n}" in bench.written]
        return [Contestant(OURS, f"{n / 1e6:g} MB") for n in there] if OURS in bench.known else []

    def length(self, contestant: Contestant) -> int:
        return next(n for n in self.lengths if contestant.way == f"{n / 1e6:g} MB")

    def prepare(self, bench: Bench, contestant: Contestant, process: Process) -> int:
        uses = [] if self.train else ["array_batch"]
        order = bench.start(f"_{self.what}-{self.length(contestant)}", uses=uses, ids=not self.train)
        return process.ask(order, bench.patience)["bytes"]

    def passes(self, bench: Bench, contestant: Contestant) -> list[tuple[str, Order]]:
        if not self.train:
            return [("once", {"do": "encode", "way": "array_batch"})]
        pattern = "cl100k" if self.what == "text" else None
        job = Train(self.key, self.title, vocab_size=self.vocab_size, pattern=pattern)
        return [("once", job.order(bench, OURS))]


def same(ours: Sequence[str], theirs: Sequence[str]) -> dict[str, Any]:
    """How many tokens are the same from the beginning on, of how many, and what part of them is in both at all."""
    least, most = sorted((len(ours), len(theirs)))
    first = next((i for i in range(least) if ours[i] != theirs[i]), least)
    both, either = set(ours) & set(theirs), set(ours) | set(theirs)
    return {"same": first, "of": most, "shared": len(both) / max(1, len(either))}


def spelled(pattern: str | None) -> str:
    """A pattern as Oniguruma reads it, which is tokenizers' engine."""
    plain = Tokenizer.from_vocab({byte: bytes([byte]) for byte in range(256)}, [], pattern=pattern)
    return plain._core.oniguruma or ""
