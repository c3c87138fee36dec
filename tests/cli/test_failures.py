"""What goes wrong on other people's machines: one clear line on stderr, exit status 1 or 2, and nothing is lost.

Wrong input has its tests where it is read (`test_cli.py`, `test_corpus.py`, ``tests/readers``); here it is the machine
that fails: no room on the disk, no permission, no home, nobody who reads, a clock that jumps.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hornbook as hb
import pytest
from hornbook.cli import main
from hornbook.corpora import fables

posix = pytest.mark.skipif(sys.platform == "win32", reason="shells of Unix")
SHAPE = "--model.n-layer 1 --model.d-model 16 --model.n-head 2 --model.context-length 32 --batch-size 2 --eval-every 0"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, a tokenizer, shards and a run, in a folder whose name is not plain."""
    folder = tmp_path_factory.mktemp("made") / "my texts 🦊 é"
    folder.mkdir()
    texts = [story.text for story in fables.generate(100_000)]
    (folder / "text.txt").write_text("\n<|endoftext|>\n".join(texts) + "\n", encoding="utf-8")
    main(["tokenizer", "train", str(folder / "text.txt"), "--vocab-size", "300", "--out", str(folder / "tok 🦊")])
    where = ["--tokenizer", str(folder / "tok 🦊"), "--out", str(folder / "shards é")]
    main(["prepare", str(folder / "text.txt"), *where])
    data = ["--data", str(folder / "shards é"), "--out", str(folder / "run 🦊"), "--steps", "2"]
    main(["train", *data, *SHAPE.split()])
    return folder


def hornbook(*argv: object, shell: str = "{}", env: dict[str, str] | None = None, **how: Any) -> Any:
    """Run a command in a process of its own; ``shell`` is what stands around it."""
    command = " ".join(
        "'" + str(word).replace("'", "'\\''") + "'" for word in (sys.executable, "-m", "hornbook", *argv)
    )
    given = {**os.environ, **(env or {})}
    return subprocess.run(
        ["bash", "-c", shell.format(command)], capture_output=True, text=True, timeout=300, env=given, **how
    )


def one_line(done: Any, words: str) -> None:
    said = done.stderr.strip().splitlines()
    assert done.returncode in (1, 2), done
    assert "Traceback" not in done.stderr, done.stderr
    assert said[-1].startswith("hornbook: "), said
    assert words in said[-1], said


