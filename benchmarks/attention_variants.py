"""All kernels that could compute attention, timed in turns on the GPU at hand: what fills `kernels.attention_table`.

Which order of matrix products and softmax overlaps best is not to be known without a GPU. So `kernels/` has several,
each in several blocks, and this decides: for each class of calls (direction, head_dim, causal or full, long or short)
those that `attention_trials` found right are timed in turns, and the fastest is printed as a row of the table, unless
it is hardly faster than the plain kernels.

Without a GPU it compiles them, and prints what can be known before: registers, spills, shared memory, and what runs
while the tensor cores do.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import files
from ..kernels.attention_table import Choice, Class
from . import attention_candidates, kernels, report, timing
from .attention_candidates import NAME, STATIC_TARGET, Trial, words
from .attention_trials import SHAPES, in_processes
from .kernel_report import limits_line

GAIN = 1.03
"""times as fast as the plain kernels, at least, or a candidate does not replace them"""
TRIALS_SHARE, ROWS_SHARE = 0.5, 0.85
"""of the time that a run has: until then it tries candidates, and begins to time a class"""


def timed(
    cls: Class,
    candidates: Sequence[Choice | None],
    measure: timing.Measure,
    limits: dict[str, Any],
    *,
    device: str = "cuda",
    dtype: str = "bf16",
    shape: tuple[int, ...] | None = None,
    seconds: float = 1.0,
) -> dict[str, Any]:
    """Time candidates that are right, among them None, what runs without a row, at a class's shape: a row, for JSON."""
    c = attention_candidates.case(cls, SHAPES[cls.long] if shape is None else shape, dtype)
    tensors = c.tensors(device)
    q, k, v = tensors
    dy = torch.randn_like(q)
    flops = c.work("forward" if cls.direction == "forward" else "backward")[1]
    calls: dict[str, timing.Call] = {}
    by_name: dict[str, Choice | None] = {}
    failed: dict[str, str] = {}

    def add(choice: Choice | None) -> None:
        name = words(choice)

        def call(y: Tensor | None = None) -> Any:
            with attention_candidates.forced(cls.direction, choice):
                if y is None:
                    return attention_candidates.attend(cls.direction, cls.causal, q, k, v)
                return torch.autograd.grad(y, tensors, dy, retain_graph=True)

        try:
            made = partial(call, call()) if cls.direction != "forward" else call
            measure(made)
        except Exception as error:  # out of memory, or what happens only at this length
            failed[name] = report.because(error)
        else:
            calls[name], by_name[name] = made, choice

    for choice in candidates:
        add(choice)
    times = timing.round_robin(calls, measure, seconds=seconds) if calls else {}
    both = attention_candidates.together(cls, {by_name[name]: t.median for name, t in times.items()})
    if both is not None and words(both) not in by_name:
        add(both)  # against what it is made of, and what runs without it
        again = sorted(times, key=lambda name: times[name].median)[:1]
        few = {name: calls[name] for name in dict.fromkeys((words(None), *again, words(both))) if name in calls}
        times |= timing.round_robin(few, measure, seconds=seconds / 2)
    ordered = sorted(times, key=lambda name: times[name].median)
    rate = limits["matmul"][dtype]
    row: dict[str, Any] = {
        "class": list(cls),
        "shape": list(c.shape),
        "flops": flops,
        "ms": {name: asdict(times[name]) for name in ordered},
        "of_matmul": {name: flops / (times[name].median / 1000) / rate for name in ordered},
        "failed": failed,
        "chosen": None,
    }
    best = choose({name: times[name].median for name in ordered}, by_name)
    return row | {"chosen": None if best is None else list(best)}


def choose(ms: dict[str, float], candidates: dict[str, Choice | None]) -> Choice | None:
    """The fastest, if it is enough faster than what runs without a row; nothing if that was not timed."""
    if words(None) not in ms:
        return None
    best = min(ms, key=lambda name: ms[name])
    return candidates[best] if ms[words(None)] >= GAIN * ms[best] else None


