"""How long Hornbook takes to begin: ``hornbook --help``, and ``from hornbook import Tokenizer``.

Each is a process of its own, from its start to its end, Python's own start included; files are in the system's memory,
as after any first use. They take turns, and the best counts: what other programs do to a machine only adds. Before the
clock runs, it is looked at which modules each has loaded: torch must not be among them.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from .. import files
from ..errors import HornbookError

HEAVY = ("matplotlib", "torch", "transformers", "triton")
LOADED = f"; import json, sys; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]), file=sys.stderr)"


@dataclass(frozen=True)
class Start:
    """A way to begin: what a process is asked, the same as code, and how many seconds it may take."""

    name: str
    arguments: tuple[str, ...]
    code: str
    goal: float | None = None


# The first two are what nothing of ours can be quicker than.
STARTS = (
    Start("python -c pass", ("-c", "pass"), "pass"),
    Start("python -c 'import numpy'", ("-c", "import numpy"), "import numpy"),
    Start("hornbook --help", ("-m", "hornbook", "--help"), "from hornbook.cli import main; main(['--help'])", 0.5),
    Start("from hornbook import Tokenizer", ("-c", code := "from hornbook import Tokenizer"), code, 0.25),
)


@dataclass(frozen=True)
class Row:
    name: str
    goal: float | None
    best: float
    median: float
    loads: list[str]

    @property
    def verdict(self) -> str:
        if self.loads:
            return "loads " + ", ".join(self.loads)
        return "" if self.goal is None else "reached" if self.best <= self.goal else "missed"


def run(rounds: int, out: Path | None) -> dict[str, Any]:
    """Measure, print a table and a line of JSON, and write that to ``out``, if given."""
    loads = {start: json.loads(_process("-c", start.code + LOADED).splitlines()[-1]) for start in STARTS}
    seconds: dict[Start, list[float]] = {start: [] for start in STARTS}
    for _ in range(rounds):
        for start in STARTS:
            began = time.perf_counter()
            _process(*start.arguments)
            seconds[start].append(time.perf_counter() - began)
    rows = [Row(s.name, s.goal, min(seconds[s]), median(seconds[s]), loads[s]) for s in STARTS]

    print(f"seconds of a process, the best of {rounds} and the median\n")
    print(f"{'':32} {'best':>6} {'median':>7} {'goal':>6}")
    for row in rows:
        goal = "" if row.goal is None else f"{row.goal:.2f}"
        print(f"{row.name:32} {row.best:6.3f} {row.median:7.3f} {goal:>6}  {row.verdict}".rstrip())
    result = {
        "benchmark": "start",
        "date": str(date.today()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "rounds": rounds,
        "rows": [asdict(row) | {"verdict": row.verdict} for row in rows],
    }
    line = json.dumps(result)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        files.write(out, json.dumps(result, indent=1) + "\n")
    print(line)
    return result


def _process(*arguments: str) -> str:
    """What ``python ARGUMENTS`` says on stderr."""
    done = subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise HornbookError(f"python {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stderr
