"""Attention's kernels under NVIDIA's compute-sanitizer: no access beyond a tensor, no race in shared memory.

    python -m hornbook.benchmarks.sanitizer [--only plain,fast,decode] [--tools memcheck,racecheck] [--minutes 8]

A process a group of kernels makes small calls (`sanitizer_calls`): once by itself, which compiles the kernels (all
groups at a time), then under each tool. What a GPU cannot run (fast variants before sm_90, kernels in Gluon elsewhere)
is named and left out.

memcheck finds accesses to memory that is nobody's. A tensor is a piece of memory of its own there, as PyTorch keeps
none for later, and behind each one the tool leaves a megabyte free (``--padding``): whatever is read or written less
than that behind a tensor, or before it, is found, and not taken for an access to its neighbour. Further away it may be.
Copies by TMA are watched where the tool can do so, from 2026.2 on and only if it is told to (``--check-tensor-ops``).

racecheck finds threads of a program that use shared memory in no order. It also takes Triton's own reductions for races
(https://github.com/triton-lang/triton/issues/7264): threads write the same place, and mean the same sum. So the first
reports are shown, with the kernel and line: writes and writes at a reduction are such, whatever else is there is not.
https://docs.nvidia.com/compute-sanitizer/ComputeSanitizer/index.html
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import signal
import site
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import ConfigError, nearest
from . import report
from .sanitizer_calls import GROUPS, run

TOOLS = ("memcheck", "racecheck")
FOUND = 86
"""status of compute-sanitizer if its tool found something"""
MISSING = (
    "there is no compute-sanitizer here: not on PATH, in no CUDA folder, in no Python package. It is in the package "
    "nvidia-cuda-sanitizer-api, and comes with the CUDA toolkit (bin/compute-sanitizer; the packages cuda-sanitizer of "
    "NVIDIA's repositories and of conda-forge)"
)
SUMMARY = re.compile(r"=+ (?:ERROR|RACECHECK) SUMMARY: (.*)")
PADDING = 1 << 20
"""bytes behind each tensor that are nobody's"""
REPORTS = 5
"""of a tool, that are shown"""


def find() -> Path | None:
    """compute-sanitizer: on PATH, where CUDA's toolkit is, or in a Python package; None if there is none."""
    if (on_path := shutil.which("compute-sanitizer")) is not None:
        return Path(on_path)
    toolkits = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    toolkits += [Path(sys.prefix), *sorted(Path("/usr/local").glob("cuda*"), reverse=True), Path("/opt/cuda")]
    folders = [toolkit / of for toolkit in toolkits for of in ("bin", "compute-sanitizer", "extras/compute-sanitizer")]
    packages = [Path(folder) for folder in (*site.getsitepackages(), site.getusersitepackages())]
    folders += [package / "triton/backends/nvidia/bin" for package in packages]
    for package in packages:
        folders += [path.parent for path in (package / "nvidia").glob("**/compute-sanitizer") if path.is_file()]
    for folder in folders:
        if os.access(path := folder / "compute-sanitizer", os.X_OK) and path.is_file():
            return path
    return None


class Tool(NamedTuple):
    """compute-sanitizer, and what it says of itself."""

    path: Path
    version: tuple[int, ...]
    """(2026, 4); empty if it does not say"""
    has: frozenset[str]
    """its options"""

    def command(self, tool: str) -> list[str]:
        """What stands before the command that is watched."""
        wanted = {"--check-tensor-ops": "yes"}
        if tool == "memcheck":  # PyTorch asks for what may fail, and goes on: that is not about kernels
            wanted |= {"--padding": str(PADDING), "--report-api-errors": "no"}
        more = [word for option, value in wanted.items() if option in self.has for word in (option, value)]
        return [str(self.path), "--tool", tool, "--error-exitcode", str(FOUND), *more]

    def notes(self) -> list[str]:
        """What its results do not say."""
        notes = []
        if "--check-tensor-ops" not in self.has:
            notes.append(
                "TMA is not watched by this version, 2026.2 and later do: of kernels with descriptors the rest"
            )
        if "--padding" not in self.has:
            notes.append("this version leaves no room between tensors: an access may end in the next one unnoticed")
        if self.version < (2026, 3):
            notes.append("racecheck: false reports on Hopper were mended in 2026.1 and 2026.3: try a later version")
        return notes


