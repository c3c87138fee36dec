"""How the times of the kernels are shown: a line and a table row each, plots, and a digest in a few numbers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

from .. import files
from . import kernel_goals, report
from .operations import LIBRARIES, OPERATIONS

NAMES = ("reference", "torch", "torch.compile", "composed", "fused", *LIBRARIES)


SAME = ("gpu", "date", "torch", "triton", "hornbook")
"""What results must have in common to stand in one table."""


def limits_line(result: dict[str, Any]) -> str:
    """What the card can do."""
    rates = ", ".join(f"{name} {rate / 1e12:.0f} TFLOP/s" for name, rate in result["limits"]["matmul"].items())
    return f"{result['gpu']}: copies {result['limits']['copy'] / 1e12:.2f} TB/s (read + written); matmul {rates}"


def title(r: dict[str, Any], direction: bool = True) -> str:
    """A row's case."""
    shape = "x".join(map(str, r["shape"]))
    return " ".join(filter(None, [r["operation"], r["form"], shape, r["dtype"], r["direction"] * direction]))


def line(r: dict[str, Any]) -> str:
    """A row in one line."""
    times = ", ".join(f"{name} {report.number(t['median'] * 1000)}" for name, t in r["ms"].items())
    compared = f"; fused is at {r['of_floor']['fused']:.2f} of the floor" if "fused" in r["ms"] else ""
    if r["vs_reference"]:
        compared += f", {report.number(r['vs_reference'])}x reference"
    if r["vs_best_peer"]:
        compared += f", {report.number(r['vs_best_peer'])}x {r['best_peer']}"
    compared += "".join(f"; goal {kernel_goals.words(check)}" for check in r.get("goals", ()))
    verdict = "" if r["verdict"] == "ok" else f"  {r['verdict']}"
    notes = "".join(f"\n    {name}: {text}" for name, text in r["notes"].items())
    return f"{title(r)}: µs: floor {report.number(r['floor_ms'] * 1000)}, {times}{compared}{verdict}{notes}"


def markdown(result: dict[str, Any]) -> str:
    """The result as Markdown: times, memory, launches, notes."""
    rows: list[dict[str, Any]] = result["rows"]
    names = [name for name in NAMES if any(name in r["ms"] for r in rows)]
    facts = f"{result['date']}, torch {result['torch']}, triton {result['triton']}, hornbook {result['hornbook']}"
    text = f"# Kernels on {result['gpu']}\n\n{limits_line(result)}. {facts}.\n\n"
    if len(runs := result.get("runs", ())) > 1:
        copies = ", ".join(f"{run['limits']['copy'] / 1e12:.2f}" for run in runs)
        text += f"These are the rows of {len(runs)} runs, each of which measured the limits anew: copies {copies} TB/s."
        text += "\n\n"
    text += (
        "Median µs, and in brackets the share of the floor that this is; the floor is what the bytes (memory) or the "
        "products of matrices (matmul) of a call take at the card's measured limit. The last columns compare `fused`: "
        "above 1 it is faster.\n\n"
    )

    def cell(r: dict[str, Any], name: str) -> str:
        if name not in r["ms"]:
            return "–"
        return f"{report.number(r['ms'][name]['median'] * 1000)} ({r['of_floor'][name]:.2f})"

    def best(r: dict[str, Any]) -> str:
        return f"{report.number(r['vs_best_peer'])} ({r['best_peer']})" if r["vs_best_peer"] else "–"

    text += report.table(
        ["case", "floor", *names, "against reference", "against the best peer", "goals", "check"],
        [
            [
                title(r),
                f"{report.number(r['floor_ms'] * 1000)} {r['limit']}",
                *(cell(r, name) for name in names),
                report.number(r["vs_reference"]),
                best(r),
                "; ".join(map(kernel_goals.words, r.get("goals", ()))) or "–",
                r["verdict"],
            ]
            for r in rows
        ],
    )
    text += "\nPeak memory of a call, MiB, its result and what it keeps for backward included:\n\n"
    text += report.table(
        ["case", *names],
        [[title(r), *(report.number(_mebibytes(r["peak_bytes"].get(name))) for name in names)] for r in rows],
    )
    if found := result.get("overhead_us"):
        names = [name for name in NAMES if any(name in of for of in found.values())]
        text += "\nThe program's own time per call on a tiny shape, µs, forward / backward:\n\n"
        text += report.table(
            ["operation", *names],
            [
                [name, *(" / ".join(report.number(us) for us in of[n].values()) if n in of else "–" for n in names)]
                for name, of in found.items()
            ],
        )
    text += _host(result)
    notes = [f"- {title(r, direction=False)}: {name}: {words}\n" for r in rows for name, words in r["notes"].items()]
    notes += [f"- not run, so that the run ends in time: {case}\n" for case in result.get("left_out", ())]
    return text + ("\nNotes:\n\n" + "".join(dict.fromkeys(notes)) if notes else "")


