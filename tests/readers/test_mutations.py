"""What reads files from outside, on files that are nearly right: a clear error or a right result, nothing else.

``HORNBOOK_TEST_MUTATIONS=10000 pytest -n0 -m slow tests/readers`` does more than the usual 500 of each kind. Shards
have the same in ``tests/data/test_shards.py``; the Rust readers also have fuzzers (``rust/fuzz``).
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hornbook as hb
import pytest
import torch
from hornbook import checkpoint, config, optim, runlog
from hornbook.errors import HornbookError
from hornbook.interop import export

from ..damage import mutated

pytestmark = pytest.mark.slow
MUTATIONS = int(os.environ.get("HORNBOOK_TEST_MUTATIONS", "500"))
SECONDS, MEGABYTES = 20, 512  # for one file; more is a hang, or memory without bounds
TEXT = "the fox and the hen, größer 中文 <s>\n\n  12345 don't"


@dataclass
class Kind:
    """A kind of file, or of a folder of them.

    Attributes:
        names: the files that are damaged, one at a time.
        read: reads them, and fails an assertion if the result is no possible one.
        said: whether every damage that changes a result must be noticed.
    """

    names: tuple[str, ...]
    read: Callable[[Path], Any]
    said: bool = False


def tokenizer(path: Path) -> Any:
    tok = hb.Tokenizer.load(path)
    ids = tok.encode_ordinary(TEXT)
    assert all(0 <= id < tok.vocab_size for id in ids)
    tok.decode(ids)
    return ids


def model(path: Path) -> Any:
    gpt, tok = hb.load(path)
    assert tok is not None or path.name == "foreign", "a foreign model opens without a tokenizer that cannot be read"
    assert gpt.config.vocab_size < 10_000, "a damaged config.json made a model that no file holds"
    with torch.no_grad():
        gpt(torch.tensor([[1, 2, 3]]))
    return [t.tolist() for t in gpt.state_dict().values()]


def run(path: Path) -> Any:
    """The newest checkpoint of a run, as ``--resume`` takes it up."""
    newest = checkpoint.latest(path)
    assert newest is not None
    gpt = hb.GPT(SHAPE)
    optimizers = optim.build(
        gpt, "muon", learning_rate=1e-3, muon_learning_rate=0.02, weight_decay=0.0, betas=(0.9, 0.95)
    )
    state = checkpoint.load(newest, gpt, optimizers)
    runlog.read(path / "log.jsonl")
    return state["step"], state["cursor"], [t.tolist() for t in gpt.state_dict().values()]


def settings(path: Path) -> Any:
    from hornbook.commands import find
    from hornbook.commands.options import parse

    argv = ["--data", "d", "--out", "o", "--config", str(path / "config.toml")]
    options: Any = parse(find("hornbook.commands.train:Train"), argv, "hornbook train")
    assert isinstance(options.train.steps, int)
    assert options.train.steps >= 1
    assert options.model.n_layer >= 1
    return config.to_toml(options)


SHAPE = hb.GPTConfig.preset("nano", vocab_size=280, n_layer=1, d_model=16, n_head=2, context_length=16)
CHECKPOINT = "checkpoints/step-000002"
INSIDE = ("model.safetensors", "config.json", "tokenizer.json", "optimizer.safetensors", "state.json", "SHA256SUMS")
KINDS = {
    "tokenizer.json": Kind(("tok/tokenizer.json",), lambda folder: tokenizer(folder / "tok")),
    ".tiktoken": Kind(("a.tiktoken",), lambda folder: tokenizer(folder / "a.tiktoken")),
    "vocab.json, merges.txt": Kind(("gpt2/vocab.json", "gpt2/merges.txt"), lambda folder: tokenizer(folder / "gpt2")),
    "safetensors, config.json": Kind(
        ("model/model.safetensors", "model/config.json", "model/tokenizer.json"), lambda folder: model(folder / "model")
    ),
    "gpt2 of transformers": Kind(
        ("foreign/model.safetensors", "foreign/config.json", "foreign/tokenizer.json"),
        lambda folder: model(folder / "foreign"),
    ),
    "checkpoint": Kind(
        (*(f"run/{CHECKPOINT}/{name}" for name in INSIDE), "run/checkpoints/latest", "run/log.jsonl"),
        lambda folder: run(folder / "run"),
        said=True,
    ),
    "config.toml": Kind(("run/config.toml",), lambda folder: settings(folder / "run")),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good one of each kind."""
    folder = tmp_path_factory.mktemp("good")
    texts = [f"the fox {i} and the hen {i * i}, größer 中文 don't" for i in range(60)]
    tok = hb.Tokenizer.train(texts, vocab_size=280, pattern="gpt2")
    tok.save(folder / "tok")
    tok.save(folder / "a.tiktoken")
    tok.save(folder / "gpt2", format="gpt2")
    data = hb.TokenData.from_text(texts, tok)
    how = hb.TrainConfig(steps=2, batch_size=2, eval_every=0, device="cpu")
    hb.Trainer(hb.GPT(SHAPE), data, how, out=folder / "run", quiet=True).fit()
    shutil.copytree(folder / "run" / CHECKPOINT, folder / "model")
    for name in ("SHA256SUMS", "state.json", "optimizer.safetensors"):
        (folder / "model" / name).unlink()
    shape = hb.GPTConfig(vocab_size=280, n_layer=1, d_model=16, n_head=2, context_length=16)
    export(hb.GPT(shape), folder / "foreign", tok)
    return folder


def resident() -> int:
    """The most memory that this process ever held, in bytes; 0 on Windows, which does not say."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("name", KINDS)
def test_mutations(name: str, made: Path, tmp_path: Path) -> None:
    kind, chance = KINDS[name], random.Random(name)
    folder = tmp_path / "it"
    shutil.copytree(made, folder)
    right, whole = kind.read(folder), {name: (folder / name).read_bytes() for name in kind.names}
    refused = 0
    tracemalloc.start()  # the peak of what Python and numpy hold; what the process holds is looked at, too
    for number in range(MUTATIONS):
        damaged = chance.choice(kind.names)
        content = whole[damaged]
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            content = mutated(content or b"x", chance)
        (folder / damaged).write_bytes(content)
        tracemalloc.reset_peak()
        before_all = resident()
        before, started = tracemalloc.get_traced_memory()[0], time.process_time()
        try:
            found = kind.read(folder)
        except HornbookError as error:
            message = str(error)
            assert "\n" not in message, message
            assert message.encode(), "a message that can be printed"
            assert str(folder) in message or Path(damaged).name in message, (damaged, message)
            refused += 1
        else:
            assert found == right or not kind.said or damaged.endswith(("log.jsonl", "latest")), f"{number}: {damaged}"
        assert time.process_time() - started < SECONDS, number
        grown = max(tracemalloc.get_traced_memory()[1] - before, resident() - before_all) / 2**20
        assert grown < MEGABYTES, f"{number}: {damaged}: {grown:.0f} MB"
        (folder / damaged).write_bytes(whole[damaged])
    tracemalloc.stop()
    print(f"{name}: {MUTATIONS} files, {refused} refused")
    assert MUTATIONS / 10 < refused