def table_row(cls: Class, choice: Choice) -> str:
    """A row of `attention_table.TABLE` as Python source."""
    key = f'Class("{cls.direction}", {cls.family}, {cls.head_dim}, {cls.causal}, {cls.long})'
    dq = "" if choice.dq is None else f", {tuple(choice.dq)}"
    value = f'Choice("{choice.variant}", {choice.block_m}, {choice.block_n}, {choice.warps}, {choice.stages}{dq})'
    return f"    {key}: {value},"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of the table that were decided on, as Python source; empty without any."""
    found = [(Class(*r["class"]), attention_candidates.choice_of(r["chosen"])) for r in rows]
    chosen = [table_row(cls, choice) for cls, choice in found if choice is not None]
    return "".join(line + "\n" for line in chosen)


def class_words(cls: Class) -> str:
    length = "more than 2,048 keys" if cls.long else "2,048 keys at most"
    return f"{cls.direction}, head_dim {cls.head_dim}, {'causal' if cls.causal else 'full'}, {length}"


def class_text(row: dict[str, Any]) -> str:
    """A class's candidates by time, as Markdown."""
    cls = Class(*row["class"])
    shape = "x".join(map(str, row["shape"]))
    best = attention_candidates.choice_of(row["chosen"])
    chosen = "no row: the plain kernels" if best is None else words(best)
    if words(None) not in row["ms"]:
        chosen = "no row, as what runs without one is not right or was not timed"
    text = f"\n## {class_words(cls)}\n\nAt {shape}; chosen: {chosen}.\n\n"
    text += report.table(
        ["candidate", "µs", "TFLOP/s", "share of G"],
        [
            [name, report.number(t["median"] * 1000), f"{row['flops'] / t['median'] / 1e9:.0f}", f"{share:.3f}"]
            for (name, t), share in zip(row["ms"].items(), row["of_matmul"].values(), strict=True)
        ],
    )
    return text + "".join(f"\n- {name}: {why}" for name, why in row["failed"].items()) + "\n" * bool(row["failed"])


def markdown(result: dict[str, Any]) -> str:
    """The result as Markdown, the rows of the table at its end."""
    facts = f"{result['date']}, torch {result['torch']}, triton {result['triton']}, hornbook {result['hornbook']}"
    text = f"# Attention's kernels on {result['gpu']}\n\n{limits_line(result)}. {facts}.\n"
    text += "".join(map(class_text, result["rows"]))
    bad = [f"- {name}: {why}\n" for name, why in result["refused"].items()]
    bad += [f"- {note}\n" for note in result["notes"]]
    bad += [f"- not run, so that the run ends in time: {name}\n" for name in result["left_out"]]
    text += "\n## Never chosen, and left out\n\n" + "".join(bad) if bad else ""
    rows = table(result["rows"]) or "    # none: nothing is faster than the plain kernels\n"
    return text + f"\n## Rows for TABLE in kernels/attention_table.py\n\n```python\n{rows}```\n"


def save(result: dict[str, Any], place: Path) -> None:
    """attention-variants.json, .md, and attention-table.txt with the rows to paste."""
    files.write_json(place / "attention-variants.json", result)
    files.write(place / "attention-variants.md", markdown(result))
    files.write(place / "attention-table.txt", table(result["rows"]))


def run(dtypes: str = "bf16", quick: bool = False, minutes: float | None = None, out: Path | None = None) -> Any:
    """``hornbook bench attention --variants``; what was measured."""
    from ..errors import ConfigError

    if dtypes.strip() != "bf16":
        raise ConfigError("--variants chooses kernels by their times in bf16: leave --dtypes out")
    measure = timing.CudaClock()
    workers = min(8, os.cpu_count() or 1)

    def trials(todo: Sequence[Trial], until: float) -> dict[Trial, dict[str, Any]]:
        said = [0]

        def say(trial: Trial, result: dict[str, Any]) -> None:
            said[0] += 1
            outcome = result.get("failed") or f"off by {result['error']:.1e}"
            report.note(f"tried {said[0]} of {len(todo)}: {trial}: {outcome}")

        return in_processes(todo, workers, until, say=say)

    return _run(
        attention_candidates.family(), trials, measure, kernels.limits_of(measure, ("bf16",)), quick, minutes, out
    )


