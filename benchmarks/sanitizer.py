"""Attention's kernels under NVIDIA's compute-sanitizer: no access beyond a tensor, no race in shared memory.

    python -m hornbook.benchmarks.sanitizer [--only plain,fast,decode] [--tools memcheck,racecheck] [--minutes 8]

A process a group of kernels makes small calls: once by itself, which compiles the kernels (all groups at a time), then
under each tool. Inputs are made and results compared in the CPU's memory, against the reference in float64, so that
hardly a kernel but ours is watched; and PyTorch keeps no memory for later, so that what is beyond a tensor is beyond
what was allocated. What a GPU cannot run (fast variants before sm_90, kernels in Gluon elsewhere) is named and left
out.

memcheck finds reads and writes out of bounds, and racecheck threads of a program that use shared memory in no order.
https://docs.nvidia.com/compute-sanitizer/ComputeSanitizer/index.html
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import site
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, nearest
from . import attention_candidates, kernels, report
from .attention_candidates import Trial, words
from .operations.base import distance

TOOLS = ("memcheck", "racecheck")
FOUND = 86
"""status of compute-sanitizer if its tool found something"""
MISSING = (
    "there is no compute-sanitizer here: not on PATH, in no CUDA folder, in no Python package. It comes with the CUDA "
    "toolkit (bin/compute-sanitizer; the packages cuda-sanitizer of NVIDIA's repositories and of conda-forge)"
)
SUMMARY = re.compile(r"=+ (?:ERROR|RACECHECK) SUMMARY: (.*)")

Call = Callable[[str], float]
"""device → how far the result is from the reference"""
Calls = Iterator[tuple[str, Call]]


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


# What is run. Lengths that no block divides, so that every edge of a tile is there.

TOKENS, FAST_TOKENS, ROOM = 150, 300, 1152
"""of a sequence; of one for kernels with larger blocks; keys that a cache has room for"""


def random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(math.prod(shape)), dtype=torch.float64).to(dtype)


def both_ways(attention: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, **options: Any) -> list[Tensor]:
    """The result and three gradients."""
    q, k, v = (t.detach().requires_grad_() for t in (q, k, v))
    y = attention(q, k, v, **options)
    dy = random(*y.shape).to(y)
    return [y.detach(), *torch.autograd.grad(y, (q, k, v), dy)]


def compared(call: Callable[..., Sequence[Tensor]], reference: Callable[..., Sequence[Tensor]], device: str,
             *inputs: Tensor, **options: Any) -> float:  # fmt: skip
    """Both on the same inputs, and how far apart the furthest of their results are."""

    def to(change: Callable[[Tensor], Tensor]) -> tuple[list[Tensor], dict[str, Any]]:
        named = {name: change(o) if isinstance(o, Tensor) else o for name, o in options.items()}
        return [change(t) for t in inputs], named

    given, named = to(lambda t: t.to(device))
    got = [t.cpu() for t in call(*given, **named)]
    given, named = to(lambda t: t.double() if t.is_floating_point() else t)
    return max(distance(a, b) for a, b in zip(got, reference(*given, **named), strict=True))


def plain() -> Calls:
    """Attention and its way back in its own blocks: each mask, each way to make scores, heads in one piece and two."""
    from ..kernels.attention import attention
    from ..reference.attention import attention as reference

    ids, slopes = torch.arange(TOKENS)[None] // 40, torch.tensor([0.5, 0.1])
    for name, D, dtype, options in (
        ("causal", 64, torch.bfloat16, {}),
        ("full, in two pieces", 96, torch.bfloat16, {"causal": False}),
        ("causal", 128, torch.float16, {}),
        ("causal", 32, torch.float32, {}),
        ("window", 64, torch.bfloat16, {"window": 50}),
        ("documents", 64, torch.bfloat16, {"document_ids": ids}),
        ("soft-cap and ALiBi", 64, torch.bfloat16, {"softcap": 5.0, "alibi_slopes": slopes}),
    ):  # fmt: skip

        def call(device: str, D: int = D, dtype: torch.dtype = dtype, options: dict[str, Any] = options) -> float:
            q, k, v = (random(1, TOKENS, heads, D, dtype=dtype) for heads in (2, 1, 1))
            return compared(
                lambda *t, **o: both_ways(attention, *t, **o), lambda *t, **o: both_ways(reference, *t, **o), device,
                q, k, v, **options,
            )  # fmt: skip

        yield f"{name}, D={D}, {str(dtype).removeprefix('torch.')}", call


def fast() -> Calls:
    """A candidate of each variant and direction, of the smallest head_dim that it is offered for from 64 on."""
    from ..reference.attention import attention as reference

    seen: set[tuple[str, str]] = set()
    for (direction, D), choices in sorted(attention_candidates.found()[0].items(), key=lambda item: item[0][1]):
        for choice in choices if D >= 64 else ():
            if choice.variant in ("plain", "separate") or (direction, choice.variant) in seen:
                continue
            seen.add((direction, choice.variant))

            def call(device: str, trial: Trial = Trial(direction, D, True, choice)) -> float:  # noqa: B008
                launched = [
                    attention_candidates.launched(t, device=device)
                    for t in (trial, Trial(trial.direction, trial.head_dim, True, None))
                ]
                if launched[0] == launched[1]:
                    raise NotImplementedError("no kernel takes it on this device")

                def attend(*t: Tensor) -> Any:
                    return attention_candidates.attend(trial.direction, True, *t)

                def forced(*t: Tensor) -> list[Tensor]:
                    with attention_candidates.forced(trial.direction, trial.choice):
                        if trial.direction == "forward":
                            return [attend(*t)]
                        return both_ways(attend, *t)

                def expected(*t: Tensor) -> Sequence[Any]:
                    return [reference(*t)] if trial.direction == "forward" else both_ways(reference, *t)

                q, k, v = (random(1, FAST_TOKENS, heads, trial.head_dim) for heads in (2, 1, 1))
                return compared(forced, expected, device, q, k, v)

            yield f"{direction}: {words(choice)}, D={D}", call


def decode() -> Calls:
    """Few and many rows, one split and several, keys in a row and in pages, lengths that are not there."""
    from ..kernels.decode_attention import decode_attention
    from ..reference.decode_attention import decode_attention as reference

    lengths = torch.tensor([ROOM - 122, ROOM // 2, 0], dtype=torch.int32)
    for T_q, D, page in ((1, 64, 0), (5, 96, 0), (16, 128, 0), (1, 64, 16), (4, 128, 128)):

        def call(device: str, T_q: int = T_q, D: int = D, page: int = page) -> float:
            options = {}
            cache = (3, ROOM, 2, D)
            if page:
                order = torch.randperm(3 * ROOM // page, generator=torch.Generator().manual_seed(0)).int()
                options["block_table"], cache = order.view(3, -1), (3 * ROOM // page, page, 2, D)
            with torch.no_grad():
                return compared(
                    lambda *t, **o: [decode_attention(*t, **o)], lambda *t, **o: [reference(*t, **o)], device,
                    random(3, T_q, 4, D), random(*cache), random(*cache), lengths, **options,
                )  # fmt: skip

        yield f"{T_q} new, D={D}, {f'pages of {page}' if page else 'in a row'}", call


GROUPS: dict[str, Callable[[], Calls]] = {"plain": plain, "fast": fast, "decode": decode}


def run(group: str, device: str = "cuda", say: Callable[[str], None] = print) -> bool:
    """Make a group's calls; whether all results are right."""
    right = True
    for name, call in GROUPS[group]():
        try:
            error = call(device)
        except NotImplementedError as why:
            say(f"{group}: {name}: left out: {why}")
            continue
        except Exception as why:  # whatever a kernel does is what is asked
            right = False
            say(f"{group}: {name}: FAILED: {report.because(why)}")
            continue
        good = error <= kernels.TOLERANCE["bf16"]
        right &= good
        say(f"{group}: {name}: {'off by' if good else 'WRONG: off by'} {error:.1e}")
    return right


