"""How the times of the kernels are shown: a line and a table row each, plots, and a digest in a few numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

from .. import files
from . import kernel_goals, report
from .operations import LIBRARIES

NAMES = ("reference", "torch", "torch.compile", "composed", "fused", *LIBRARIES)


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
    notes += [f"- not run, so that --quick ends in time: {case}\n" for case in result.get("left_out", ())]
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


def save(result: dict[str, Any], place: Path) -> None:
    """kernels.json and kernels.md; after every case, so that a run that is stopped leaves what it has."""
    files.write_json(place / "kernels.json", result)
    files.write(place / "kernels.md", markdown(result))


def draw(result: dict[str, Any], place: Path) -> None:
    """A plot for each operation: everybody's share of the floor."""
    for operation in dict.fromkeys(r["operation"] for r in result["rows"]):
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
