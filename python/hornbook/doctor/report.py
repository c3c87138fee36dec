"""A finding, and how findings are written: for people, and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any, Literal, TextIO

Status = Literal["ok", "note", "problem"]

FORMAT = 1
TITLES = {
    "here": "Here",
    "packages": "Packages",
    "devices": "Devices",
    "kernels": "Kernels",
    "operations": "Operations",
    "memory": "Memory",
    "places": "Places",
    "variables": "Environment",
    "self-test": "Self-test",
}
MARKS: dict[Status, tuple[str, str, str]] = {  # where there is Unicode, where not, and a colour
    "ok": ("✓", "+", "green"),
    "note": ("·", "-", "yellow"),
    "problem": ("✗", "X", "bold red"),
}


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        section: a key of `TITLES`.
        name: what was looked at; the same in every report.
        status: "ok"; "note" for what is worth knowing but breaks nothing, such as that there is no GPU; "problem" for
            what is broken.
        text: what was found.
        cure: what to do, if there is something to do.
        data: the numbers of it, for programs.
    """

    section: str
    name: str
    status: Status
    text: str
    cure: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


def to_json(checks: Iterable[Check], *, seconds: float) -> str:
    """All findings as one JSON object.

    Its keys, which stay the same until "format" changes:

        format      1
        status      "ok", or "problem" if any check has a problem (the exit status is then 1)
        seconds     how long the examination took
        checks      a list of objects with section, name, status, text, cure and data, as in `Check`. There may be more
                    in a later version; names do not change their meaning.
    """
    kept = list(checks)
    status = "problem" if any(check.status == "problem" for check in kept) else "ok"
    whole = {"format": FORMAT, "status": status, "seconds": round(seconds, 2), "checks": [asdict(c) for c in kept]}
    return json.dumps(whole, indent=1, ensure_ascii=False)


def write(checks: Iterable[Check], out: TextIO) -> list[Check]:
    """Print findings as they come, section by section, and at the end the problems with their cures."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=out, highlight=False, soft_wrap=True)
    kept: list[Check] = []
    for section, group in groupby(checks, key=lambda check: check.section):
        console.print(Text(TITLES.get(section, section), "bold"))
        for check in group:
            kept.append(check)
            console.print(_line(check, console.encoding))
    problems = [check for check in kept if check.status == "problem"]
    if not problems:
        console.print(Text("\nNothing is broken.", "green"))
        return kept
    console.print(Text(f"\n{len(problems)} problem{'s' * (len(problems) > 1)}:", "bold red"))
    for check in problems:
        console.print(Text(f"  {check.name}: {check.text}" + (f"\n    cure: {check.cure}" if check.cure else "")))
    return kept


def _line(check: Check, encoding: str) -> Any:
    from rich.text import Text

    mark, plain, color = MARKS[check.status]
    try:
        mark.encode(encoding)
    except (LookupError, UnicodeEncodeError):
        mark = plain
    line = Text("  ").append(mark, color).append(f" {check.name:20} {check.text}")
    if check.cure:
        line.append(f"\n{'':25}{check.cure}", "yellow" if check.status == "note" else "red")
    return line
