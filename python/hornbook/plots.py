"""Pictures of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from . import files


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
    import io

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context(
        {"svg.hashsalt": "hornbook", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
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
        buffer = io.BytesIO()
        figure.savefig(buffer, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)
    files.write(path, buffer.getvalue())
