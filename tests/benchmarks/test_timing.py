"""Timing, with clocks that say what the test wants."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from hornbook.benchmarks import report, timing
from hornbook.benchmarks.operations import OPERATIONS

ROOT = Path(__file__).parents[2]


class Clock:
    """Each call says itself how long it took; what was called is kept."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def __call__(self, call: Callable[[], Any]) -> float:
        name, milliseconds = call()
        self.called.append(name)
        return milliseconds


def test_summary() -> None:
    assert timing.summary([5, 1, 2, 4, 3]) == timing.Times(median=3, least=1, low=2, high=4, calls=5)
    assert timing.summary([1, 2, 3, 10]) == timing.Times(median=2.5, least=1, low=1.75, high=4.75, calls=4)
    assert timing.summary([7]) == timing.Times(7, 7, 7, 7, 1)


def test_candidates_take_turns() -> None:
    """a, b, c, then c, b, a; the warm-up, ten times as slow, does not count."""
    clock = Clock()
    sofar = {"a": 0, "b": 0, "c": 0}

    def candidate(name: str, milliseconds: float) -> timing.Call:
        def call() -> tuple[str, float]:
            sofar[name] += 1
            return name, milliseconds * (10 if sofar[name] <= 1 else 1) + sofar[name] / 1000

        return call

    calls = {name: candidate(name, ms) for name, ms in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
    times = timing.round_robin(calls, clock, seconds=0.0421, least=2, most=50, warmup=2)
    assert "".join(clock.called) == "abc" * 2 + "abccba" * 3 + "abc"  # 42 ms are 7 rounds of 6 ms
    assert {name: t.calls for name, t in times.items()} == {"a": 7, "b": 7, "c": 7}
    assert [round(t.median, 3) for t in times.values()] == [1.006, 2.006, 3.006]
    assert times["a"].least == pytest.approx(1.003)


def test_rounds_are_at_least_and_at_most() -> None:
    for milliseconds, rounds in ((0.0, 9), (0.001, 9), (1e6, 4)):
        times = timing.round_robin({"x": lambda: ("x", milliseconds)}, Clock(), seconds=1, least=4, most=9)  # noqa: B023
        assert times["x"].calls == rounds


def test_rates_come_from_the_clock() -> None:
    """A copy of 1 kB in 2 ms is 1 MB/s, as each byte is read and written; n³ products and sums are 2 n³ operations."""

    def two_milliseconds(call: Callable[[], Any]) -> float:
        call()
        return 2.0

    assert timing.copy_bandwidth(two_milliseconds, "cpu", size=1000) == pytest.approx(1e6)
    assert timing.matmul_rate(two_milliseconds, "fp32", "cpu", size=16) == pytest.approx(2 * 16**3 / 0.002)


def test_launch_overhead() -> None:
    """The host's time of 10 calls, of which each takes 3 µs, but for a hiccup in one of the three repeats."""
    clock = {"now": 0.0, "calls": 0, "synchronized": 0}

    def call() -> None:
        clock["calls"] += 1
        clock["now"] += 3e-6 if clock["calls"] != 15 else 1.0

    def synchronize() -> None:
        clock["synchronized"] += 1
        clock["now"] += 5.0  # must not count

    took = timing.launch_overhead(call, synchronize, calls=10, repeats=3, now=lambda: clock["now"])
    assert took == pytest.approx(3.0)
    assert (clock["calls"], clock["synchronized"]) == (31, 4)


def test_host_clock() -> None:
    assert 0 < timing.host_clock(lambda: torch.ones(1000).sum()) < 10_000


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (0.0012345, "0.00123"), (1.006, "1.01"), (99.96, "100"), (1234.5, "1,230")],
)
def test_numbers(value: float | None, text: str) -> None:
    assert report.number(value) == text


def test_because() -> None:
    assert report.because(ValueError("one\ntwo")) == "ValueError: one"
    assert report.because(KeyError()) == "KeyError"
    assert len(report.because(ValueError("x" * 1000))) < 200


def test_tables() -> None:
    assert report.table(["a", "b"], [["x", 1]]) == "| a | b |\n| --- | ---: |\n| x | 1 |\n"


def test_results_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert report.folder(tmp_path / "mine", "NVIDIA H200") == tmp_path / "mine"
    assert (tmp_path / "mine").is_dir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "__file__", str(tmp_path / "site-packages" / "report.py"))
    day = date(2026, 1, 2)
    assert report.folder(None, "NVIDIA H200", day) == Path("benchmark-results/nvidia-h200-2026-01-02")
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    assert report.folder(None, "A100-SXM4 80GB", day) == Path("benchmarks/results/a100-sxm4-80gb-2026-01-02")
    (tmp_path / "site-packages" / "results").mkdir(parents=True)
    assert report.folder(None, "x", day) == tmp_path / "site-packages" / "results" / "x-2026-01-02"