def asked(path: Path) -> Tool:
    """Ask it for its version and options."""
    said = {}
    for option in ("--version", "--help"):
        done = subprocess.run([path, option], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said[option] = done.stdout
    number = re.search(r"Version (\d+(?:\.\d+)*)", said["--version"])
    version = tuple(map(int, number[1].split("."))) if number else ()
    return Tool(path, version, frozenset(re.findall(r"--[a-z][a-z-]+", said["--help"])))


def reports(said: str) -> list[str]:
    """A tool's reports, without its first and last words, and without Python's frames. One ends with an empty line,
    behind its ``=========``."""
    lines = [line for line in said.splitlines() if line.startswith("=========") and "Host Frame:" not in line]
    blocks = re.split(r"^=+[ \t]*$", "\n".join(lines), flags=re.MULTILINE)
    kind = re.compile(r"Race reported|hazard detected|Invalid|Error|Warning")
    texts = [re.sub(r"^=+ (?:COMPUTE-SANITIZER|.*SUMMARY:.*)$", "", block, flags=re.MULTILINE) for block in blocks]
    return [text.strip() for text in texts if kind.search(text)]


# The processes

_running: set[subprocess.Popen[str]] = set()


def end(process: subprocess.Popen[str]) -> None:
    """It and all processes that it has started: what is watched is a child of the tool, and may have children."""
    with suppress(ProcessLookupError):  # who is done in this moment
        os.killpg(process.pid, signal.SIGKILL)


def watched(command: Sequence[str | Path], seconds: float, by_tool: bool = True) -> dict[str, Any]:
    """Run a process: what it printed, and ``failed``, why it is not well, or None."""
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    if seconds <= 0:
        return {"said": "", "summary": None, "failed": "not run, so that the run ends in time"}
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        env=environment, start_new_session=True,
    )  # fmt: skip
    _running.add(process)
    try:
        said = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        end(process)
        said = process.communicate()[0]
        return {"said": said, "summary": None, "failed": f"not done after {seconds:.0f} s"}
    finally:
        _running.discard(process)
    summaries = SUMMARY.findall(said)
    failed = None
    if process.returncode == FOUND or any(
        re.search(r"\b[1-9]\d* (?:error|hazard|warning)", line) for line in summaries
    ):
        failed = "it found something"
    elif process.returncode:
        failed = f"its process ended with {process.returncode}"
    elif by_tool and not summaries:
        failed = "no summary: the tool did not run"
    return {"said": said, "summary": summaries[-1] if summaries else None, "failed": failed}


def check(
    sanitizer: Tool, groups: Sequence[str], tools: Sequence[str], seconds: float = math.inf,
    child: Sequence[str] = (sys.executable, "-P", "-m", "hornbook.benchmarks.sanitizer", "--run"),
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Every group by itself and under each tool: "plain, memcheck" → `watched`. Groups run side by side."""
    until = time.monotonic() + seconds
    most = 3600.0  # for one process, where there is no limit

    def left() -> float:
        return min(most, until - time.monotonic())

    results: dict[str, dict[str, Any]] = {}

    def one(task: tuple[str, str]) -> tuple[str, dict[str, Any]]:
        group, tool = task
        found = watched([*(sanitizer.command(tool) if tool else []), *child, group], left(), bool(tool))
        name = f"{group}, {tool or 'by itself'}"
        report.note(f"{name}: {found['failed'] or found['summary'] or 'right'}")
        return name, found

    with ThreadPoolExecutor(len(GROUPS)) as pool:
        try:
            for tool in ("", *tools):
                results |= pool.map(one, [(group, tool) for group in groups])
        except BaseException:  # such as Ctrl-C, which the processes do not hear of, being of sessions of their own
            until = -math.inf
            for process in list(_running):
                end(process)
            raise
    return results


def named(text: str, names: Sequence[str], what: str) -> list[str]:
    chosen = [name.strip() for name in text.split(",") if name.strip()]
    for name in chosen:
        if name not in names:
            raise ConfigError(f"there is no {what} {name!r}{nearest(name, names)}; there are {', '.join(names)}")
    return chosen or list(names)


def main(argv: Sequence[str] | None = None) -> int:
    """0 if every tool ran and found nothing, 1 if not, 2 without compute-sanitizer or GPU. The last line is JSON."""
    parser = argparse.ArgumentParser(prog="python -m hornbook.benchmarks.sanitizer", description=__doc__)
    parser.add_argument("--only", default="", help=f"groups of kernels, of {', '.join(GROUPS)}; all if not given")
    parser.add_argument("--tools", default="", help=f"of {', '.join(TOOLS)}; both if not given")
    parser.add_argument("--minutes", type=float, help="end within so many; what there is no time for is named")
    parser.add_argument("--run", metavar="GROUP", choices=list(GROUPS), help="make a group's calls in this process")
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print(json.dumps({"ran": False, "reason": "there is no CUDA GPU here"}))
        return 2
    if options.run:
        return 0 if run(options.run) else 1
    groups, tools = named(options.only, list(GROUPS), "group"), named(options.tools, TOOLS, "tool")
    if (path := find()) is None:
        print(f"NOT RUN: {MISSING}.")
        print(json.dumps({"ran": False, "reason": MISSING}))
        return 2
    sanitizer = asked(path)
    print(f"{path}, version {'.'.join(map(str, sanitizer.version)) or 'unknown'}", flush=True)
    for note in sanitizer.notes():
        print(f"Note: {note}.", flush=True)
    results = check(sanitizer, groups, tools, math.inf if options.minutes is None else 60 * options.minutes)
    for name, found in results.items():
        print(f"\n{name}: {found['failed'] or 'ok'}{': ' + found['summary'] if found['summary'] else ''}")
        if name.endswith("by itself"):
            print(found["said"][-20_000:].rstrip())
        elif found["failed"]:
            shown = reports(found["said"])
            if shown:
                print(f"The first {min(REPORTS, len(shown))} of {len(shown)} reports:")
            if shown and name.endswith("racecheck"):
                print("Writes and writes at a reduction are Triton's own, of one value: its issue 7264.")
            print(*shown[:REPORTS], found["said"][-5000:].rstrip(), sep="\n\n")
    failed = [name for name, found in results.items() if found["failed"]]
    print(json.dumps({"ran": True, "processes": len(results), "failed": failed}))
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # else its processes would go on
    try:
        sys.exit(main())
    except ConfigError as error:
        sys.exit(f"hornbook: {error}")