# The processes


def watched(command: Sequence[str | Path], seconds: float, by_tool: bool = True) -> dict[str, Any]:
    """Run a process: what it printed, and ``failed``, why it is not well, or None."""
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    if seconds <= 0:
        return {"said": "", "summary": None, "failed": "not run, so that the run ends in time"}
    try:
        done = subprocess.run(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds,
            env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        said = late.stdout.decode(errors="replace") if isinstance(late.stdout, bytes) else late.stdout or ""
        return {"said": said, "summary": None, "failed": f"not done after {seconds:.0f} s"}
    summaries = SUMMARY.findall(done.stdout)
    failed = None
    if done.returncode == FOUND or any(re.search(r"\b[1-9]\d* (?:error|hazard|warning)", line) for line in summaries):
        failed = "it found something"
    elif done.returncode:
        failed = f"its process ended with {done.returncode}"
    elif by_tool and not summaries:
        failed = "no summary: the tool did not run"
    return {"said": done.stdout, "summary": summaries[-1] if summaries else None, "failed": failed}


def check(
    sanitizer: Path, groups: Sequence[str], tools: Sequence[str], seconds: float = math.inf,
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
        before = [] if not tool else [sanitizer, "--tool", tool, "--error-exitcode", str(FOUND)]
        found = watched([*before, *child, group], left(), bool(tool))
        name = f"{group}, {tool or 'by itself'}"
        report.note(f"{name}: {found['failed'] or found['summary'] or 'right'}")
        return name, found

    with ThreadPoolExecutor(len(GROUPS)) as pool:
        for tool in ("", *tools):
            results |= pool.map(one, [(group, tool) for group in groups])
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
    if (sanitizer := find()) is None:
        print(f"NOT RUN: {MISSING}.")
        print(json.dumps({"ran": False, "reason": MISSING}))
        return 2
    print(f"{sanitizer}", flush=True)
    results = check(sanitizer, groups, tools, math.inf if options.minutes is None else 60 * options.minutes)
    for name, found in results.items():
        print(f"\n{name}: {found['failed'] or 'ok'}{': ' + found['summary'] if found['summary'] else ''}")
        if found["failed"] or name.endswith("by itself"):
            print(found["said"][-20_000:].rstrip())
    failed = [name for name, found in results.items() if found["failed"]]
    print(json.dumps({"ran": True, "processes": len(results), "failed": failed}))
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ConfigError as error:
        sys.exit(f"hornbook: {error}")
