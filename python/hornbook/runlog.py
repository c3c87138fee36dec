"""What a run tells about itself: log.jsonl, a loss curve, and one line on the terminal."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from . import files, plots
from .errors import CheckpointError


class RunLog:
    """``log.jsonl``: one JSON object a line, on the disk as soon as it is written.

    Args:
        path: the file.
        start: the step that the run goes on from; what the file holds of this step and later ones, from a run
            that was killed after its last checkpoint, is dropped.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        self.path = path
        self.entries = [e for e in read(path) if e.get("step", 0) < start]
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, "".join(json.dumps(entry) + "\n" for entry in self.entries))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (open as long as the run)

    def write(self, **entry: Any) -> None:
        self.entries.append(entry)
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def column(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of every entry that has ``name``."""
        return [(e["step"], e[name]) for e in self.entries if e.get(name) is not None]

    def draw(self, path: Path, *, scale: float = 1.0, marks: dict[str, float] | None = None) -> None:
        """The loss curve; ``scale`` turns a batch's loss (nats a token) into bits per byte."""
        plots.loss_curve(path, _thinned(self.losses(scale)), self.column("heldout_bits_per_byte"), marks)

    def losses(self, scale: float = 1.0) -> list[tuple[int, float]]:
        """(step, loss) of the training batches of text."""
        return [(e["step"], e["loss"] * scale) for e in self.entries if e.get("phase", "text") == "text"]


def _thinned(points: list[tuple[int, float]], most: int = 400) -> list[tuple[int, float]]:
    """Means of neighbouring points where there are more than a picture shows."""
    size = -(-len(points) // most)
    groups = [points[i : i + size] for i in range(0, len(points), size or 1)]
    return [(g[-1][0], sum(y for _, y in g) / len(g)) for g in groups]


def read(path: Path) -> list[dict[str, Any]]:
    """The entries of a log.jsonl; a last line that was cut short by a kill is left out.

    Raises:
        CheckpointError: naming the line that is no entry.
    """
    if not path.is_file():
        return []
    entries = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict) or type(entry.get("step", 0)) is not int:
                raise ValueError
            entries.append(entry)
        except (ValueError, RecursionError):
            if number < len(lines):
                raise CheckpointError(
                    f"{path}: line {number} is no entry of a log; move the file away to go on without it"
                ) from None
    return entries


class Progress:
    """One line that says how far a run is: redrawn on a terminal, a plain line now and then in a pipe.

    Args:
        total: steps.
        start: steps already done.
        quiet: say nothing.
    """

    EVERY = 10.0  # seconds between plain lines

    def __init__(self, total: int, start: int = 0, *, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.total, self.started, self.start = total, time.monotonic(), start
        self._said = self.started
        self._bar = None
        self.quiet = quiet
        console = Console(stderr=True)
        if console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[words]}"),
                console=console, transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task("training", total=total, completed=start, words="")

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, loss: float, tokens_per_second: float) -> None:
        """``step`` steps are done."""
        now = time.monotonic()
        left = (now - self.started) / max(1, step - self.start) * (self.total - step)
        words = f"step {step}/{self.total}  loss {loss:.3f}  {tokens_per_second:,.0f} tokens/s  {clock(left)} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, words=words)
        elif not self.quiet and (now - self._said >= self.EVERY or step == self.total):
            self._said = now
            print(words, file=sys.stderr, flush=True)

    def measured(self, step: int, bits: float) -> None:
        """The model costs ``bits`` a byte on held-out text: a line that stays, with a bar of that length."""
        words = f"step {step:5}  {bits:.3f} bits/byte held-out  "
        room = 60 if self._bar is None else max(1, min(60, self._bar.console.width - len(words) - 1))
        if not math.isnan(bits) and _writes("█"):
            words += "█" * max(1, round(room / 3 * min(bits, 3)))
        if self._bar is not None:
            self._bar.console.print(words, highlight=False)
        elif not self.quiet:
            print(words, file=sys.stderr, flush=True)

    def ended(self, losses: list[tuple[int, float]], unit: str) -> None:
        """The run is over: draw how the loss fell, as a curve on a terminal and in one line elsewhere."""
        losses = losses[len(losses) // 50 :]  # the first are many times higher than all that matters later
        if self.quiet or len(losses) < 2:
            return
        if self._bar is not None and _writes(plots.BARS + "┤"):
            self._bar.stop()
            width = max(20, min(60, self._bar.console.width - 12 - len(unit)))
            for line in plots.text_curve(losses, width=width, unit=unit):
                self._bar.console.print(line, highlight=False, markup=False, style="cyan", soft_wrap=True)
        else:
            curve = plots.sparkline(losses, plain=not _writes(plots.BARS))
            print(f"loss {losses[0][1]:.3f} {curve} {losses[-1][1]:.3f} {unit}", file=sys.stderr, flush=True)


def _writes(text: str) -> bool:
    """Whether stderr's encoding has these characters."""
    try:
        text.encode(getattr(sys.stderr, "encoding", None) or "utf-8")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def clock(seconds: float) -> str:
    """73.2 → "1:13"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
