"""What the tokenizer's benchmark has to show: its goals, and its results as tables and as a picture.

A row of the results is what one contestant did at one task:

    task, title, peer, way, version, share      who and what; a share of n: every n-th document, as it is slow
    measures     name → unit, median, least and most of the rounds, and ratio: how many times as much as ours it takes;
                 cpu_ratio is the same of the processor's time, which on a busy machine says more, for a single thread
    check        ids: documents that differ from tiktoken; training: tokens in the same order as Hornbook's
    lost         why it did not go on, if it did not
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import files
from . import report

Row = dict[str, Any]
OURS = "hornbook"
NO_TEXTS = "buffer"  # a way that is not given texts


@dataclass(frozen=True)
class Goal:
    """Either a number of ours that is to be at most ``most``, or one to be ``least`` times better than ``against``,
    a library (its fastest way) or "best" (of all whose ids are right)."""

    words: str
    task: str
    measure: str
    least: float = 0.0
    most: float = 0.0
    against: str = "best"


def _training() -> list[Goal]:
    found = []
    for words, task, peer, least in (
        ("English, 1 thread", "train-en-1", "rustbpe", 6.0),
        ("English, 1 thread", "train-en-1", "tokenizers", 16.0),
        ("English, 2 threads", "train-en-2", "rustbpe", 10.0),
        ("English, 2 threads", "train-en-2", "tokenizers", 20.0),
        ("English, gpt2 pattern", "train-en-1-gpt2", "gigatoken", 3.0),
        ("code, 1 thread", "train-code-1", "rustbpe", 7.0),
        ("many languages, 1 thread", "train-multi-1", "rustbpe", 3.5),
    ):
        found.append(Goal(f"train: {words}", task, "train", least=least, against=peer))
    for words, task in (("1 thread", "train-en-1"), ("2 threads", "train-en-2")):
        found.append(Goal(f"train: memory above the corpus, {words}, MB", task, "memory", most=60.0))
    found.append(Goal("train: one word of 1.1 MB, s", "train-word", "train", most=0.3))
    return found


def _encoding() -> list[Goal]:
    found = []
    for words, task, against, cold, warm in (
        ("English, 1 thread, list", "encode-en-list-1", "fastokens", 1.4, 1.4),
        ("English, 1 thread, list", "encode-en-list-1", "tiktoken", 15.0, 15.0),
        ("English, 1 thread, array", "encode-en-array-1", "best", 1.3, 1.15),
        ("code, 2 threads, array", "encode-code-array-2", "best", 1.5, 1.25),
        ("many languages, array", "encode-multi-array-1", "best", 1.4, 1.2),
    ):
        found.append(Goal(f"encode: {words}, first pass", task, "cold", least=cold, against=against))
        found.append(Goal(f"encode: {words}, warm", task, "warm", least=warm, against=against))
    return found


GOALS = (
    *_training(),
    *_encoding(),
    Goal("a call with 500 characters", "calls", "500 characters", least=1 / 0.85),
    Goal("decode from a list", "decode", "list", least=1.45),
    Goal("decode from numpy", "decode", "numpy", least=3.5),
    *(Goal(f"a million {words}", "worst", words, least=1.0) for words in ('"a"', "spaces", "newlines", '"!"')),
    Goal("a million random letters", "worst", "letters", least=1.5),
    Goal("load, ms", "load", "load", most=50.0),
    Goal("memory of one, MB", "load", "memory", most=30.0),
    Goal("pickle and back, ms", "load", "pickle", most=20.0),
    Goal("deepcopy, ms", "load", "deepcopy", most=20.0),
)


def is_right(row: Row) -> bool:
    """Whether its ids are those of tiktoken, as far as they could be compared."""
    return not (row.get("check") or {}).get("differ")


def judge(goals: Sequence[Goal], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """How the goals came out, those whose task was run: "value" (median, least, most), "against" and "met"."""
    found = []
    for goal in goals:
        there = [row for row in rows if row["task"] == goal.task and goal.measure in row["measures"]]
        if goal.most:
            ours = [row["measures"][goal.measure] for row in there if row["peer"] == OURS]
            value, against, met = (ours[0], "", ours[0]["median"] <= goal.most) if ours else (None, "", None)
            alone = None
        else:
            value, against, alone = None, "", None
            for row in there:
                rival = goal.against == row["peer"] or (goal.against == "best" and is_right(row))
                ratio = row["measures"][goal.measure].get("ratio")
                if row["peer"] == OURS or row["way"] == NO_TEXTS or not rival or not ratio:
                    continue
                if value is None or ratio["median"] < value["median"]:
                    value, against = ratio, name(row)
                    alone = row["measures"][goal.measure].get("cpu_ratio") if row["threads"] == 1 else None
            met = None if value is None else value["median"] >= goal.least
        if there:
            found.append(
                {
                    "goal": goal.words,
                    "target": f"<= {goal.most:g}" if goal.most else f">= {goal.least:.3g} x {goal.against}",
                    "value": {key: value[key] for key in ("median", "least", "most")} if value else None,
                    "cpu": alone["median"] if alone else None,
                    "against": against,
                    "met": met,
                }
            )
    return found


def name(row: Row) -> str:
    peer = Path(row["peer"]).name
    return f"{peer} ({row['way']})" if row["way"] else peer


def verdict(row: Row) -> str:
    """What there is to say of a row's ids, or of its end."""
    check = row.get("check") or {}
    said = []
    if row["lost"]:
        said.append(row["lost"])
    if check.get("differ"):
        said.append(f"WRONG: {check['differ']} of {check['documents']} documents")
    if "same" in check and check["same"] < check["of"]:
        said.append(
            f"its tokens are ours up to number {check['same']:,} of {check['of']:,}, and {check['shared']:.2%} in all"
        )
    if "unknown" in check:
        said.append(check["unknown"])
    if row["share"] > 1:
        said.append(f"1 of {row['share']} documents")
    return "; ".join(said)


