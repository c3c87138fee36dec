"""How fast the tokenizer is: against what this machine can do at best, and against other libraries.

    hornbook bench tokenizer --only train,encode --rounds 3

First come the limits: bytes that one core reads and copies, and what a Python list costs for each id. Before a text is
encoded on time, everybody's ids of the whole of it are compared with tiktoken's. All take turns, see `turns`: training;
encoding (cold is the first pass of a fresh tokenizer in a fresh process, warm are the passes after it); decoding; calls
with a short text; texts that are hard on algorithms; loading and copying. How time grows with the length of a text is
told of Hornbook alone. `texts` says what is read, `peers` how each library is called, `tasks` what is done and `goals`
what is to be reached.

Where the machine counts instructions, each row has millions of them for a megabyte: a number that does not depend on
what else the machine does.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import ConfigError, TokenizerError, nearest
from . import goals, report, texts
from .goals import OURS, Row
from .task import Bench, Task
from .tasks import CYCLES, Call, Decode, Encode, Growth, Load, Train, Worst
from .texts import Text
from .turns import Lost, cores

KINDS = ("train", "encode", "decode", "latency", "worst", "load")
PEERS = (
    "tiktoken", "tokenizers", "tokenizers-1.0", "rustbpe", "gigatoken", "fastokens", "splintr", "rs-bpe", "tokie",
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How much of everything. The defaults are what the goals are about."""

    text: int = 1 << 40  # bytes of each text, at most
    vocab_size: int = 32_768
    word: int = 1_115_394  # characters of the word to train on
    word_vocab_size: int = 8192
    worst: int = 1_000_000
    calls: int = 8000  # texts of each length
    growth: tuple[int, ...] = (1_000_000, 4_000_000, 16_000_000, 64_000_000)


QUICK = Size(200_000, 1000, 20_000, 500, 20_000, 100, (20_000, 80_000))


def options(only: str, peers: str, python: str) -> tuple[list[str], list[str], dict[str, str]]:
    """--only, --peers and --python, as lists and as peer → path.

    Raises:
        ConfigError: for what is unknown.
    """
    kinds = [name.strip() for name in only.split(",") if name.strip()]
    for name in kinds:
        if name not in KINDS:
            raise ConfigError(f"--only: there is nothing called {name!r} to time{nearest(name, KINDS)}")
    wanted = [name.strip() for name in peers.split(",") if name.strip()]
    for name in wanted:
        if name.endswith(".py"):
            if not Path(name).is_file():
                raise ConfigError(f"--peers: {name} is no file")
        elif name not in (OURS, *PEERS):
            raise ConfigError(f"--peers: {name!r} is no known library{nearest(name, PEERS)}; or give an adapter, X.py")
    pythons: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in python.split(","))):
        name, equals, path = part.partition("=")
        name, path = (name.strip(), path.strip()) if equals else ("", part)
        if name and name not in (OURS, *PEERS):
            raise ConfigError(f"--python: {name!r} is no known library{nearest(name, PEERS)}")
        if not Path(path).is_file():
            raise ConfigError(f"--python: {path} is no file; give NAME=PATH, the Python that has the library")
        pythons[name] = path
    chosen = [name for name in wanted if name != OURS] if wanted else list(PEERS)
    pythons.setdefault(OURS, sys.executable)
    return kinds or list(KINDS), [OURS, *dict.fromkeys(chosen)], pythons


