"""Pictures of a run, as files and as text.

An .svg file is light or dark as its reader's system is, with a background of its own, so that it can be read on any
page. What knows no such thing shows the light one; a .png file is light.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours (https://jfly.uni-koeln.de/color), which the colour-blind can tell apart: blue, orange, green,
# purple, black, sky blue.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#4d4d4d", "#56b4e9")
INK, FAINT, GRID, PAPER = "#1f2328", "#656d76", "#d8dee4", "#ffffff"
# What stands for each of them where the page is dark: as far from a dark ground as the others are from white.
DARK = dict(
    zip(
        (*COLORS, INK, FAINT, GRID, PAPER),
        ("#58a6e0", "#ff8b4d", "#3fbf9b", "#e39cc4", "#b0b8c1", "#8fd0f5", "#e6e9ee", "#a0a8b3", "#343b45", "#14171c"),
        strict=True,
    )
)
BARS, PLAIN_BARS = "▁▂▃▄▅▆▇█", ".:-=+*#@"


@contextmanager
def _picture(path: Path, width: float = 7, height: float = 4) -> Iterator[Axes]:
    """Axes to draw on; the picture is then written to ``path``, an .svg or .png file, with the same bytes each time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
        axes.set_axisbelow(True)
        try:
            yield axes
            buffer = io.BytesIO()
            figure.savefig(buffer, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)
        finally:
            plt.close(figure)
    content = buffer.getvalue()
    files.write(path, _with_dark_colors(content.decode()) if path.suffix == ".svg" else content)


STYLE: dict[Any, Any] = {
    "svg.hashsalt": "hornbook", "font.size": 10, "savefig.dpi": 150, "figure.facecolor": PAPER, "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT,
    "xtick.color": FAINT, "ytick.color": FAINT, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": GRID, "grid.linewidth": 0.8, "legend.frameon": False,
}  # fmt: skip


def _with_dark_colors(svg: str) -> str:
    """Rules for dark pages: each colour that the picture uses, wherever it is set, becomes its dark one."""
    rules = "".join(
        f'[style*="{what}: {light}"]{{{what}:{dark} !important}}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
        if f"{what}: {light}" in svg
    )
    style = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    return re.sub(r"(<svg[^>]*>)", lambda match: f"{match[1]}\n {style}", svg, count=1)


def loss_curve(
    path: Path,
    train: Sequence[tuple[int, float]],
    heldout: Sequence[tuple[int, float]],
    marks: Mapping[str, float] | None = None,
    *,
    unit: str = "bits per byte",
) -> None:
    """Draw how a loss fell.

    Args:
        path: an .svg or .png file.
        train, heldout: (step, loss) pairs, in the same unit.
        marks: name → a loss to compare with, drawn as a horizontal line.
        unit: of the losses.
    """
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    train, heldout = ([(x, y) for x, y in points if math.isfinite(y)] for points in (train, heldout))
    with _picture(path) as axes:
        if train:
            axes.plot(*zip(*train, strict=True), color=COLORS[5], linewidth=1, label="training batches")
        if heldout:
            dots = {"marker": "o", "markersize": 4, "markeredgewidth": 0}
            axes.plot(*zip(*heldout, strict=True), color=COLORS[1], linewidth=1.6, label="held-out text", **dots)
            x, y = heldout[-1]
            axes.annotate(
                f"{y:.3f}", (x, y), (4, 0), textcoords="offset points", va="center", fontsize=9, color=COLORS[1]
            )
        points = [*train, *heldout]
        right = max((x for x, _ in points), default=1)
        for name, value in (marks or {}).items():
            axes.axhline(value, color=FAINT, linestyle=(0, (4, 3)), linewidth=1)
            at_the_edge = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right"}
            axes.annotate(f"{name} {value:.3f}", (1, value), (-2, 3), fontsize=9, color=FAINT, **at_the_edge)
        lowest = min([y for _, y in points] + list((marks or {}).values()), default=0)
        # The first steps are many times higher than all that matters later: leave them out of the picture.
        later = [y for x, y in train if x > right * 0.02] or [y for _, y in points] or [1.0]
        axes.set_ylim(max(0, lowest * 0.9), max([*later, *(marks or {}).values()]) * 1.05)
        axes.set(xlabel="training step", ylabel=f"loss ({unit})")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        if points:
            axes.legend()