def shown(measure: Mapping[str, Any]) -> str:
    """ "219 (×1.41)": the number, and how many times as much as ours it takes."""
    text = report.number(measure["median"])
    if measure.get("ratio"):
        text += f" (×{report.number(measure['ratio']['median'])})"
    return text


def line(row: Row) -> str:
    """A row in one line."""
    told = [f"{n} {shown(m)} {m['unit']}" for n, m in row["measures"].items()]
    return f"  {name(row):24} {', '.join(told)}" + (f"  [{said}]" if (said := verdict(row)) else "")


def show(result: Mapping[str, Any]) -> None:
    """Print the goals, if there are any."""
    from rich.console import Console
    from rich.table import Table

    judged = result["goals"]
    if not judged:
        return
    made = Table("goal", "target", "measured", "rounds", "cpu time", "against", "met", box=None, pad_edge=False)
    for one in judged:
        met = {True: "[green]yes[/]", False: "[red]no[/]", None: "–"}[one["met"]]
        made.add_row(one["goal"], one["target"], *_measured(one), one["against"], met)
    Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(made)


def _measured(one: Mapping[str, Any]) -> tuple[str, str, str]:
    value = one["value"]
    if value is None:
        return "–", "", ""
    spread = f"{report.number(value['least'])} to {report.number(value['most'])}"
    return report.number(value["median"]), spread, report.number(one["cpu"]) if one["cpu"] else ""


def markdown(result: Mapping[str, Any]) -> str:
    """The whole result."""
    rows: list[Row] = result["rows"]
    machine = result["machine"]
    text = f"# The tokenizer on {machine['cpu']}\n\n{result['date']}, {machine['cores']} cores, {machine['system']}, "
    text += f"Python {machine['python']}, hornbook {machine['hornbook']}; {result['rounds']} rounds"
    text += ", quick: not to be quoted" if result["quick"] else ""
    text += f". {result['limits']['words']}\n\n"
    text += "Texts: " + "; ".join(f"{n}: {t['about']}, {t['bytes'] / 1e6:.1f} MB" for n, t in result["texts"].items())
    text += f". Vocabulary: {result['vocabulary']}.\n\n"
    text += "Medians over the rounds. In brackets how many times as long, or as much, it takes as Hornbook does, the "
    text += "median of the ratios inside each round.\n\n"
    if result["goals"]:
        head = ["goal", "target", "measured", "rounds", "by processor time", "against", "met"]
        met = {True: "yes", False: "no", None: "–"}
        lines = [[g["goal"], g["target"], *_measured(g), g["against"], met[g["met"]]] for g in result["goals"]]
        text += "## Goals\n\n" + report.table(head, lines)
    for task in dict.fromkeys(row["task"] for row in rows):
        here = [row for row in rows if row["task"] == task]
        units = {n: m["unit"] for row in here for n, m in row["measures"].items()}
        text += f"\n## {here[0]['title']}\n\n"
        if limit := here[0].get("limit"):
            text += f"At most {limit}.\n\n"
        head = [
            "",
            *(f"{n}, {unit}" for n, unit in units.items()),
            *["M instructions/MB"] * counted(here),
            "to be said",
        ]
        text += report.table(head, [[*_cells(row, list(units), counted(here)), verdict(row) or "–"] for row in here])
    if missing := result["missing"]:
        text += "\nNot here: " + "; ".join(f"{peer}: {why}" for peer, why in missing.items()) + ".\n"
    if not counted(rows):
        text += "\nInstructions: not available, this machine does not count them.\n"
    return text