def tasks(kinds: Sequence[str], found: Mapping[str, Text], threads: int, size: Size) -> list[Task]:
    """What to do with the texts that there are.

    Args:
        found: as `texts.usual` names them, or the user's one.
        threads: how many "several" are; with 1, all that needs several is left out.
    """
    main = next(iter(found))
    named = {name: {"en": "English", "multi": "many languages"}.get(name, name) for name in found}

    def on(n: int) -> str:
        return f"{n} thread{'s' * (n > 1)}"

    made: dict[str, list[Task]] = {kind: [] for kind in KINDS}
    for n in sorted({1, threads}):
        title = f"train {size.vocab_size:,}, cl100k pattern, {named[main]}, {on(n)}"
        who = (OURS, "tokenizers", "rustbpe")
        made["train"].append(Train(f"train-{main}-{n}", title, main, n, who, vocab_size=size.vocab_size))
    title = f"train {size.vocab_size:,}, gpt2 pattern, {named[main]}, {on(1)}"
    who = (OURS, "gigatoken")
    made["train"].append(Train(f"train-{main}-1-gpt2", title, main, 1, who, 300.0, size.vocab_size, "gpt2"))
    for name in [name for name in ("code", "multi") if name in found and name != main]:
        title = f"train {size.vocab_size:,}, cl100k pattern, {named[name]}, {on(1)}"
        who = (OURS, "rustbpe")
        made["train"].append(Train(f"train-{name}-1", title, name, 1, who, vocab_size=size.vocab_size))
    title = f"train {size.word_vocab_size:,}, one word of {report.number(size.word / 1e6, 2)} MB, {on(1)}"
    who = (OURS, "rustbpe", "tokenizers")
    made["train"].append(Train("train-word", title, "_word", 1, who, 20.0, size.word_vocab_size, None))

    wanted = [(main, "list", 1), (main, "array", 1)]
    wanted += [("code", "array", threads), ("multi", "array", 1)] if "code" in found else [(main, "array", threads)]
    for name, form, n in dict.fromkeys(wanted):
        if name in found:
            title = f"encode {named[name]}, {on(n)}, {form}"
            made["encode"].append(Encode(f"encode-{name}-{form}-{n}", title, name, n, form=form))
    made["decode"].append(Decode("decode", f"decode {named[main]}", main))
    made["latency"].append(Call("calls", "one call with a short text", "_calls"))
    made["worst"].append(Worst("worst", f"{size.worst:,} characters: the same one, and random letters", "_worst"))
    made["load"].append(Load("load", "load, pickle and back, deepcopy"))
    for kind in ("train", "encode"):
        for what, words in (("text", "one text"), ("word", "one word")):
            vocab_size = size.vocab_size if what == "text" else size.word_vocab_size
            made[kind].append(
                Growth(
                    f"growth-{kind}-{what}", f"how the time to {kind} grows with {words}", what=what,
                    train=kind == "train", lengths=size.growth, vocab_size=vocab_size,
                )
            )  # fmt: skip
    return [task for kind in KINDS if kind in kinds for task in made[kind] if task.threads <= max(1, threads)]


def write(bench: Bench, kinds: Sequence[str], found: Mapping[str, Text], size: Size) -> None:
    """The files of the texts that the tasks want."""
    main = next(iter(found))
    for text in found.values():
        bench.write(text)
    if "train" in kinds:
        word = texts.shakespeare() if size.word >= 1_000_000 else None
        word = word or texts.one_text(found.values(), size.word)
        if word is not None:
            bench.write(Text("_word", word.about, word.documents))
    if "latency" in kinds:
        calls = texts.calls(found[main], Call.lengths, size.calls)
        if len(calls.documents) >= 8 * len(Call.lengths):
            bench.write(calls)
    if "worst" in kinds:
        bench.write(texts.worst(size.worst, CYCLES))
    if {"train", "encode"} & set(kinds):
        for length in size.growth:
            for text in (texts.one_text(found.values(), length), texts.one_word(length)):
                if text is not None:
                    bench.write(text)


def limits() -> dict[str, Any]:
    """What a core of this machine does at best: bytes read and copied in a second, nanoseconds for an id in a list."""

    def best(call: Callable[[], Any]) -> float:
        taken = []
        for _ in range(7):
            began = time.perf_counter()
            call()
            taken.append(time.perf_counter() - began)
        return min(taken)

    source = np.ones(1 << 23)  # 64 MB, more than any cache
    target = np.ones(1 << 23)
    raw = source.view(np.uint8).tobytes().replace(b"\0", b"\1")
    ids = list(range(1000, 1_001_000))
    numbers = array("I", ids)
    found = {
        "read": len(raw) / best(lambda: raw.find(b"\0")),
        "copy": source.nbytes / best(lambda: np.copyto(target, source)),
        "list_ns": best(lambda: ids[:]) / len(ids) * 1e9,
        "new_list_ns": best(numbers.tolist) / len(ids) * 1e9,
    }
    words = (
        f"One core reads {found['read'] / 1e9:.1f} GB/s and copies {found['copy'] / 1e9:.1f} GB/s. A list costs "
        f"{found['list_ns']:.1f} ns an id if the int is there already, and {found['new_list_ns']:.0f} ns if it is made."
    )
    return {**found, "words": words}


def at_most(task: Task, bench: Bench, limit: Mapping[str, Any]) -> str:
    """What the limits say of a task, in words; "" where they say nothing."""
    tokens, size = bench.tokens.get(task.text), bench.sizes.get(task.text, (0, 0))[0]
    if isinstance(task, Train) and size:
        return f"{task.threads * limit['read'] / 1e6:,.0f} MB/s: every byte is read once"
    if type(task) is Encode and tokens:
        seconds = size / limit["read"]
        seconds += tokens * limit["list_ns"] / 1e9 if task.form == "list" else 4 * tokens / limit["copy"]
        what = "put into lists" if task.form == "list" else "written"
        return f"{task.threads * size / seconds / 1e6:,.0f} MB/s: every byte is read, every id {what}"
    if isinstance(task, Decode) and tokens:
        seconds = 4 * tokens / limit["read"] + size / limit["copy"]
        return f"{tokens / seconds / 1e6:,.0f} Mtok/s: every id is read, every byte written"
    return ""


def machine() -> dict[str, Any]:
    """What a result depends on besides the code."""
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    except OSError:
        pass
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "pinned": bool(cores(1)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "hornbook": __version__,
    }


