"""Pictures: readable light and dark, the same each time; curves of text; what a run says at its end."""

from __future__ import annotations

import io
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hornbook import plots
from hornbook.plots import BARS, COLORS, DARK, FAINT, INK, PAPER, sparkline, text_curve
from hornbook.runlog import Progress

FALL = [(step, 4 - step * 0.03) for step in range(1, 101)]


def draw(path: Path) -> str:
    plots.loss_curve(path, FALL, [(50, 2.5), (100, 1.1)], {"trigram": 2.0})
    return path.read_text("utf-8") if path.suffix == ".svg" else ""


def test_an_svg_has_dark_colors_for_all_of_its_light_ones(tmp_path: Path) -> None:
    svg = draw(tmp_path / "loss.svg")
    ElementTree.fromstring(svg)
    rules = re.search(r"@media \(prefers-color-scheme: dark\)\{(.*?)\}</style>", svg)
    assert rules is not None
    drawn = svg.replace(rules[0], "")
    used = set(re.findall(r"(fill|stroke): (#\w{6})", drawn))
    assert {("fill", PAPER), ("fill", INK), ("stroke", COLORS[5]), ("stroke", COLORS[1])} <= used
    ruled = set(re.findall(r'\[style\*="(fill|stroke): (#\w{6})"\]', rules[1]))
    assert used == ruled, "no colour stays light on a dark page"
    assert draw(tmp_path / "again.svg") == svg, "the same bytes each time"


def test_a_png(tmp_path: Path) -> None:
    from matplotlib.image import imread

    draw(tmp_path / "loss.png")
    pixels = imread(tmp_path / "loss.png")
    assert pixels.shape[1] > 900
    assert (pixels[0, 0, :3] == 1).all(), "white ground"


def light(color: str) -> float:
    """Relative luminance (WCAG 2.1)."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((light(a), light(b)))
    return (high + 0.05) / (low + 0.05)


def test_lines_and_letters_stand_out() -> None:
    """W3C asks for 4.5 of letters and 3 of lines; Okabe and Ito's sky blue and purple, on white, have less."""
    for letters in (INK, FAINT):
        assert contrast(letters, PAPER) >= 4.5
        assert contrast(DARK[letters], DARK[PAPER]) >= 4.5
    assert all(contrast(color, PAPER) >= 2.2 for color in COLORS)
    assert all(contrast(DARK[color], DARK[PAPER]) >= 4.5 for color in COLORS)


@pytest.mark.parametrize("points", [[], [(1, 2.0)], [(1, float("nan")), (2, 1.0)]])
def test_nothing_to_draw(points: list[tuple[int, float]], tmp_path: Path) -> None:
    assert text_curve(points) == []
    assert sparkline(points) == ""
    plots.loss_curve(tmp_path / "x.svg", points, [])
    assert (tmp_path / "x.svg").stat().st_size > 1000


def test_a_curve_of_text() -> None:
    lines = text_curve(FALL, width=20, height=4, unit="bits per byte")
    assert lines[0].startswith("3.91 ┤█")
    assert lines[3].startswith("1.06 ┤" + "█" * 15)
    assert lines[4].split() == ["1", "step", "100", "bits", "per", "byte"]
    heights = [
        sum(8 if row[6 + column] == "█" else BARS.index(row[6 + column]) + 1
            for row in lines[:4] if len(row) > 6 + column and row[6 + column] != " ")
        for column in range(20)
    ]  # fmt: skip
    assert heights[0] == 32
    assert heights[-1] == 1
    assert heights == sorted(heights, reverse=True)
    flat = text_curve([(step, 2.0) for step in range(50)])
    assert set(flat[0] + flat[1]) <= set("2.0 ┤")


def test_a_line() -> None:
    assert sparkline(FALL, width=8) == BARS[::-1]
    assert sparkline(FALL, width=8, plain=True) == "@#*+=-:."
    gap = [(1, 1.0), (2, 1.0), (100, 0.0)]
    assert sparkline(gap, width=3) == "██▁", "where no step is, the value before stays"


def ended(monkeypatch, stream: io.TextIOWrapper) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(100) as progress:
        progress.measured(50, 9.0)
        progress.ended(FALL, "bits per byte")
    stream.flush()
    stream.seek(0)
    return stream.read()


def test_what_a_run_says_at_its_end(monkeypatch) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "70")

    class Screen(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    pipe = ended(monkeypatch, io.TextIOWrapper(io.BytesIO(), "utf-8"))
    measured, pipe = pipe.split("\n", 1)
    assert measured == "step    50  9.000 bits/byte held-out  " + "█" * 60
    assert re.fullmatch(rf"loss 3\.910 [{BARS}]{{40}} 1\.000 bits per byte\n", pipe)
    ascii_ = ended(monkeypatch, io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert re.fullmatch(r"step    50 .* held-out  \nloss 3\.910 [@#*+=:.-]{40} 1\.000 bits per byte\n", ascii_)
    screen = ended(monkeypatch, Screen(io.BytesIO(), "utf-8"))
    assert "\x1b[36m" in screen
    assert "┤" in screen
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen).splitlines()
    assert max(len(line.strip("\r")) for line in lines) < 70, "nothing is broken into two lines"
    assert any(line.endswith("█") and "held-out" in line for line in lines)
    monkeypatch.setenv("NO_COLOR", "1")
    screen = ended(monkeypatch, Screen(io.BytesIO(), "utf-8"))
    assert "\x1b[36m" not in screen
    assert "┤" in screen
