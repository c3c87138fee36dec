"""The child process of ``hornbook bench tokenizer``: one library, pinned to its cores, one order after another.

    python -P child.py NAME [ADAPTER.py]

A script for any Python, as `peers`, which it loads from beside it: the folder must not be on the path, where its names
would hide others. Orders come as lines of JSON, ``{"do": "encode", ...}`` with the arguments of a method of `Child`;
each is answered by one line. What a library prints itself goes to stderr.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import gc
import importlib
import importlib.util
import itertools
import json
import os
import pickle
import platform
import struct
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .peers import Peer


class Child:
    """What the parent can order. Times are in seconds, sizes in bytes; None is what this system does not tell."""

    def __init__(self, kind: Callable[[], Peer], vocabulary: Callable[[str], Any]) -> None:
        self.kind, self.read_vocabulary = kind, vocabulary
        self.texts: list[str] = []
        self.given: dict[str, Any] = {}  # the texts as a way takes them
        self.inputs: list[Any] = []
        self.counter: Instructions | None = None

    def hello(self) -> dict[str, Any]:
        """Whether the library is there, and what it can do."""
        peer = self.kind()
        ways = {"list": dict(peer.lists), "array": dict(peer.arrays)}
        able = {"ways": ways, "decodes": list(peer.decodes), "tie": peer.tie}
        return {"version": peer.version, "pace": peer.pace, **able}

    def start(
        self,
        cores: Sequence[int],
        threads: int,
        text: str | None = None,
        every: int = 1,
        vocabulary: str | None = None,
        uses: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Take the cores, import the library, read the texts, make a tokenizer.

        Args:
            text: where texts are, see `read`; every so many of them.
            vocabulary: a folder.
            uses: ways such as "list_batch" that are to come. Each is tried on two words with a tokenizer that is thrown
                away, so that what the library imports or starts at its first call is not timed.
        """
        if cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)
        self.counter = Instructions()  # before the library starts threads: it counts those that come later
        self.threads = threads
        self.peer = self.kind()
        self.where, self.every = text, every
        self.texts = read(text, every) if text else []
        if vocabulary:
            known = self.read_vocabulary(vocabulary)
            if uses:
                self.peer.load(known)
            for use in uses:
                getattr(self.peer, use)(self.peer.prepare(use, ["two words", "and"]), threads)
                self.given[use] = self.peer.prepare(use, self.texts)
            self.peer.load(known)
        return {"bytes": sum(len(t.encode()) for t in self.texts), "texts": len(self.texts)}

    def encode(self, way: str, some: Sequence[int] = ()) -> dict[str, Any]:
        """One pass over the texts, or over those from the first number of ``some`` to before the second."""
        call = getattr(self.peer, way)
        given = self.texts[slice(*some)] if some else self.given[way]
        return self.measure(lambda: call(given, self.threads))[0]

    def check(self, way: str) -> dict[str, Any]:
        """Compare ids with those beside the texts: how many documents differ, and which is the first of them."""
        began = time.perf_counter()
        result = getattr(self.peer, way)(self.given[way], self.threads)
        taken = time.perf_counter() - began
        right = read_ids(str(self.where), self.every)
        found = list(rows(result))
        if len(found) != len(right):
            return {"documents": len(right), "differ": len(right), "first": None, "seconds": taken}
        wrong = [i for i, (one, other) in enumerate(zip(found, right, strict=True)) if one != other]
        return {"documents": len(right), "differ": len(wrong), "first": wrong[0] if wrong else None, "seconds": taken}

    def reference(self) -> dict[str, Any]:
        """Write ids beside the texts, for `check`."""
        found = list(rows(self.peer.list_loop(self.texts, self.threads)))  # pyright: ignore[reportAttributeAccessIssue]
        with open(f"{self.where}.ids", "wb") as file:
            for ids in found:
                file.write(ids)
        Path(f"{self.where}.ids.json").write_text(json.dumps([len(ids) for ids in found]), "utf-8")
        return {"tokens": sum(len(ids) for ids in found) // 4}

    def ids(self, form: str) -> dict[str, Any]:
        """Make the ids beside the texts ready for `decode`, as "list" or "array"."""
        self.inputs = [array("I", ids) for ids in read_ids(str(self.where), self.every)]
        if form == "list":
            self.inputs = [ids.tolist() for ids in self.inputs]
        else:
            numpy = importlib.import_module("numpy")
            self.inputs = [numpy.array(ids, numpy.uint32) for ids in self.inputs]
        self.peer.decode(self.inputs[0][:1])
        return {"tokens": sum(map(len, self.inputs))}

    def decode(self) -> dict[str, Any]:
        """One pass over the ids; also how many texts came back otherwise."""
        decode = self.peer.decode
        inputs = self.inputs
        answer, texts = self.measure(lambda: [decode(ids) for ids in inputs])
        pairs = zip(texts, self.texts, strict=True)
        return answer | {"differ": sum(one != other for one, other in pairs), "documents": len(texts)}

    def train(self, vocab_size: int, pattern: str | None, regex: str, write: str, tie: str = "") -> dict[str, Any]:
        """Train on the texts, and write the tokens that it made to a file."""
        if tie:
            self.peer.tie = tie
        given = self.peer.prepare("train", self.texts)
        peer, threads = self.peer, self.threads
        answer, trained = self.measure(lambda: peer.train(given, vocab_size, pattern, regex, threads), trimmed=True)
        made = peer.merged(trained)
        Path(write).write_text(json.dumps([token.decode("latin-1") for token in made]), "utf-8")
        return answer | {"tokens": len(made)}

    def load(self, folder: str, text: str = "The first call counts too.") -> dict[str, Any]:
        """Make a tokenizer and encode a first text with it: a library may put off a part of the work until then."""
        vocabulary = self.read_vocabulary(folder)

        def call() -> Any:
            tok = self.peer.load(vocabulary)
            self.peer.list_loop([text], 1)  # pyright: ignore[reportAttributeAccessIssue]
            return tok

        gc.collect()
        trim()
        before = resident()
        answer, tok = self.measure(call)
        gc.collect()
        trim()
        after = resident()
        answer["kept"] = None if before is None or after is None else after - before
        copies = {"pickle": lambda: pickle.loads(pickle.dumps(tok)), "deepcopy": lambda: copy.deepcopy(tok)}
        for name, again in copies.items():
            try:
                answer[name] = min(self.measure(again)[0]["seconds"] for _ in range(3))
            except BaseException as error:
                answer[name] = None
                answer[f"no {name}"] = f"{type(error).__name__}: {error}"[:200]
        return answer

    def measure(self, call: Callable[[], Any], trimmed: bool = False) -> tuple[dict[str, Any], Any]:
        """Do it once, with the garbage collector off. ``grown`` is the most memory beyond what was taken before."""
        gc.collect()
        if trimmed:  # pages that are free but still ours would hide what the call takes
            trim()
        gc.disable()
        try:
            reset_peak()
            before, counted = resident() or peak(), self.counter.read() if self.counter else None
            worked, began = time.process_time(), time.perf_counter()
            result = call()
            tokens = size(result)
            ended, working = time.perf_counter(), time.process_time()
            counted_then, after = self.counter.read() if self.counter else None, peak()
        finally:
            gc.enable()
        return {
            "seconds": ended - began,
            "cpu_seconds": working - worked,
            "instructions": None if counted is None or counted_then is None else counted_then - counted,
            "grown": None if before is None or after is None else max(0, after - before),
            "tokens": tokens,
        }, result


def size(result: Any) -> int:
    """How many ids, so that whoever makes them late has to; for anything else, its length or 0."""
    if isinstance(result, tuple) and len(result) == 2:  # all ids in one buffer, and where each text's begin
        return len(result[0])
    if isinstance(result, list):
        return sum(map(len, result))
    return len(result) if hasattr(result, "__len__") else 0


def rows(result: Any) -> Iterable[bytes]:
    """The ids of each text as bytes of uint32."""
    if isinstance(result, tuple):
        flat, ends = result
        if isinstance(flat, bytes):
            flat, ends = memoryview(flat).cast("I"), memoryview(ends).cast("Q")
        ends = [int(end) for end in ends]
        result = [flat[start:end] for start, end in itertools.pairwise(ends)]
    for ids in result:
        if isinstance(ids, bytes):
            yield ids
        elif hasattr(ids, "astype"):
            yield ids.astype("uint32").tobytes()
        else:
            yield array("I", ids).tobytes()


def read(where: str, every: int = 1) -> list[str]:
    """Texts: one after another in UTF-8 in ``where.txt``, their lengths in bytes in ``where.json``."""
    texts = []
    with open(f"{where}.txt", "rb") as file:
        for number, length in enumerate(json.loads(Path(f"{where}.json").read_text())):
            if number % every:
                file.seek(length, os.SEEK_CUR)
            else:
                texts.append(file.read(length).decode())
    return texts


def read_ids(where: str, every: int = 1) -> list[bytes]:
    """The ids of those texts, from ``where.ids`` and ``where.ids.json``."""
    found = []
    with open(f"{where}.ids", "rb") as file:
        for number, length in enumerate(json.loads(Path(f"{where}.ids.json").read_text())):
            ids = file.read(length)
            if number % every == 0:
                found.append(ids)
    return found


# What the system says of this process.


def resident() -> int | None:
    """Bytes in memory now."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def peak() -> int | None:
    """The most bytes in memory since `reset_peak`, or since the process began where that does nothing."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        resource = importlib.import_module("resource")
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def trim() -> None:
    """Give freed memory back to the system, where the C library has a function for it."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class Instructions:
    """Counts this process's instructions outside of the kernel, those of threads that start later too, by Linux's
    ``perf_event_open``. A virtual machine often has no such counter, or the kernel refuses it; `read` is None then."""

    HARDWARE, INSTRUCTIONS = 0, 1

    def __init__(self, kind: int = HARDWARE, event: int = INSTRUCTIONS) -> None:
        self.file = -1
        call = {"x86_64": 298, "aarch64": 241}.get(platform.machine())
        if sys.platform != "linux" or call is None:
            return
        size, inherit, no_kernel, no_hypervisor = 64, 1 << 1, 1 << 5, 1 << 6
        flags = inherit | no_kernel | no_hypervisor
        wanted = struct.pack("=IIQQQQQIIQ", kind, size, event, 0, 0, 0, flags, 0, 0, 0)
        this_process, any_core, no_group = 0, -1, -1
        with contextlib.suppress(OSError, AttributeError):
            attributes = ctypes.create_string_buffer(wanted, size)
            self.file = ctypes.CDLL(None).syscall(call, attributes, this_process, any_core, no_group, 0)

    def read(self) -> int | None:
        return None if self.file < 0 else struct.unpack("=Q", os.read(self.file, 8))[0]


def module(path: str, **known: Any) -> ModuleType:
    """The module in a file, wherever that is; it finds the names ``known`` defined."""
    spec = importlib.util.spec_from_file_location(Path(path).stem.replace("-", "_"), path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    made = importlib.util.module_from_spec(spec)
    made.__dict__.update(known)
    spec.loader.exec_module(made)
    return made


def adapter(path: str, base: type[Peer]) -> type[Peer]:
    """The first class in a file that extends `peers.Peer`, which it finds defined as ``Peer``."""
    for kind in vars(module(path, Peer=base)).values():
        if isinstance(kind, type) and issubclass(kind, base) and kind is not base:
            return kind
    raise ImportError(f"{path} has no class that extends Peer")


def main(name: str, path: str = "") -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    peers = module(str(Path(__file__).with_name("peers.py")))
    child = Child(lambda: (adapter(path, peers.Peer) if path else peers.PEERS[name])(), peers.Vocabulary)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = getattr(child, order.pop("do"))(**order)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in Rust is no Exception
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:3])
