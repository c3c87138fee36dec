"""What benchmarks have in common on their way out: where results go, which card it was, tables and bars.

torch is imported inside, as the tokenizer's benchmark does without it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from importlib import util
from pathlib import Path
from typing import Any

from .. import __version__, files

QUICK_MINUTES = 4.0
SECONDS_A_KERNEL = 1.1
"""of one core, to compile it for one GPU, about"""


def results(out: Path | None) -> Path:
    """Where results go, made if need be: ``out``, or else the results of the checkout that this file is in, or of the
    one that is the working directory, or else ``./benchmark-results``."""
    if out is None:
        checkouts = (Path(__file__).resolve().parent / "results", Path("benchmarks/results"))
        out = next((path for path in checkouts if path.is_dir()), Path("benchmark-results"))
    out.mkdir(parents=True, exist_ok=True)
    return out


def folder(out: Path | None, card: str, today: date | None = None) -> Path:
    """``out``, or else a folder NAME-OF-THE-CARD-DATE in `results`; made if need be."""
    if out is None:
        out = results(None) / f"{re.sub(r'[^a-z0-9]+', '-', card.lower()).strip('-')}-{today or date.today()}"
    out.mkdir(parents=True, exist_ok=True)
    return out


def machine() -> dict[str, Any]:
    """What a result depends on besides the code."""
    import torch

    from .. import doctor

    has_triton = util.find_spec("triton") is not None  # not imported: that would decide on the interpreter
    facts: dict[str, Any] = {
        "date": str(date.today()),
        "gpu": None,
        "cpu": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": doctor.version("triton") if has_triton else None,
        "hornbook": __version__,
    }
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(torch.cuda.current_device())
        facts |= {
            "gpu": card.name,
            "capability": f"{card.major}.{card.minor}",
            "multiprocessors": card.multi_processor_count,
            "memory_bytes": card.total_memory,
            "l2_bytes": card.L2_cache_size,
            "cuda": torch.version.cuda,
        }
    return facts


def without_cuda(
    only: set[str] | None = None,
    dtypes: tuple[str, ...] = ("bf16",),
    quick: bool = False,
    minutes: float | None = None,
) -> None:
    """What a benchmark does where there is no CUDA GPU: say so, and print how the kernels compile for those GPUs.

    Args:
        only: operations; all if not given.
        dtypes: number formats.
        quick: for sm_90 alone.
        minutes: to end in; what there is no time for is counted.
    """
    from .. import ops
    from . import aot

    print("There is no CUDA GPU here, so nothing can be timed.")
    summary: dict[str, Any] = {"cuda": False, "compiled": 0}
    if (problem := ops.kernels_problem()) is not None:
        print(f"The kernels cannot be compiled either: {problem}.")
        print(json.dumps(summary | {"reason": problem}))
        return
    targets = (90,) if quick else tuple(aot.TARGETS)
    families = ", ".join(f"sm_{target}" for target in targets)
    end = "" if minutes is None else f", within {minutes:g} minutes"
    note(f"compiling kernels in {', '.join(dtypes)} for {families}{end}; first it is found out which there are")
    progress = Progress(aot.cores())
    seconds = None if minutes is None else 60 * minutes * 0.8  # Python has to start twice, too
    rows = aot.compile_all(progress=progress, only=only, targets=targets, dtypes=dtypes, seconds=seconds)
    failed = [row for row in rows if "error" in row]
    summary["compiled"] = len(rows) - len(failed)
    summary |= {"failed": len(failed), "with_spills": sum(bool(row.get("spilled")) for row in rows)}
    print("What the compiler makes of the kernels, for each kind of GPU (compute capability):\n")
    print(aot.markdown(rows))
    if left := progress.of - len(rows):
        print(f"Not compiled, so that the run ends in time: {left} of {progress.of}.")
        summary["left_out"] = left
    print(json.dumps(summary))


class Progress:
    """A line about how long it will take, then one every ten seconds."""

    of = 0

    def __init__(self, cores: int) -> None:
        self.cores, self.next = cores, time.monotonic()

    def __call__(self, done: int, of: int) -> None:
        self.of, now = of, time.monotonic()
        if done == 0:
            minutes = of * SECONDS_A_KERNEL / self.cores / 60
            note(f"{of} to compile on {self.cores} cores: about {minutes:.1f} minutes, if none is in Triton's cache")
        elif done == of or now >= self.next:
            note(f"compiled {done} of {of}")
        else:
            return
        self.next = now + 10


def require_compiler() -> None:
    """Kernels in Triton's interpreter would be timed thousands of times too slow."""
    from ..errors import ConfigError
    from ..kernels import interpreter

    if interpreter.is_on():
        raise ConfigError(f"{interpreter.VARIABLE}={os.environ[interpreter.VARIABLE]}: unset it to time kernels")


