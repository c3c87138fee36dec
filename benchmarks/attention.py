"""How fast attention is: against the card's matrix products and memory, PyTorch's own under their names, flash-attn.

    hornbook bench attention --only forward,backward --minutes 8
    hornbook bench attention --variants

Operations are counted as 4 · B · H · D for each pair of a query and a key that see each other, 2.5 times as many
backward, whatever a kernel computes twice; so TFLOP/s of different kernels can be compared, and with the rate of a
plain product of matrices, G, which no attention reaches. Windows and decoding read and write more than they compute:
theirs is a multiple of the time that a copy takes for as many bytes.

Everybody takes turns at each case (see `timing`), after being held against the reference in float64 on that very case.
`attention_cases` has the cases, `attention_peers` who is timed, `attention_goals` what ``fused`` is to reach, and
`attention_report` shows it. `attention_variants` times the kernels among which `kernels.attention_table` chooses.
"""

from __future__ import annotations

import importlib
import json
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError, nearest
from . import (
    attention_candidates,
    attention_cases,
    attention_goals,
    attention_peers,
    attention_report,
    attention_variants,
    kernels,
    report,
    timing,
)
from .attention_peers import DECODE_NAMES, FLEX, NAMES
from .kernels import COMPILING_SHARE, ROWS_SHARE
from .operations import Case

GROUPS = tuple(attention_cases.groups())


def cases(only: str = "", dtypes: str = "bf16", quick: bool = False) -> list[Case]:
    """What the options ask for; what goals are about first.

    Raises:
        ConfigError: for options that make no sense.
    """
    names = [name.strip() for name in only.split(",") if name.strip()]
    for name in names:
        if name not in GROUPS:
            raise ConfigError(f"there is no {name!r} to time{nearest(name, GROUPS)}; there are {', '.join(GROUPS)}")
    formats = [name.strip() for name in dtypes.split(",") if name.strip()]
    for name in formats or [""]:
        if name not in timing.FORMATS:
            raise ConfigError(f"there is no number format {name!r}{nearest(name, timing.FORMATS)}")
    # A case of several groups is there once, in all the directions that they are about.
    found: dict[tuple[str, str, tuple[int, ...], str], tuple[Case, set[str]]] = {}
    for group, members in attention_cases.groups(quick).items():
        if names and group not in names:
            continue
        for dtype in formats:
            for operation, form, shape in members:
                directions = (group,) if group in ("forward", "backward") else operation.directions
                case = Case(operation, form, shape, dtype)
                found.setdefault((operation.name, form, shape, dtype), (case, set()))[1].update(directions)
    todo = []
    for case, directions in found.values():
        wanted = tuple(direction for direction in case.operation.directions if direction in directions)
        todo.append(replace(case, operation=replace(case.operation, directions=wanted)))
    return kernels.in_order(todo, attention_goals.about)