def bars(path: Path, series: Mapping[str, Sequence[float]], groups: Sequence[str], *, unit: str) -> None:
    """Draw bars side by side.

    Args:
        path: an .svg or .png file.
        series: name → a number for each group.
        groups: what stands below the bars.
        unit: what the numbers are.
    """
    with _picture(path, width=max(5, 1.5 + 0.18 * len(groups) * (len(series) + 1))) as axes:
        width = 0.8 / max(1, len(series))
        for index, (name, values) in enumerate(series.items()):
            places = [group - 0.4 + width * (index + 0.5) for group in range(len(groups))]
            axes.bar(places, values, width * 0.92, color=COLORS[index % len(COLORS)], label=name)
        turned = sum(map(len, groups)) > 60
        axes.set_xticks(range(len(groups)), groups, rotation=40 if turned else 0, ha="right" if turned else "center")
        axes.set(ylabel=unit)
        axes.legend(loc="upper left", bbox_to_anchor=(0, 1.12), ncols=len(series))


def histogram(path: Path, series: Mapping[str, Mapping[int, float]], *, xlabel: str, ylabel: str, most: int) -> None:
    """Draw shares of whole numbers as steps.

    Args:
        path: an .svg or .png file.
        series: name → number → share.
        most: the last step holds this number and all above.
    """
    with _picture(path) as axes:
        for index, (name, shares) in enumerate(series.items()):
            heights = [shares.get(x, 0.0) for x in range(most)] + [sum(y for x, y in shares.items() if x >= most)]
            edges = [x - 0.5 for x in range(most + 2)]
            axes.stairs(heights, edges, color=COLORS[index % len(COLORS)], linewidth=1.5, label=name)
        ticks = range(0, most + 1, 5)
        axes.set_xticks(ticks, [f"≥ {x}" if x == most else str(x) for x in ticks])
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.set_xlim(-0.5, most + 0.5)
        axes.legend()


def text_curve(points: Sequence[tuple[int, float]], *, width: int = 60, height: int = 6, unit: str = "") -> list[str]:
    """A curve of block characters, with its largest and smallest value and the steps it runs over.

    Args:
        points: (step, value) pairs in the order of the steps; a column shows the mean of those that fall into it.
        width, height: of the curve itself, in characters.

    Returns:
        Lines; none if there are fewer than two points.
    """
    columns = _columns(points, width)
    if len(columns) < 2:
        return []
    low, high = min(columns), max(columns)
    labels = {0: f"{high:.2f}", height - 1: f"{low:.2f}"}
    wide = max(map(len, labels.values()))
    eighths = [1 + round((value - low) / ((high - low) or 1) * (8 * height - 1)) for value in columns]
    lines = []
    for row in range(height):
        below = 8 * (height - 1 - row)
        cells = "".join(" " if n <= below else BARS[min(n - below, 8) - 1] for n in eighths)
        lines.append(f"{labels.get(row, ''):>{wide}} ┤{cells}".rstrip())
    first, last = f"{points[0][0]:,}", f"step {points[-1][0]:,}"
    lines.append(f"{'':{wide}}  {first}{last:>{max(len(columns) - len(first), len(last) + 1)}}  {unit}".rstrip())
    return lines


def sparkline(points: Sequence[tuple[int, float]], *, width: int = 40, plain: bool = False) -> str:
    """The same in one line; ``plain``: of ASCII characters."""
    columns = _columns(points, width)
    if len(columns) < 2:
        return ""
    low, high = min(columns), max(columns)
    signs = PLAIN_BARS if plain else BARS
    return "".join(signs[round((value - low) / ((high - low) or 1) * 7)] for value in columns)


def _columns(points: Sequence[tuple[int, float]], width: int) -> list[float]:
    """The means of the points in each of ``width`` equal stretches of the steps, at most; an empty one repeats the one
    before it."""
    points = [(x, y) for x, y in points if math.isfinite(y)]
    if len(points) < 2:
        return [y for _, y in points]
    first, last = points[0][0], points[-1][0]
    width = min(width, len(points))
    groups: list[list[float]] = [[] for _ in range(width)]
    for x, y in points:
        groups[min(width - 1, (x - first) * width // max(1, last - first))].append(y)
    columns: list[float] = []
    for group in groups:
        columns.append(sum(group) / len(group) if group else columns[-1])
    return columns