def test_names_that_are_not_plain(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", str(made / "run 🦊"), "--max-new-tokens", "3", "--prompt", "Once 🦊", "--seed", "1"])
    assert capsys.readouterr().out.endswith("\n")
    assert hb.TokenData(made / "shards é").train.documents > 50


@posix
@pytest.mark.parametrize("reader", ["head -c 1", "true"])
def test_nobody_reads_on(made: Path, reader: str) -> None:
    """`set -o pipefail` shows the status of ours: 1, or 0 where all was written before."""
    for argv in (
        ("corpus", "show", "fables", "--count", "3000"),
        ("tokenizer", "encode", "so it goes " * 10_000, "--tokenizer", made / "tok 🦊"),
    ):
        done = hornbook(*argv, shell="set -o pipefail; {} | " + reader)
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        assert done.returncode in (0, 1)


@posix
@pytest.mark.slow
def test_nobody_reads_on_while_a_model_writes(made: Path) -> None:
    done = hornbook("sample", made / "run 🦊", "--max-new-tokens", 3000, shell="set -o pipefail; {} | head -c 20")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.returncode in (0, 1)
    assert len(done.stdout) <= 20


@posix
def test_no_home(made: Path, tmp_path: Path) -> None:
    bare = 'env -i PATH="$PATH" PYTHONPATH="${{PYTHONPATH:-}}" HOME=/dev/null/home {}'
    done = hornbook("corpus", "list", shell=bare)
    assert (done.returncode, done.stderr) == (0, "")
    done = hornbook("tokenizer", "train", made / "text.txt", "--vocab-size", 300, "--out", tmp_path / "tok", shell=bare)
    assert done.returncode == 0, done.stderr
    assert hb.Tokenizer.load(tmp_path / "tok") == hb.Tokenizer.load(made / "tok 🦊")


@posix
@pytest.mark.slow
def test_no_home_to_train_in(made: Path, tmp_path: Path) -> None:
    bare = 'env -i PATH="$PATH" PYTHONPATH="${{PYTHONPATH:-}}" HOME=/dev/null/home {}'
    argv = ["train", "--data", made / "shards é", "--out", tmp_path / "run", "--steps", 2, *SHAPE.split()]
    done = hornbook(*argv, shell=bare)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run" / "loss.svg").stat().st_size > 1000


def test_a_clock_that_jumps(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of day goes to and fro, as after a correction or a sleep; durations come from other clocks."""
    jumps: Iterator[float] = iter([1e9, 5e8, 2e9, 0.0] * 10**6)
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    out = tmp_path / "run"
    main(["train", "--data", str(made / "shards é"), "--out", str(out), "--steps", "2", *SHAPE.split()])
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in entries] == [1, 2]
    assert all(e["tokens_per_second"] > 0 for e in entries)
    losses = [json.loads(line)["loss"] for line in (made / "run 🦊" / "log.jsonl").read_text().splitlines()]
    assert [e["loss"] for e in entries] == losses
    main(["prepare", str(made / "text.txt"), "--tokenizer", str(made / "tok 🦊"), "--out", str(tmp_path / "s")])
    assert hb.TokenData(tmp_path / "s").train.documents > 50


def test_a_clock_that_stands(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: 5.0)
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    main(["train", "--data", str(made / "shards é"), "--out", str(tmp_path / "run"), "--steps", "2", *SHAPE.split()])
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("size", "words"), [(10, "256"), (0, "256"), (-5, "256"), (10**12, "vocab_size"), (60_000, "vocab_size")]
)
def test_vocabularies_of_impossible_sizes(size: int, words: str, made: Path, tmp_path: Path, caplog) -> None:
    """Too small for the bytes, or beyond any id; more than the text can give is what can be had, and said."""
    argv = ["tokenizer", "train", str(made / "text.txt"), "--vocab-size", str(size), "--out", str(tmp_path / "tok")]
    if size == 60_000:
        main(argv)
        assert hb.Tokenizer.load(tmp_path / "tok").vocab_size < size
        return
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert str(end.value.code).startswith("hornbook: ")
    assert words in str(end.value.code)
    assert "\n" not in str(end.value.code)
    assert not (tmp_path / "tok").exists()


# A small disk, and one that cannot be written, are mounts of a process of its own: only root may make them.


def may_mount() -> bool:
    tried = "unshare --mount mount -t tmpfs -o size=64k tmpfs /tmp"
    return (
        shutil.which("unshare") is not None
        and subprocess.run(["bash", "-c", tried], capture_output=True).returncode == 0
    )


mounts = pytest.mark.skipif(sys.platform != "linux" or not may_mount(), reason="only root may mount a small disk")


REFUSED = {False: "No space left on device", True: "nothing can be written to"}


def on_a_disk(room: int, made: Path, disk: Path, argv: list[object], *, read_only: bool = False) -> Any:
    """Run a command whose ``--out`` is on a disk that has room for so many kilobytes besides a run.

    Returns:
        What the process said, and a copy of what the disk then held.
    """
    pages = sum(-(-path.stat().st_size // 4096) for path in (made / "run 🦊").rglob("*") if path.is_file())
    disk.mkdir(exist_ok=True)
    words = " ".join("'" + str(word).replace("'", "'\\''") + "'" for word in argv)
    lock = 'mount -o remount,ro "$DISK"' if read_only else "true"
    script = (
        f'mount -t tmpfs -o size={4 * pages + room}k tmpfs "$DISK" && cp -r "$RUN" "$DISK/run" && {lock} && '
        f'{{ {sys.executable} -m hornbook {words}; status=$?; cp -r "$DISK" "$KEPT"; exit $status; }}'
    )
    kept = disk.with_name(disk.name + " kept")
    env = {**os.environ, "DISK": str(disk), "RUN": str(made / "run 🦊"), "KEPT": str(kept)}
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script], capture_output=True, text=True, timeout=300, env=env
    )
    return done, kept


@mounts
@pytest.mark.parametrize("read_only", [False, True], ids=["full", "read only"])
@pytest.mark.parametrize("what", ["corpus write", "tokenizer train", "tokenizer count", "prepare"])
def test_no_room(what: str, read_only: bool, made: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    commands: dict[str, list[object]] = {
        "corpus write": ["corpus", "write", "fables", "--size", "2MB", "--out", disk / "f.txt"],
        "tokenizer train": ["tokenizer", "train", made / "text.txt", "--vocab-size", 3000, "--out", disk / "tok"],
        "tokenizer count": ["tokenizer", "count", made / "text.txt", "--out", disk / "counts"],
        "prepare": ["prepare", made / "text.txt", "--tokenizer", made / "tok 🦊", "--out", disk / "shards"],
    }
    done, kept = on_a_disk(4 if what == "tokenizer count" else 40, made, disk, commands[what], read_only=read_only)
    one_line(done, REFUSED[read_only])
    left = {path.name for path in kept.iterdir() if path.is_file() or any(path.iterdir())}
    assert left <= {"run", "shards.partial", "tok"}, left
    assert not (kept / "tok" / "tokenizer.json").exists()  # it comes last: what is beside it is no tokenizer
    assert hb.load(kept / "run")[1] is not None


@mounts
@pytest.mark.slow
@pytest.mark.parametrize("read_only", [False, True], ids=["full", "read only"])
def test_no_room_to_save(read_only: bool, made: Path, tmp_path: Path) -> None:
    """The run that was there stays as it is: its newest checkpoint is still whole, and goes on elsewhere."""
    disk = tmp_path / "disk"
    argv: list[object] = ["train", "--resume", "--data", made / "shards é", "--out", disk / "run", "--steps", 4]
    done, kept = on_a_disk(60, made, disk, [*argv, *SHAPE.split()], read_only=read_only)
    one_line(done, "Read-only file system" if read_only else "No space left on device")
    assert hb.load(kept / "run")[1] is not None
    again = hornbook(
        "train", "--resume", "--data", made / "shards é", "--out", kept / "run", "--steps", 4, *SHAPE.split()
    )
    assert again.returncode == 0, again.stderr
    assert len((kept / "run" / "log.jsonl").read_text().splitlines()) == 4


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HORNBOOK_DEBUG", "1")
    with pytest.raises(SystemExit) as end:
        main(["sample", "nowhere"])
    assert "Traceback" in capsys.readouterr().err
    assert str(end.value.code) == "hornbook: nowhere: no such folder; give a run or a model directory"


@posix
@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_input_that_is_not_utf8(made: Path, locale: str) -> None:
    pipe = "printf 'Gr\\xfc\\xdfe' | {}"
    done = hornbook("tokenizer", "encode", "--tokenizer", made / "tok 🦊", shell=pipe, env={"LANG": locale})
    assert done.stdout == ""
    one_line(done, "standard input is not utf-8 at byte 2")
