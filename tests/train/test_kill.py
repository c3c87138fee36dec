"""A run that is killed at any instant, also while it saves, goes on as if nothing had happened."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import hornbook as hb
import pytest
from hornbook.data import prepare

KILLS = 20
STEPS = 300
EVERY = 2  # steps from one checkpoint to the next


def command(data: Path, out: Path) -> list[str]:
    options = {
        "--data": data, "--out": out, "--steps": STEPS, "--batch-size": 2, "--copy-steps": 40, "--copy-length": 16,
        "--eval-every": 25, "--checkpoint-every": EVERY, "--model.n-layer": 1, "--model.d-model": 64,
        "--model.n-head": 2, "--model.context-length": 64, "--model.dropout": 0.1,
    }  # fmt: skip
    return [sys.executable, "-m", "hornbook", "train", "--resume", *(str(x) for pair in options.items() for x in pair)]


def losses(out: Path) -> dict[int, float]:
    return {e["step"]: e["loss"] for e in map(json.loads, (out / "log.jsonl").read_text().splitlines())}


def latest(out: Path) -> str:
    """The checkpoint that a run would go on from."""
    pointer = out / "checkpoints" / "latest"
    return pointer.read_text().strip() if pointer.exists() else "none"


def saving(out: Path, process: subprocess.Popen[bytes]) -> bool:
    """Whether a process is in the middle of a save, or was when it was killed."""
    return any((out / "checkpoints").glob(f".*.{process.pid}.tmp"))


def wait(process: subprocess.Popen[bytes], ready: Callable[[], bool], every: float) -> None:
    started = time.monotonic()
    while process.poll() is None and time.monotonic() - started < 120 and not ready():
        time.sleep(every)


@pytest.mark.slow
def test_killed_at_random_instants(tmp_path: Path) -> None:
    from hornbook.corpora import fables

    texts = [story.text for story in fables.generate(200_000)]
    data = tmp_path / "shards"
    prepare(texts, hb.Tokenizer.train(texts, vocab_size=512), data)
    subprocess.run(command(data, tmp_path / "whole"), check=True, capture_output=True)
    whole = losses(tmp_path / "whole")
    assert sorted(whole) == list(range(1, STEPS + 1))

    out = tmp_path / "killed"
    chance = random.Random(0)
    reached, while_saving = ["none"], 0
    for number in range(KILLS):
        process = subprocess.Popen(command(data, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Wait for a save of this process, however slow the machine; then for a random while, or, every other time, for
        # the files of its next save and a random moment more.
        wait(process, lambda: latest(out) != reached[-1], every=0.02)
        if number % 2:
            wait(process, lambda process=process: saving(out, process), every=0.0005)
            time.sleep(chance.uniform(0, 0.01))
        else:
            time.sleep(chance.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        while_saving += saving(out, process)
        reached.append(latest(out))
    finished = subprocess.run(command(data, out), capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    print(f"killed at checkpoints {reached}, {while_saving} times while saving")
    assert len(set(reached)) >= 5, "the kills came at different points of the run"
    assert reached[-1] != f"step-{STEPS:06d}", "the run was over before the last kill: make it longer"
    assert while_saving >= 3, "few kills came during a save"
    assert losses(out) == whole
    a, b = (hb.load(run)[0].state_dict() for run in (tmp_path / "whole", out))
    assert all(a[name].equal(b[name]) for name in a)
