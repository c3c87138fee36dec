"""How the times of attention are shown: a line and a table row each, plots over lengths, the goals, a digest."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from .. import files
from ..kernels.attention_table import Choice
from . import attention_goals, kernel_goals, report
from .attention_candidates import words
from .attention_peers import DECODE_NAMES, NAMES
from .kernel_report import SAME, limits_line, title
from .operations.attention import sizes

Row = dict[str, Any]
ALL = tuple(dict.fromkeys((*NAMES[:-2], "FlashInfer", *NAMES[-2:])))
COLUMNS = {True: DECODE_NAMES, False: NAMES}


def of_memory(r: Row) -> bool:
    """Whether a row is to be read as a multiple of the memory floor, and not as operations per second."""
    return r["operation"] == "decode" or r["form"].startswith("window")


def rate(r: Row, name: str) -> str:
    """What somebody reached in a row: µs and how many times the floor, or TFLOP/s and the share of G."""
    if name not in r["ms"]:
        return "–"
    ms = r["ms"][name]["median"]
    if of_memory(r):
        return f"{report.number(ms * 1000)} µs ({ms / r['memory_ms']:.2f} ×)"
    return f"{r['tflops'][name]:.0f} ({r['of_matmul'][name]:.2f})"


def line(r: Row) -> str:
    """A row in one line."""
    unit = "the memory floor: " if of_memory(r) else "TFLOP/s (share of matmul): "
    found = ", ".join(f"{name} {rate(r, name)}" for name in ALL if name in r["ms"])
    goals = "".join(f"; goal {kernel_goals.words(check)}" for check in r.get("goals", ()))
    verdict = "" if r["verdict"] == "ok" else f"  {r['verdict']}"
    notes = "".join(f"\n    {name}: {text}" for name, text in r["notes"].items())
    return f"{title(r)}: {unit}{found or 'nobody'}{goals}{verdict}{notes}"


def variant(r: Row) -> str:
    """The kernels that ``fused`` ran on, as far as the launch table has a say."""
    chosen = r.get("variant")
    if not chosen:
        return "plain" if r["operation"] == "attention" else "–"
    return words(Choice(**chosen))


def documents_against_one(rows: list[Row]) -> list[list[str]]:
    """For each row of packed documents: its time as a share of that of one document as long as all of them, and what
    that share would be if only the pairs of tokens that see each other counted."""
    found = []
    for r in rows:
        if not r["form"].endswith("documents") or "fused" not in r["ms"]:
            continue
        for one in rows:
            same = all(one[key] == r[key] for key in ("operation", "shape", "dtype", "direction"))
            if same and one["form"] == "causal" and "fused" in one["ms"]:
                share = r["ms"]["fused"]["median"] / one["ms"]["fused"]["median"]
                found.append([title(r), f"{share:.3f}", f"{r['flops'] / one['flops']:.3f}"])
    return found


def markdown(result: dict[str, Any]) -> str:
    """The result as Markdown: goals, rates, memory, notes."""
    rows: list[Row] = result["rows"]
    facts = f"{result['date']}, torch {result['torch']}, triton {result['triton']}, hornbook {result['hornbook']}"
    text = f"# Attention on {result['gpu']}\n\n{limits_line(result)}. {facts}.\n\n"
    text += (
        "G is the rate of a bf16 product of two 8192 x 8192 matrices, C the bandwidth of a copy, both measured in this "
        "run. Operations: 4 B H D for each pair of a query and a key that see each other, backward 2.5 times as many, "
        "whatever is computed twice. `fused` gives the same bits every time; `any order` is its way back with "
        "`deterministic=False`. Everybody was first held against the reference in float64.\n\nGoals:\n\n"
    )
    text += report.table(
        ["goal", "verdict", "rows", "worst"],
        [[g["goal"], g["verdict"], g["rows"], report.number(g["worst"])] for g in attention_goals.summary(rows)],
    )
    for memory, head in (
        (False, "TFLOP/s, and in brackets the share of G (of matmul in the row's number format)"),
        (True, "Median µs, and in brackets how many times what its bytes take at C"),
    ):
        for decode in (False, True):
            some = [r for r in rows if of_memory(r) == memory and (r["operation"] == "decode") == decode]
            if not some:
                continue
            names = [name for name in COLUMNS[decode] if any(name in r["ms"] for r in some)]
            letters = "B x T_q x T x H x D x H_kv" if decode else "B x T x H x D (x H_kv)"
            text += f"\n{head}; shapes are {letters}:\n\n"
            text += report.table(
                ["case", *names, "kernels", "goals", "check"],
                [
                    [
                        title(r),
                        *(rate(r, name) for name in names),
                        variant(r),
                        "; ".join(map(kernel_goals.words, r.get("goals", ()))) or "–",
                        r["verdict"],
                    ]
                    for r in some
                ],
            )
    if packed := documents_against_one(rows):
        text += "\nPacked documents: the time as a share of one document's of the same length in all:\n\n"
        text += report.table(["case", "share", "of the pairs"], packed)
    names = [name for name in ALL if any(name in r["peak_bytes"] for r in rows)]
    if names:
        text += "\nPeak memory of a call, MiB, its result and what it keeps for backward included:\n\n"
        text += report.table(["case", *names], [[title(r), *(_mebibytes(r, name) for name in names)] for r in rows])
    notes = [f"- {title(r, direction=False)}: {name}: {words}\n" for r in rows for name, words in r["notes"].items()]
    notes += [f"- not run, so that the run ends in time: {case}\n" for case in result.get("left_out", ())]
    return text + ("\nNotes:\n\n" + "".join(dict.fromkeys(notes)) if notes else "")


def _mebibytes(r: Row, name: str) -> str:
    size = r["peak_bytes"].get(name)
    return report.number(None if size is None else size / 2**20)


def earlier(place: Path, facts: dict[str, Any], dtypes: set[str]) -> list[Row]:
    """The rows that are in a folder already, if they are of the same card, versions and day."""
    try:
        found = json.loads((place / "attention.json").read_text(encoding="utf-8"))
        return found["rows"] if all(found[key] == facts[key] for key in SAME) else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def save(result: dict[str, Any], place: Path, before: list[Row] | None = None) -> dict[str, Any]:
    """attention.json and attention.md: the result, and ``before`` it what earlier runs found of other cases. Returns
    what they hold."""
    mine = {title(r) for r in result["rows"]}
    whole = result | {"rows": [r for r in before or () if title(r) not in mine] + result["rows"]}
    attention_goals.judge(whole["rows"])
    measured = {title(r, direction=False) for r in whole["rows"]}
    whole["left_out"] = [case for case in result["left_out"] if case.partition(":")[0] not in measured]
    whole["goals"] = attention_goals.summary(whole["rows"])
    files.write_json(place / "attention.json", whole)
    files.write(place / "attention.md", markdown(whole))
    return whole


def draw(result: dict[str, Any], place: Path) -> list[Path]:
    """TFLOP/s over lengths, for each direction and head_dim of causal attention; bars for what memory limits."""
    rows, drawn = result["rows"], []
    kinds = dict.fromkeys(
        (r["direction"], r["shape"][3], r["dtype"])
        for r in rows
        if r["operation"] == "attention" and r["form"] == "causal"
    )
    for direction, D, dtype in kinds:
        series: dict[str, dict[int, float]] = {}
        for r in rows:
            if (r["operation"], r["form"], r["direction"], r["dtype"]) != ("attention", "causal", direction, dtype):
                continue
            B, T, H, D_, H_kv = sizes(r["shape"])
            if D_ == D and H == H_kv and B * T * H == _tokens(rows, D):
                for name in (name for name in NAMES if name in r["tflops"]):
                    series.setdefault(name, {})[T] = r["tflops"][name]
        if max(map(len, series.values()), default=0) < 2:
            continue  # no line
        suffix = "" if dtype == "bf16" else f"-{dtype}"
        path = place / f"attention-{direction}-{D}{suffix}.svg"
        marks = {f"G, {dtype}": result["limits"]["matmul"][dtype] / 1e12}
        head = f"attention, {direction}, causal, D = {D}, {dtype}, on {result['gpu']}"
        report.lines(path, head, ("tokens", "TFLOP/s"), series, marks)
        drawn.append(path)
    for kind, name in (("window", "attention-window"), ("decode", "attention-decode")):
        some = [r for r in rows if of_memory(r) and (r["operation"] == "decode") == (kind == "decode") and r["ms"]]
        if some:
            series_ = {n: [r["memory_ms"] / r["ms"][n]["median"] if n in r["ms"] else None for r in some] for n in ALL}
            series_ = {n: values for n, values in series_.items() if any(values)}
            axis = "share of the copy's bandwidth"
            path = place / f"{name}.svg"
            report.bars(path, f"{kind} on {result['gpu']}", axis, [title(r) for r in some], series_)
            drawn.append(path)
    return drawn


def _tokens(rows: list[Row], D: int) -> int:
    """B · T · H of most rows of that head_dim: those make a line."""
    counted = Counter(
        r["shape"][0] * r["shape"][1] * r["shape"][2]
        for r in rows
        if r["operation"] == "attention" and r["form"] == "causal" and r["shape"][3] == D and len(r["shape"]) == 4
    )
    return counted.most_common(1)[0][0] if counted else 0


def digest(result: dict[str, Any]) -> dict[str, Any]:
    """The result in a few numbers."""
    verdicts = Counter(r["verdict"].partition(":")[0] for r in result["rows"])
    goals = Counter(g["verdict"] for g in result["goals"])
    return {
        "gpu": result["gpu"],
        "copy_tb_per_s": round(result["limits"]["copy"] / 1e12, 3),
        "matmul_tflop_per_s": {name: round(rate / 1e12, 1) for name, rate in result["limits"]["matmul"].items()},
        "rows": len(result["rows"]),
        "wrong": verdicts["WRONG"],
        "failed": verdicts["FAILED"],
        "left_out": len(result["left_out"]),
        "goals": {name: goals[name] for name in ("met", "missed", "unmeasured")},
    }