def _host(result: dict[str, Any]) -> str:
    """What the program itself costs: a table of its goals, for each operation."""
    host = kernel_goals.of_host(result.get("overhead_us", {}))
    blocks = kernel_goals.of_blocks(result.get("blocks", {}))
    if not host and not blocks:
        return ""
    rows = []
    for name in dict.fromkeys([*host, *blocks]):
        calls = "; ".join(map(kernel_goals.words, host.get(name, ()))) or "–"
        block = kernel_goals.words(blocks[name]) if name in blocks else "–"
        rows.append([name, calls, block, result.get("blocks", {}).get(name, {}).get("case", "–")])
    text = (
        "\nThe program's own time for a call of `fused` with autograd, and a CUDA graph of calls in a row, there and "
    )
    text += "back, with tensors as large as in a step of a small model:\n\n"
    return text + report.table(["operation", "host time", "a captured block", "of calls on"], rows)


def _mebibytes(size: int | None) -> float | None:
    return None if size is None else size / 2**20


def earlier(place: Path, facts: dict[str, Any]) -> dict[str, Any] | None:
    """The result that is in a folder already, if it is of the same card, versions and day."""
    try:
        found = json.loads((place / "kernels.json").read_text(encoding="utf-8"))
        return found if all(found[key] == facts[key] for key in SAME) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def merged(before: dict[str, Any] | None, result: dict[str, Any]) -> dict[str, Any]:
    """A run's result with what earlier ones found: so the parts of a benchmark add up. Of an operation in a number
    format only the rows of the last run stay."""
    run = {"operations": list(dict.fromkeys(r["operation"] for r in result["rows"]))}
    run |= {key: result.get(key) for key in ("minutes", "limits", "seconds")}
    whole = result | {"runs": [*(before or {}).get("runs", ()), run]}
    if before is None:
        return whole
    mine = {(r["operation"], r["dtype"]) for r in result["rows"]}
    rows = [r for r in before["rows"] if (r["operation"], r["dtype"]) not in mine] + result["rows"]
    order = list(OPERATIONS)
    whole["rows"] = sorted(rows, key=lambda r: order.index(r["operation"]) if r["operation"] in order else len(order))
    whole["limits"] = result["limits"] | {"matmul": before["limits"]["matmul"] | result["limits"]["matmul"]}
    for key in ("overhead_us", "blocks"):
        whole[key] = before.get(key, {}) | {name: of for name, of in result.get(key, {}).items() if of}
    measured = {title(r, direction=False) for r in rows} | {f"{name}: host time" for name in whole["overhead_us"]}
    left_out = dict.fromkeys([*before.get("left_out", ()), *result.get("left_out", ())])
    whole["left_out"] = [case for case in left_out if case not in measured]
    return whole


def save(result: dict[str, Any], place: Path, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """kernels.json and kernels.md; after every case, so that a run that is stopped leaves what it has. Returns what
    they hold: the result with that of ``before``."""
    whole = merged(before, result)
    files.write_json(place / "kernels.json", whole)
    files.write(place / "kernels.md", markdown(whole))
    return whole


def draw(result: dict[str, Any], place: Path, only: Collection[str] | None = None) -> None:
    """A plot for each operation, or those of ``only``: everybody's share of the floor."""
    for operation in dict.fromkeys(r["operation"] for r in result["rows"]):
        if only is not None and operation not in only:
            continue
        rows = [r for r in result["rows"] if r["operation"] == operation]
        series = {name: [r["of_floor"].get(name) for r in rows] for name in NAMES}
        series = {name: values for name, values in series.items() if any(values)}
        labels = [title(r).removeprefix(operation).strip() for r in rows]
        axis = "share of what the card can do (1: nobody can be faster)"
        report.bars(place / f"{operation}.svg", f"{operation} on {result['gpu']}", axis, labels, series)


def digest(result: dict[str, Any]) -> dict[str, Any]:
    """The result in a few numbers: for each operation the median share of the floor, and mean ratios."""
    operations = {}
    for operation in dict.fromkeys(r["operation"] for r in result["rows"]):
        rows = [r for r in result["rows"] if r["operation"] == operation]
        found = {key: [r[key] for r in rows if r[key]] for key in ("vs_reference", "vs_best_peer")}
        shares = [r["of_floor"]["fused"] for r in rows if "fused" in r["of_floor"]]
        operations[operation] = {
            "of_floor": round(median(shares), 3) if shares else None,
            **{key: round(geometric_mean(values), 3) if values else None for key, values in found.items()},
        }
    verdicts = Counter(r["verdict"].partition(":")[0] for r in result["rows"])
    return {
        "gpu": result["gpu"],
        "copy_tb_per_s": round(result["limits"]["copy"] / 1e12, 3),
        "matmul_tflop_per_s": {name: round(rate / 1e12, 1) for name, rate in result["limits"]["matmul"].items()},
        "rows": len(result["rows"]),
        "wrong": verdicts["WRONG"],
        "failed": verdicts["FAILED"],
        "left_out": len(result.get("left_out", ())),
        "goals": kernel_goals.counted(result),
        "fused": operations,
    }