def row(r: dict[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
    """A row of `kernels.measure_case` with what attention is judged by."""
    rate = limits["matmul"][r["dtype"]]
    medians = {name: times["median"] for name, times in r["ms"].items()}
    r["memory_ms"] = r["bytes"] / limits["copy"] * 1000
    r["tflops"] = {name: r["flops"] / ms / 1e9 for name, ms in medians.items()}
    r["of_matmul"] = {name: r["flops"] / (ms / 1000) / rate for name, ms in medians.items()}
    peers = {name: medians[name] for name in attention_peers.DECODE_PEERS + attention_peers.PEERS if name in medians}
    best = min(peers, key=lambda name: peers[name], default=None)
    fused = medians.get("fused")
    r["best_peer"] = best
    r["vs_best_peer"] = peers[best] / fused if best is not None and fused else None
    r["variant"] = chosen(r)
    r["goals"] = []
    return r


def chosen(r: dict[str, Any]) -> dict[str, Any] | None:
    """The launch table's kernel for a row, if it has one: it has a say about causal and full attention only."""
    if r["operation"] != "attention" or not set(attention_cases.FORMS[r["form"]]) <= {"causal"}:
        return None
    if not torch.cuda.is_available():
        return None
    from ..kernels import attention_table

    causal = attention_cases.FORMS[r["form"]]["causal"]
    found = attention_table.find(r["direction"], attention_candidates.family(), r["shape"][3], causal, r["shape"][1])
    return None if found is None else found._asdict()


def measured(
    case: Case,
    measure: timing.Measure,
    limits: dict[str, Any],
    *,
    device: str = "cuda",
    names: Sequence[str] | None = None,
    seconds: float = 1.0,
) -> list[dict[str, Any]]:
    """A row for each direction of a case; as `kernels.measure_case`."""
    if names is None:
        names = DECODE_NAMES if case.operation.name == "decode" else NAMES
    find = partial(attention_peers.found, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SDPA says of each backend at length why it cannot; the error is noted
        rows = kernels.measure_case(case, measure, limits, device=device, names=names, seconds=seconds, find=find)
    return [row(r, limits) for r in rows]


def run(
    only: str = "",
    dtypes: str = "bf16",
    quick: bool = False,
    minutes: float | None = None,
    out: Path | None = None,
    variants: bool = False,
) -> dict[str, Any] | None:
    """``hornbook bench attention``; what was measured, or None without a CUDA GPU."""
    if minutes is not None and not minutes > 0:
        raise ConfigError(f"minutes is a time to end in, above 0, not {minutes}")
    if variants and only:
        raise ConfigError("--variants times the kernels of the launch table in all its classes: leave --only out")
    todo = cases(only, dtypes, quick)
    if minutes is None and quick:
        minutes = report.QUICK_MINUTES
    if not torch.cuda.is_available():
        attention_variants.without_cuda(minutes)
        return None
    report.require_compiler()
    functorch: Any = importlib.import_module("torch._functorch.config")
    with functorch.patch(donated_buffer=False):  # as in `kernels.run`: backward is timed many times through one graph
        return attention_variants.run(dtypes, quick, minutes, out) if variants else _run(todo, minutes, out)


def _run(
    todo: list[Case],
    minutes: float | None,
    out: Path | None,
    device: str = "cuda",
    measure: timing.Measure | None = None,
    limits: dict[str, Any] | None = None,
) -> dict[str, Any]:
    began, limit = time.monotonic(), math.inf if minutes is None else 60 * minutes
    facts = report.machine()
    place = report.folder(out, facts["gpu"] or "cpu")
    measure = timing.CudaClock() if measure is None else measure
    dtypes = {case.dtype for case in todo}
    limits = kernels.limits_of(measure, sorted(dtypes), device) if limits is None else limits
    result: dict[str, Any] = facts | {"benchmark": "attention", "minutes": minutes, "limits": limits}
    result |= {"rows": [], "left_out": []}
    before = attention_report.earlier(place, facts, dtypes)
    print(attention_report.limits_line(result), flush=True)
    whole = attention_report.save(result, place, before)
    for case in todo:
        spent = (time.monotonic() - began) / limit
        if spent > ROWS_SHARE:
            result["left_out"].append(str(case))
            continue
        slow = spent > COMPILING_SHARE
        names = DECODE_NAMES if case.operation.name == "decode" else NAMES
        names = [name for name in names if not (slow and name == FLEX)]
        try:
            if device == "cuda":
                torch.cuda.empty_cache()
            rows = measured(case, measure, limits, device=device, names=names, seconds=1.0 if minutes is None else 0.3)
        except Exception as error:  # out of memory for the inputs themselves, or a GPU that has given up
            notes = {"all": report.because(error)}
            rows = [
                row(kernels.row(case, direction, {}, limits, {}, {}, dict(notes)), limits)
                for direction in case.operation.directions
            ]
        for r in rows:
            if slow:
                r["notes"][FLEX] = "not run, so that the run ends in time"
        result["rows"] += rows
        whole = attention_report.save(result, place, before)
        for r in rows:
            print(attention_report.line(r), flush=True)
    if result["left_out"]:
        whole = attention_report.save(result, place, before)
    result["seconds"] = whole["seconds"] = time.monotonic() - began
    drawn = attention_report.draw(whole, place)
    print("\n" + attention_report.markdown(whole))
    report.note(f"{place}: attention.json, attention.md, {', '.join(path.name for path in drawn) or 'no plot'}")
    print(json.dumps(attention_report.digest(whole) | {"out": str(place)}))
    return whole
