"""Ctrl-C and SIGTERM at random moments of every command that takes long: no traceback, and nothing half done.

``HORNBOOK_TEST_INTERRUPTS=50 pytest -n0 -m slow tests/cli/test_interrupts.py`` draws fifty moments in place of five.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import hornbook as hb
import pytest
from hornbook import checkpoint, runlog
from hornbook.corpora import documents, fables

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to whole consoles"),
]
MOMENTS = int(os.environ.get("HORNBOOK_TEST_INTERRUPTS", "5"))
AT_ONCE = 2


@dataclass(frozen=True)
class Long:
    """A command that takes long.

    Attributes:
        argv: ``{made}`` stands for the folder of what was made before, ``{out}`` for a place of its own.
        holds: whether what stands at ``out`` after an interruption, if anything, is whole.
    """

    argv: str
    holds: Callable[[Path], bool]


def whole_corpus(out: Path) -> bool:
    return len(list(documents(out))) > 1000


def whole_shards(out: Path) -> bool:
    return hb.TokenData(out).train.documents > 1000


def whole_run(out: Path) -> bool:
    """A run goes on from what it has: all that stands there can be read."""
    runlog.read(out / "log.jsonl")
    newest = checkpoint.latest(out)
    return newest is None or hb.load(out)[1] is not None


COMMANDS = {
    "corpus write": Long("corpus write fables --size 40MB --out {out}", whole_corpus),
    "tokenizer train": Long(
        "tokenizer train {made}/fables.txt --vocab-size 2000 --threads 1 --out {out}",
        lambda out: not (out / "tokenizer.json").exists() or hb.Tokenizer.load(out).vocab_size == 2000,
    ),
    "tokenizer count": Long(
        "tokenizer count {made}/fables.txt --out {out}", lambda out: hb.tokenizer.Counts.load(out).texts > 1000
    ),
    "prepare": Long("prepare {made}/fables.txt --tokenizer {made}/tok --out {out}", whole_shards),
    "train": Long(
        "train --data {made}/shards --out {out} --steps 100000 --eval-every 20 --checkpoint-every 5 --batch-size 2 "
        "--model.n-layer 1 --model.d-model 32 --model.n-head 2 --model.context-length 64",
        whole_run,
    ),
    "sample": Long("sample {made}/run --max-new-tokens 100000 --temperature 2", lambda out: False),
    "demo": Long("demo --minutes 5 --out {out}", whole_run),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    texts = [story.text for story in fables.generate(20_000_000)]
    (folder / "fables.txt").write_text("\n<|endoftext|>\n".join(texts) + "\n", encoding="utf-8")
    tok = hb.Tokenizer.train(texts[:1000], vocab_size=400)
    tok.save(folder / "tok")
    from hornbook.data import prepare

    data = prepare(texts[:2000], tok, folder / "shards")
    shape = hb.GPTConfig.preset("nano", vocab_size=400, n_layer=1, d_model=32, n_head=2)
    hb.Trainer(hb.GPT(shape), data, hb.TrainConfig(steps=1, eval_every=0), out=folder / "run", quiet=True).fit()
    return folder


def start(argv: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hornbook", *argv],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def ready(process: subprocess.Popen[str]) -> None:
    """Wait until Python has read our own code: before that there is nobody to answer to a signal."""
    status = Path(f"/proc/{process.pid}/status")
    while status.exists() and process.poll() is None:
        caught = next((line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigCgt")), "0")
        if int(caught, 16) >> (signal.SIGTERM - 1) & 1:  # `cli.main` has begun
            return
        time.sleep(0.01)


def interrupt(long: Long, made: Path, out: Path, after: float, number: int) -> str | None:
    """What is wrong after a signal that came ``after`` seconds, or None."""
    process = start([word.format(made=made, out=out) for word in long.argv.split()])
    ready(process)
    time.sleep(after)
    process.send_signal(number)
    try:
        _, said = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        return f"still there a minute after the signal that came after {after:.2f} s"
    where = f"after {after:.2f} s, {signal.Signals(number).name}"
    # 130 and 143; and where SIGINT came while Python ran code from a string, as dataclasses do on import, Python ends
    # itself by the signal in the end, whatever became of the KeyboardInterrupt: for a shell that is 130, too.
    if process.returncode not in (0, 128 + number, -signal.SIGINT if number == signal.SIGINT else 0):
        return f"{where}: status {process.returncode}: {said}"
    if "Traceback" in said or "Exception ignored" in said:
        return f"{where}: {said}"
    try:
        if out.exists() and not long.holds(out):
            return f"{where}: half done"
    except hb.HornbookError as error:
        return f"{where}: {error}"
    may_stay = {out.name, f"{out.name}.partial"}  # prepare goes on from the latter
    left = [path.name for path in out.parent.iterdir() if path.name not in may_stay]
    return f"{where}: left behind: {left}" if left else None


@pytest.mark.parametrize("name", COMMANDS)
def test_signals_at_random_moments(name: str, made: Path, tmp_path: Path) -> None:
    long, chance = COMMANDS[name], random.Random(name)

    def one(index: int) -> str | None:
        place = tmp_path / str(index)
        place.mkdir()
        number = signal.SIGTERM if index % 5 == 4 else signal.SIGINT
        return interrupt(long, made, place / "out", after, number) if (after := moments[index]) >= 0 else None

    # Half of the moments lie in the first second, when libraries are being loaded; the rest in the work.
    moments = [chance.uniform(0, 1) if index % 2 else chance.uniform(0.5, 6) for index in range(MOMENTS)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        wrong = [found for found in pool.map(one, range(MOMENTS)) if found]
    assert not wrong, "\n".join(wrong)