def run(
    only: str = "",
    text: Path | None = None,
    vocabulary: str = "cl100k_base",
    peers: str = "",
    python: str = "",
    rounds: int = 5,
    threads: int = 2,
    quick: bool = False,
    out: Path | None = None,
) -> dict[str, Any]:
    """``hornbook bench tokenizer``; the whole result."""
    kinds, names, pythons = options(only, peers, python)
    if rounds < 1 or threads < 1:
        raise ConfigError(f"--rounds {rounds} --threads {threads}: at least 1")
    if cores(threads) and len(cores(threads)) < threads:
        report.note(f"there are {len(cores(threads))} cores, not {threads}: what needs several is left out")
        threads = 1
    size, rounds = (QUICK, 1) if quick else (Size(), rounds)
    began, today = time.monotonic(), date.today()
    limit = limits()
    print(limit["words"], flush=True)
    part = "" if set(kinds) == set(KINDS) else "-" + "-".join(kind for kind in KINDS if kind in kinds)
    place = report.results(out) / f"tokenizer-{today}{part}"
    with tempfile.TemporaryDirectory(prefix="hornbook-bench-") as folder:
        bench = Bench(Path(folder), pythons, rounds, threads)
        bench.find(names)
        if OURS in bench.missing:
            raise ConfigError(f"hornbook does not start in a process of its own: {bench.missing[OURS]}")
        for peer, why in bench.missing.items():
            report.note(f"{peer} is not here: {why}")
        found = {t.name: t for t in [texts.of_path(text)]} if text is not None else texts.usual()
        found = {name: t.beginning(size.text) if t.size > size.text else t for name, t in found.items()}
        write(bench, kinds, found, size)
        bench.vocabulary = _vocabulary(vocabulary, bench.folder, list(found.values())[-1], size)
        result: dict[str, Any] = {
            "benchmark": "tokenizer", "date": str(today), "quick": quick, "rounds": rounds, "machine": machine(),
            "limits": limit, "vocabulary": bench.vocabulary.name, "missing": bench.missing,
            "peers": {peer: known["version"] for peer, known in bench.known.items()},
            "texts": {n: {"about": t.about, "bytes": t.size, "documents": len(t.documents)} for n, t in found.items()},
            "task_seconds": {}, "rows": [], "goals": [],
        }  # fmt: skip
        for task in tasks(kinds, found, threads, size):
            if task.text and task.text not in bench.written:
                report.note(f"{task.title}: there is no text for it")
                continue
            started = time.monotonic()
            rows = play(task, bench)
            result["task_seconds"][task.key] = round(time.monotonic() - started, 1)
            result["rows"] += [row | {"limit": at_most(task, bench, limit)} for row in rows]
            result["goals"] = [] if quick or vocabulary != "cl100k_base" else goals.judge(goals.GOALS, result["rows"])
            result["seconds"] = time.monotonic() - began
            goals.save(result, place)
            said = f" (at most {most})" if (most := at_most(task, bench, limit)) else ""
            print("\n".join([task.title + said, *map(goals.line, rows)]), flush=True)
    goals.draw(result, place)
    goals.show(result)
    report.note(f"{place}: .json, .md, .svg and .png")
    print(json.dumps(digest(result) | {"out": str(place)}))
    return result


def play(task: Task, bench: Bench) -> list[Row]:
    """The rows of a task; none if tiktoken fails, whose ids everybody needs."""
    try:
        return task.play(bench)
    except Lost as reason:
        report.note(f"{task.title}: no ids to compare with, tiktoken: {reason}")
        return []


def _vocabulary(name: str, folder: Path, text: Text, size: Size) -> texts.Vocabulary:
    try:
        return texts.vocabulary(name, folder, text, size.vocab_size)
    except TokenizerError as error:
        if name != "cl100k_base":
            raise
        report.note(f"{error}; going on with a vocabulary that is trained on {text.about}")
        return texts.vocabulary("trained", folder, text, size.vocab_size)


def digest(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result in a few numbers."""
    judged = result["goals"]
    return {
        "benchmark": "tokenizer",
        "goals": len(judged),
        "met": sum(goal["met"] is True for goal in judged),
        "missed": [goal["goal"] for goal in judged if goal["met"] is False],
        "rows": len(result["rows"]),
        "wrong": sorted({row["peer"] for row in result["rows"] if not goals.is_right(row)}),
        "lost": sorted({row["peer"] for row in result["rows"] if row["lost"]}),
        "missing": sorted(result["missing"]),
        "ours": {
            row["task"] + (f" {row['way']}" if row["task"].startswith("growth") else ""): {
                name: float(report.number(measure["median"]).replace(",", ""))
                for name, measure in row["measures"].items()
            }
            for row in result["rows"]
            if row["peer"] == OURS
        },
        "instructions": "counted" if goals.counted(result["rows"]) else "not available",
        "seconds": round(result.get("seconds", 0.0)),
    }