def test_bars(tmp_path: Path) -> None:
    report.bars(tmp_path / "x.svg", "softmax", "share", ["one", "two"], {"fused": [0.9, None], "torch": [0.5, 0.4]})
    drawn = (tmp_path / "x.svg").read_text(encoding="utf-8")
    assert drawn.startswith("<?xml")
    assert drawn.rstrip().endswith("</svg>")
    again = tmp_path / "y.svg"
    report.bars(again, "softmax", "share", ["one", "two"], {"fused": [0.9, None], "torch": [0.5, 0.4]})
    assert again.read_text(encoding="utf-8") == drawn, "the same numbers give the same file"


@pytest.mark.skipif(sys.platform == "win32", reason="a script for Linux")
def test_gpu_script() -> None:
    script = ROOT / "benchmarks" / "gpu.sh"
    subprocess.run(["bash", "-n", script], check=True)
    for wrong in (["a"], [".", "."], ["--part", "b"], ["--part"]):
        done = subprocess.run(["bash", script, *wrong], capture_output=True, text=True)
        assert done.returncode == 2
        assert "usage" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a script for Linux")
def test_gpu_script_goes_on_after_a_failure(tmp_path: Path) -> None:
    """With an interpreter that only says what it was asked for: the tests fail, and the benchmarks still run."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "called: $*"\ncase "$*" in *"-m pytest"*) exit 3;; esac\n', encoding="utf-8")
    python.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(python), "OUT": str(tmp_path / "out")}
    done = subprocess.run(["bash", ROOT / "benchmarks" / "gpu.sh"], capture_output=True, text=True, env=environment)
    assert done.returncode == 1, done.stderr
    assert f"-m hornbook bench kernels --quick --out {tmp_path / 'out'}" in done.stdout
    assert f"-m hornbook bench model --quick --out {tmp_path / 'out'}" in done.stdout
    summary = [line.split() for line in done.stdout.splitlines()[-3:]]
    assert [line[-1] for line in summary] == ["ok", "ok", "3)"]
    assert (tmp_path / "out" / "gpu.log").read_text(encoding="utf-8") == done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="a script for Linux")
@pytest.mark.parametrize("xdist", [False, True])
def test_gpu_script_in_parts(xdist: bool, tmp_path: Path) -> None:
    """Each part is what it says; tests share the cores where they can, and do not ask for it where they cannot."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "called: $*"\ncase "$*" in *xdist*) exit {int(not xdist)};; esac\n', "utf-8")
    python.chmod(0o755)
    script = ROOT / "benchmarks" / "gpu.sh"
    parts = ("norms", "softmax", "losses", "pointwise", "attention", "variants", "sanitizer", "tests")
    command = ["bash", script, *(word for part in parts for word in ("--part", part))]
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(python)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    called = [line for line in done.stdout.splitlines() if line.startswith("called: -P -m")]
    named = [line.partition("--only ")[2].partition(" ")[0] for line in called if "bench kernels" in line]
    of_its_own = {"attention", "decode_attention"}  # timed by the command below
    assert sorted(",".join(named).split(",")) == sorted(set(OPERATIONS) - of_its_own)
    of_attention = [line.partition("bench ")[2] for line in called if "bench attention" in line]
    assert of_attention == ["attention --minutes 8", "attention --variants --minutes 8"]
    assert "called: -P -m hornbook.benchmarks.sanitizer --minutes 9" in called
    assert "-o addopts=--import-mode=importlib -q -m gpu" in called[-1]
    assert ("-n 6 --dist loadgroup" in called[-1]) == xdist
    assert [line.split()[0] for line in done.stdout.splitlines()[-len(parts) :]] == list(parts)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.skipif(sys.platform == "win32", reason="a script for Linux")
def test_gpu_script_without_a_gpu(tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}
    done = subprocess.run(["bash", ROOT / "benchmarks" / "gpu.sh"], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "no CUDA GPU" in done.stderr
    assert done.stdout == ""


@pytest.mark.gpu
def test_clock_on_a_gpu() -> None:
    """Twice the bytes take about twice the time, and a call's memory is what it allocates."""
    clock = timing.CudaClock()
    small, large = (torch.randn(size, device="cuda") for size in (1 << 27, 1 << 28))
    times = timing.round_robin({"small": lambda: small.neg(), "large": lambda: large.neg()}, clock, seconds=0.1)
    assert 1.6 < times["large"].median / times["small"].median < 2.4
    assert timing.peak_memory(lambda: small.neg()) == 4 << 27
    rate = timing.copy_bandwidth(clock, size=1 << 28)
    assert 1e11 < rate < 1e14
    assert math.isfinite(timing.matmul_rate(clock, "bf16", size=1024))
