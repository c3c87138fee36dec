"""The trainer: what a step does, what a run leaves behind, and that a resumed run is the same run."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import shutil
import signal
import tomllib
from pathlib import Path
from typing import Any

import hornbook as hb
import pytest
import torch
from hornbook import checkpoint, files, optim
from hornbook.errors import CheckpointError, ConfigError, HornbookError
from hornbook.train import Trainer, schedule, seconds_per_step

TEXTS = [f"The {a} {b} {c}. The {b} {c} again." for a in ("old", "red", "wet") for b in ("fox", "owl") for c in "xyz"]
TINY = hb.TrainConfig(
    steps=12, batch_size=2, copy_steps=3, copy_length=8, eval_every=4, checkpoint_every=5, warmup=0.2, weight_decay=0.1
)


@pytest.fixture(scope="module")
def data() -> hb.TokenData:
    tok = hb.Tokenizer.train(TEXTS, vocab_size=270)
    return hb.TokenData.from_text(TEXTS * 3, tok, heldout=TEXTS[:4])


def new_model(**changes) -> hb.GPT:
    torch.manual_seed(0)
    shape = {"vocab_size": 270, "context_length": 16, "n_layer": 2, "n_head": 2, "d_model": 16, "dropout": 0.1}
    return hb.GPT(hb.GPTConfig(**(shape | changes)))


def losses(run: Path) -> dict[int, float]:
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {e["step"]: e["loss"] for e in entries}


def same(a: hb.GPT, b: hb.GPT) -> bool:
    return all(x.equal(y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_run(data: hb.TokenData, tmp_path: Path) -> None:
    model = new_model()
    last = Trainer(model, data, TINY, out=tmp_path / "run", marks={"mark": 3.0}).fit()
    run = tmp_path / "run"
    assert sorted(losses(run)) == list(range(1, 13))
    assert last["loss"] == losses(run)[12]
    evaluated = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines() if "heldout" in line]
    assert [e["step"] for e in evaluated] == [4, 8, 12]
    assert (run / "loss.svg").read_text().lstrip().startswith("<?xml")
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["latest", "step-000010", "step-000012"]
    settings = tomllib.loads((run / "config.toml").read_text())
    assert settings["train"]["steps"] == 12
    assert settings["model"]["d_model"] == 16
    loaded, tok = hb.load(run)
    assert same(loaded, model)
    assert tok == data.tokenizer


def test_it_learns(data: hb.TokenData) -> None:
    config = hb.TrainConfig(steps=60, batch_size=4, eval_every=0, learning_rate=0.01)
    trainer = Trainer(new_model(dropout=0.0), data, config, quiet=True)
    before = trainer.evaluate()
    after = trainer.fit()["heldout_bits_per_byte"]
    assert before is not None
    assert after < 0.35 * before


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("stop", [1, 2, 3, 4, 7, 11])
def test_resume_is_exact(data: hb.TokenData, tmp_path: Path, optimizer, stop: int) -> None:
    """Also within, at the end of, and just after the copying; dropout and the order of reading go on as they were."""
    config = dataclasses.replace(TINY, optimizer=optimizer, accumulate=2)
    whole = new_model()
    Trainer(whole, data, config, out=tmp_path / "whole", quiet=True).fit()

    interrupted = Trainer(new_model(), data, config, out=tmp_path / "run", quiet=True)
    interrupted.model.train()
    for _ in range(stop):
        assert interrupted.log is not None
        interrupted.log.write(**interrupted._one_step())
    interrupted.save()
    torch.manual_seed(12345)  # whatever the process did in between
    with open(tmp_path / "run" / "log.jsonl", "a") as file:  # steps that were lost, and a line cut short
        file.write(json.dumps({"step": stop + 1, "loss": 99.0}) + '\n{"step": ')
    resumed = new_model()
    trainer = Trainer(resumed, data, config, out=tmp_path / "run", resume=True, quiet=True)
    assert trainer.step == stop
    trainer.fit()
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert same(resumed, whole)


def test_resume_without_a_checkpoint_begins(data: hb.TokenData, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    with pytest.raises(ConfigError, match="--resume"):
        Trainer(new_model(), data, TINY, out=tmp_path / "run")
    Trainer(new_model(), data, TINY, out=tmp_path / "run", resume=True, quiet=True).fit()
    assert sorted(losses(tmp_path / "run")) == list(range(1, 13))


def test_resume_refuses_another_run(data: hb.TokenData, tmp_path: Path) -> None:
    Trainer(new_model(), data, TINY, out=tmp_path / "run", quiet=True).fit()
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match="learning_rate"):
        Trainer(new_model(), data, dataclasses.replace(TINY, learning_rate=1.0), out=tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match="beyond"):
        Trainer(new_model(), data, dataclasses.replace(TINY, steps=5), out=tmp_path / "run", resume=True)
    for change in ({"d_model": 32}, {"n_head": 4}, {"activation": "gelu"}, {"position": "none"}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            Trainer(new_model(**change), data, TINY, out=tmp_path / "run", resume=True)
    other = hb.TokenData.from_text(TEXTS * 2, data.tokenizer, heldout=TEXTS[:4])
    with pytest.raises(ConfigError, match="made with data"):
        Trainer(new_model(), other, TINY, out=tmp_path / "run", resume=True)
    assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "config.json"])
@pytest.mark.parametrize("how", ["truncate", "remove"])
def test_a_broken_checkpoint_is_refused(data: hb.TokenData, tmp_path: Path, name: str, how: str) -> None:
    Trainer(new_model(), data, TINY, out=tmp_path / "run", quiet=True).fit()
    path = tmp_path / "run" / "checkpoints" / "step-000012" / name
    if how == "truncate":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.unlink()
    model = new_model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as caught:  # noqa: PT012
        if name == "config.json":
            hb.load(tmp_path / "run")
        else:
            Trainer(model, data, TINY, out=tmp_path / "run", resume=True)
    assert "\n" not in str(caught.value)
    assert all(before[k].equal(v) for k, v in model.state_dict().items())


def test_a_checkpoint_of_another_version(data: hb.TokenData, tmp_path: Path) -> None:
    Trainer(new_model(), data, TINY, out=tmp_path / "run", quiet=True).fit()
    state = tmp_path / "run" / "checkpoints" / "step-000012" / "state.json"
    state.write_text(state.read_text().replace('"format": 1', '"format": 7'))
    with pytest.raises(CheckpointError, match=r"format 7.*reads format 1"):
        Trainer(new_model(), data, TINY, out=tmp_path / "run", resume=True)


def test_saving_fails_and_the_last_checkpoint_stays(data: hb.TokenData, tmp_path: Path, monkeypatch) -> None:
    trainer = Trainer(new_model(), data, TINY, out=tmp_path / "run", quiet=True)
    trainer.model.train()
    trainer._one_step()
    trainer.save()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_json", full)
    trainer._one_step()
    with pytest.raises(OSError, match="No space"):
        trainer.save()
    newest = checkpoint.latest(tmp_path / "run")
    assert newest is not None
    assert newest.name == "step-000001"
    assert sorted(p.name for p in newest.parent.iterdir()) == ["latest", "step-000001"]


def test_accumulation_counts_targets(data: hb.TokenData) -> None:
    """(B, accumulate) is (B · accumulate, 1), also where micro-batches hold different numbers of targets."""
    models = [new_model(dropout=0.0, bias=False) for _ in range(2)]
    for model, (rows, micro) in zip(models, ((4, 1), (1, 4)), strict=True):
        config = dataclasses.replace(TINY, batch_size=rows, accumulate=micro, copy_steps=0, steps=5, optimizer="adamw")
        trainer = Trainer(model, data, config, quiet=True)

        def masked(following=trainer.batches.next, counter=[0]):  # noqa: B006 (one counter a trainer)
            ids, targets = following()
            for row in targets:
                row[: (counter[0] * 5) % 13] = -100
                counter[0] += 1
            return ids, targets

        trainer.batches.next = masked
        trainer.fit()
    for x, y in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=2e-5)


def test_a_step_is_adamw(data: hb.TokenData) -> None:
    """Two steps of the trainer against PyTorch's optimizer, clipping and schedule written out."""
    config = hb.TrainConfig(
        steps=4,
        batch_size=3,
        optimizer="adamw",
        learning_rate=0.01,
        weight_decay=0.1,
        clip=0.5,
        warmup=0.5,
        eval_every=0,
    )
    mine, theirs = (new_model(dropout=0.0, bias=False) for _ in range(2))  # a key's bias has no gradient but noise
    trainer = Trainer(mine, data, config, quiet=True)
    matrices = [p for p in theirs.parameters() if p.dim() == 2]
    vectors = [p for p in theirs.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    from hornbook.data import Batches

    batches = Batches(data.train, 3, 16, seed=0)
    trainer.model.train()
    for step, share in enumerate((0.5, 1.0, 1.0, 0.5)):
        entry = trainer._one_step()
        ids, targets = batches.next()
        logits = theirs(ids)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        assert entry["loss"] == pytest.approx(loss.item(), rel=1e-5), step
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        for group in adamw.param_groups:
            group["lr"] = 0.01 * share
        adamw.step()
        adamw.zero_grad()
        assert entry["rate"] == pytest.approx(0.01 * share)
    # AdamW divides by the gradient's size, so where that is nearly nothing, rounding moves a weight; a missing decay
    # would move them all by 8e-5.
    for x, y in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_schedule() -> None:
    config = hb.TrainConfig(warmup=0.1, final_rate=0.1)
    shares = [schedule(step, 100, config) for step in range(100)]
    assert shares[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert max(shares) == 1.0
    assert all(a >= b for a, b in itertools.pairwise(shares[10:]))
    assert schedule(100, 100, config) == pytest.approx(0.1)
    assert schedule(55, 100, config) == pytest.approx(0.55)


def test_muon_takes_the_matrices_inside_blocks() -> None:
    model = new_model()
    adamw, muon = optim.build(model, "muon", learning_rate=1, muon_learning_rate=2, weight_decay=0.1, betas=(0.9, 0.95))
    names = {p: n for n, p in model.named_parameters()}
    to_muon = {names[p] for g in muon.param_groups for p in g["params"]}
    assert to_muon == {n for n in names.values() if n.startswith("blocks.") and n.endswith("proj.weight")}
    decayed = {names[p] for g in adamw.param_groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {"embed.weight", "position.weight"}
    assert {names[p] for g in adamw.param_groups for p in g["params"]} | to_muon == set(names.values())


def test_bf16_learns_too(data: hb.TokenData) -> None:
    config = hb.TrainConfig(steps=40, batch_size=4, eval_every=0, learning_rate=0.01, dtype="bf16")
    model = new_model(dropout=0.0)
    trainer = Trainer(model, data, config, quiet=True)
    before = trainer.evaluate()
    assert before is not None
    assert trainer.fit()["heldout_bits_per_byte"] < 0.5 * before
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert model(torch.zeros(1, 3, dtype=torch.int64)).dtype == torch.bfloat16


def test_the_probe_changes_nothing(data: hb.TokenData) -> None:
    model = new_model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert 0 < seconds_per_step(model, data, TINY, seconds=0.05) < 5
    assert all(before[k].equal(v) for k, v in model.state_dict().items())


def test_ctrl_c_saves(data: hb.TokenData, tmp_path: Path, monkeypatch) -> None:
    config = dataclasses.replace(TINY, checkpoint_every=0, eval_every=0)
    whole = new_model()
    Trainer(whole, data, config, out=tmp_path / "whole", quiet=True).fit()
    model = new_model()
    trainer = Trainer(model, data, config, out=tmp_path / "run", quiet=True)
    step = trainer._one_step

    def interrupted_step():
        if trainer.step == 6:
            signal.raise_signal(signal.SIGINT)
        return step()

    monkeypatch.setattr(trainer, "_one_step", interrupted_step)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text() == "step-000007\n"
    resumed = new_model()
    Trainer(resumed, data, config, out=tmp_path / "run", resume=True, quiet=True).fit()
    assert same(resumed, whole)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_bad_requests(data: hb.TokenData, tmp_path: Path) -> None:
    for bad in (
        {"steps": 0},
        {"learning_rate": -1.0},
        {"copy_steps": 12},
        {"warmup": 2.0},
        {"batch_size": 0},
        {"steps": 2.5},
        {"learning_rate": math.nan},
        {"packing": "doc"},
        {"dtype": "fp16"},
        {"seed": -1},
        {"eval_tokens": 0},
    ):
        with pytest.raises(ConfigError):
            dataclasses.replace(TINY, **bad)
    with pytest.raises(ConfigError, match="vocab_size=270"):
        Trainer(new_model(vocab_size=100), data, TINY)
    with pytest.raises(ConfigError, match="context of 16"):
        Trainer(new_model(), data, dataclasses.replace(TINY, context_length=32))
    with pytest.raises(ConfigError, match="try 'auto'"):
        Trainer(new_model(), data, dataclasses.replace(TINY, device="cuda:7"))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="is a file"):
        Trainer(new_model(), data, TINY, out=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_loss_that_is_no_number_ends_the_run(data: hb.TokenData, tmp_path: Path) -> None:
    trainer = Trainer(new_model(), data, TINY, out=tmp_path / "run", quiet=True)
    with torch.no_grad():
        trainer.model.norm.weight.fill_(math.nan)
    with pytest.raises(HornbookError, match="learning_rate"):
        trainer.fit()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_one_process_a_run(data: hb.TokenData, tmp_path: Path) -> None:
    """While a run is training, nobody else may open its folder or train in it."""
    run = tmp_path / "run"
    first = Trainer(new_model(), data, TINY, out=run, quiet=True)
    second = Trainer(new_model(), data, TINY, out=run, resume=True, quiet=True)
    step = first._one_step

    def intrude() -> dict[str, Any]:
        with pytest.raises(ConfigError, match="another training run is writing to"):
            Trainer(new_model(), data, TINY, out=run, resume=True, quiet=True)
        with pytest.raises(ConfigError, match="another training run is writing to"):
            second.fit()
        return step()

    first._one_step = intrude
    first.fit()
    Trainer(new_model(), data, TINY, out=run, resume=True, quiet=True).fit()


def test_checkpoints_beyond_a_million_steps(data: hb.TokenData, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, steps=1_000_001, keep=2)
    trainer = Trainer(new_model(), data, config, out=tmp_path, quiet=True)
    for trainer.step in (999_998, 999_999, 1_000_000):
        trainer.save()
    assert {p.name for p in (tmp_path / "checkpoints").glob("step-*")} == {"step-999999", "step-1000000"}


def test_old_checkpoints_go(data: hb.TokenData, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, checkpoint_every=1, keep=3)
    copy = tmp_path / "run" / "checkpoints" / "step-best"  # somebody's
    copy.mkdir(parents=True)
    Trainer(new_model(), data, config, out=tmp_path / "run", quiet=True).fit()
    kept = sorted(p.name for p in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert kept == ["step-000010", "step-000011", "step-000012", "step-best"]
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000012")
    with pytest.raises(CheckpointError, match="step-000012"):
        hb.load(tmp_path / "run")