def counted(rows: Sequence[Row]) -> bool:
    """Whether instructions were counted anywhere."""
    return any(measure.get("instructions_per_byte") for row in rows for measure in row["measures"].values())


def _cells(row: Row, names: Sequence[str], with_instructions: bool) -> list[str]:
    cells = [f"{name(row)} {row['version']}"]
    cells += [shown(row["measures"][n]) if n in row["measures"] else "–" for n in names]
    if with_instructions:
        found = [m.get("instructions_per_byte") for m in row["measures"].values()]
        cells.append(" / ".join(report.number(value) for value in found if value) or "–")
    return cells


def save(result: Mapping[str, Any], place: Path) -> None:
    """``place`` with .json and .md at the end; after every task, so that a run that is stopped leaves what it has."""
    files.write_json(place.with_name(place.name + ".json"), result)
    files.write(place.with_name(place.name + ".md"), markdown(result))


def draw(result: Mapping[str, Any], place: Path) -> None:
    """A panel for each task with a bar for each contestant, ``place`` with .svg and .png at the end."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in result["rows"] if row["measures"]]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    if not tasks:
        return
    style = {"svg.hashsalt": "hornbook", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(style):
        columns = min(2, len(tasks))
        lines = -(-len(tasks) // columns)
        most = max(sum(row["task"] == task for row in rows) for task in tasks)
        figure, grid = plt.subplots(
            lines, columns, figsize=(6 * columns, lines * (0.8 + 0.22 * most)), layout="constrained", squeeze=False
        )
        for axes in grid.flat[len(tasks) :]:
            axes.set_visible(False)
        for axes, task in zip(grid.flat, tasks, strict=False):
            _panel(axes, [row for row in rows if row["task"] == task])
        figure.suptitle(f"{result['machine']['cpu']}, {result['date']}")
        for suffix in (".svg", ".png"):
            buffer = io.BytesIO()
            metadata = {"Date": None} if suffix == ".svg" else None
            figure.savefig(buffer, format=suffix[1:], dpi=110, metadata=metadata)
            files.write(place.with_name(place.name + suffix), buffer.getvalue())
        plt.close(figure)


def _panel(axes: Any, rows: Sequence[Row]) -> None:
    names = list(dict.fromkeys(n for row in rows for n in row["measures"] if n != "memory"))
    height = 0.8 / max(1, len(names))
    light, dark = (
        ("#c6dbef", "#9ecae1", "#bcbddc", "#c7e9c0", "#d9d9d9"),
        ("#08519c", "#3182bd", "#54278f", "#006d2c", "#525252"),
    )
    for n, measure in enumerate(names):
        at = [i + (n - (len(names) - 1) / 2) * height for i in range(len(rows))]
        values = [row["measures"][measure]["median"] if measure in row["measures"] else 0.0 for row in rows]
        colours = [(dark if row["peer"] == OURS else light)[n % len(light)] for row in rows]
        axes.barh(at, values, height, color=colours, label=measure)
    labels = [name(row) + ("" if is_right(row) else " (wrong ids)") for row in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.invert_yaxis()
    found = [row["measures"][n] for row in rows for n in names if n in row["measures"]]
    unit = found[0]["unit"] if found else ""
    axes.set(title=rows[0]["title"], xlabel=unit if unit.endswith("/s") else f"{unit}, less is better")
    shown = [measure["median"] for measure in found if measure["median"] > 0]
    if shown and max(shown) > 100 * min(shown):
        axes.set_xscale("log")
    if len(names) > 1:
        axes.legend(frameon=False, fontsize=7, loc="lower right")