def note(message: str) -> None:
    """A line to stderr."""
    print(message, file=sys.stderr, flush=True)


def because(error: BaseException) -> str:
    """An exception in one short line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown; all columns but the first are flush right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def number(value: float | None, digits: int = 3) -> str:
    """A number rounded to so many significant digits; a dash for none."""
    return "–" if value is None else f"{float(f'{value:.{digits}g}'):,.12g}"


LINES = ("#969696", "#fd8d3c", "#74c476", "#9e9ac8", "#e7969c", "#525252", "#bcbd22", "#17becf", "#8c564b", "#6baed6")
COLOURS = ("#bdbdbd", "#737373", "#fdae6b", "#9ecae1", "#08519c", "#74c476", "#9e9ac8", "#e7969c")


@contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes to draw on, then written to ``path``, an .svg file: the same bytes for the same numbers."""
    import io

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context(
        {"svg.hashsalt": "hornbook", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
        try:
            yield figure, axes
            buffer = io.BytesIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None})
        finally:
            plt.close(figure)
    files.write(path, buffer.getvalue())


def bars(
    path: Path, title: str, axis: str, labels: Sequence[str], series: Mapping[str, Sequence[float | None]]
) -> None:
    """Draw groups of bars from top to bottom, one group a label, with a line at 1.

    Args:
        path: an .svg file.
        axis: what the length of a bar is.
        series: name → a number for each label, or None.
    """
    height = 0.8 / max(1, len(series))
    with _figure(path, 8, 1 + len(labels) * (0.3 + 0.13 * len(series))) as (figure, axes):
        for n, (name, values) in enumerate(series.items()):
            at = [row + (n - (len(series) - 1) / 2) * height for row in range(len(labels))]
            axes.barh(at, [v or 0.0 for v in values], height, label=name, color=COLOURS[n % len(COLOURS)])
        axes.axvline(1.0, color="#777777", linestyle="--", linewidth=0.8)
        axes.set_yticks(range(len(labels)), list(labels))
        axes.invert_yaxis()
        axes.set(xlabel=axis, title=title)
        figure.legend(loc="outside lower center", ncols=4, frameon=False)


def lines(
    path: Path,
    title: str,
    axes_names: tuple[str, str],
    series: Mapping[str, Mapping[int, float]],
    marks: Mapping[str, float] | None = None,
) -> None:
    """Draw a line for each of ``series`` over lengths, which double from tick to tick.

    Args:
        path: an .svg file.
        axes_names: what lies on the horizontal axis, and on the vertical one.
        series: name → length → number. The name "fused" is drawn last and thickest.
        marks: name → number, a dashed line across.
    """
    with _figure(path, 8, 4.5) as (figure, axes):
        ticks = sorted({length for points in series.values() for length in points})
        for n, (name, points) in enumerate(series.items()):
            at = sorted(points)
            mine = name == "fused"
            axes.plot(
                at, [points[x] for x in at], label=name, marker="o", markersize=3 + mine, zorder=2 + mine,
                linewidth=2.4 if mine else 1.2, color="#08519c" if mine else LINES[n % len(LINES)],
            )  # fmt: skip
        for name, value in (marks or {}).items():
            axes.axhline(value, color="#777777", linestyle="--", linewidth=0.8)
            axes.annotate(name, (0, value), (3, 3), xycoords=("axes fraction", "data"), textcoords="offset points")
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.set_ylim(bottom=0)
        axes.set(xlabel=axes_names[0], ylabel=axes_names[1], title=title)
        figure.legend(loc="outside lower center", ncols=4, frameon=False)
