"""Pictures of a run."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from . import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#08519c", "#fd8d3c", "#74c476", "#9e9ac8", "#969696", "#e7969c")


@contextmanager
def _picture(path: Path, width: float = 7, height: float = 4) -> Iterator[Axes]:
    """Axes to draw on; the picture is then written to ``path``, an .svg or .png file, with the same bytes each time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context(
        {"svg.hashsalt": "hornbook", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
        try:
            yield axes
            buffer = io.BytesIO()
            figure.savefig(buffer, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)
        finally:
            plt.close(figure)
    files.write(path, buffer.getvalue())


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
    """
    with _picture(path) as axes:
        if train:
            axes.plot(*zip(*train, strict=True), color="#9ecae1", linewidth=1, label="training batches")
        if heldout:
            axes.plot(*zip(*heldout, strict=True), color="#08519c", marker="o", markersize=3, label="held-out text")
        right = max((x for x, _ in [*train, *heldout]), default=1)
        for name, value in (marks or {}).items():
            axes.axhline(value, color="#777777", linestyle="--", linewidth=0.8)
            axes.annotate(f"{name} {value:.3f}", (right, value), ha="right", va="bottom", fontsize=8, color="#555555")
        lowest = min([y for _, y in [*train, *heldout]] + list((marks or {}).values()), default=0)
        # The first steps are many times higher than all that matters later: leave them out of the picture.
        later = [y for x, y in train if x > right * 0.02] or [1.0]
        axes.set_ylim(max(0, lowest * 0.9), max([*later, *(marks or {}).values()]) * 1.05)
        axes.set(xlabel="step", ylabel=unit)
        if train or heldout:
            axes.legend(frameon=False)


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
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 1.12), ncols=len(series))


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
        axes.legend(frameon=False)