def _run(
    family: int,
    trials: Callable[[Sequence[Trial], float], dict[Trial, dict[str, Any]]],
    measure: timing.Measure,
    limits: dict[str, Any],
    quick: bool = False,
    minutes: float | None = None,
    out: Path | None = None,
    **how: Any,
) -> dict[str, Any]:
    """Try, time, choose, print. ``how`` goes to `timed`."""
    began, limit = time.monotonic(), math.inf if minutes is None else 60 * minutes
    facts = report.machine()
    place = report.folder(out, facts["gpu"] or "cpu")
    choices, notes = attention_candidates.found(family)
    result: dict[str, Any] = facts | {"benchmark": NAME, "minutes": minutes, "limits": limits, "notes": notes}
    result |= {"rows": [], "refused": {}, "left_out": []}
    print(limits_line(result), flush=True)
    todo = attention_candidates.classes(choices, family, quick)
    asked = dict.fromkeys(
        Trial(c.direction, c.head_dim, c.causal, choice)
        for c in todo
        for choice in (None, *choices[c.direction, c.head_dim])
    )
    outcomes = trials(list(asked), began + TRIALS_SHARE * limit)
    result["refused"] = {str(t): outcome["failed"] for t, outcome in outcomes.items() if "failed" in outcome}
    result["left_out"] = [str(t) for t in asked if t not in outcomes]
    for cls in todo:
        if (time.monotonic() - began) / limit > ROWS_SHARE:
            result["left_out"].append(class_words(cls))
            continue
        good = [
            choice
            for choice in (None, *choices[cls.direction, cls.head_dim])
            if "error" in outcomes.get(Trial(cls.direction, cls.head_dim, cls.causal, choice), {})
        ]
        try:
            row = timed(cls, good, measure, limits, seconds=1.0 if minutes is None else 0.6, **how)
        except Exception as error:  # out of memory for the inputs, or a GPU that has given up
            result["notes"].append(f"{class_words(cls)}: {report.because(error)}")
            continue
        result["rows"].append(row)
        print(class_text(row), flush=True)
        save(result, place)
    result["seconds"] = time.monotonic() - began
    save(result, place)
    print(markdown(result))
    report.note(f"{place}: attention-variants.json, attention-variants.md and attention-table.txt")
    print(json.dumps(digest(result) | {"out": str(place)}))
    return result


def digest(result: dict[str, Any]) -> dict[str, Any]:
    """The result in a few numbers."""
    refused = result["refused"].values()
    return {
        "gpu": result["gpu"],
        "classes": len(result["rows"]),
        "chosen": sum(r["chosen"] is not None for r in result["rows"]),
        "wrong": sum(why.startswith("WRONG") for why in refused),
        "refused": len(refused),
        "left_out": len(result["left_out"]),
    }


STATIC = ("candidate", "kernel", "warps", "registers", "spilled", "shared", "programs", "hgmma", "overlap")


def static_table(rows: Sequence[dict[str, Any]]) -> str:
    """What the compiler made of the candidates, as Markdown."""
    return report.table(
        STATIC,
        [
            [r["shape"], r["kernel"], r["warps"], r["error"], *[""] * 5]
            if "error" in r
            else [r["shape"], *(shown(r.get(column)) for column in STATIC[1:])]
            for r in sorted(rows, key=lambda r: (r["shape"], r["kernel"]))
        ],
    )


def shown(value: Any) -> str:
    """A cell; of what `sass.overlap` counts, how many exponentials run beside a product of matrices."""
    if isinstance(value, dict) and {"beside", "exponentials"} <= set(value):
        return f"{value['beside']} of {value['exponentials']}"
    return "–" if value is None else str(value)


def without_cuda(minutes: float | None = None) -> None:
    """Say that there is no GPU, and print how the candidates compile for sm_90."""
    from .. import ops
    from . import aot

    reason = "there is no CUDA GPU here, so nothing can be timed"
    print(f"{reason[0].upper()}{reason[1:]}.")
    summary: dict[str, Any] = {"cuda": False, "compiled": 0, "reason": reason}
    if (problem := ops.kernels_problem()) is not None:
        print(f"The kernels cannot be compiled either: {problem}.")
        print(json.dumps(summary | {"reason": problem}))
        return
    for note in attention_candidates.found()[1]:
        print(f"No candidates: {note}.")
    report.note("compiling attention's kernels in bf16 for sm_90; first it is found out which there are")
    progress = report.Progress(aot.cores())
    seconds = None if minutes is None else 60 * minutes * 0.8
    rows = aot.compile_all(progress=progress, only={NAME}, targets=(STATIC_TARGET,), dtypes=("bf16",), seconds=seconds)
    failed = [r for r in rows if "error" in r]
    print("What the compiler makes of attention's kernels for sm_90, each candidate's own ones:\n")
    print(static_table(rows))
    summary |= {"compiled": len(rows) - len(failed), "failed": len(failed)}
    summary["with_spills"] = sum(bool(r.get("spilled")) for r in rows)
    if left := progress.of - len(rows):
        print(f"Not compiled, so that the run ends in time: {left} of {progress.of}.")
        summary["left_out"] = left
    print(json.dumps(summary))
