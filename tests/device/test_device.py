"""Devices, and a run that moves from one to another. What this machine has no device for is played."""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
from pathlib import Path

import hornbook as hb
import pytest
import torch
from hornbook import checkpoint, device, machine, optim
from hornbook.errors import CheckpointError, ConfigError
from hornbook.train import Trainer

CPU = torch.device("cpu")
TEXTS = [f"The {a} {b} sat." for a in ("old", "red", "wet") for b in ("fox", "owl", "cat")]
CONFIG = hb.TrainConfig(steps=4, batch_size=2, eval_every=0, checkpoint_every=2, optimizer="muon", device="cpu")


@pytest.fixture(scope="module")
def data() -> hb.TokenData:
    return hb.TokenData.from_text(TEXTS * 3, hb.Tokenizer.train(TEXTS, vocab_size=265), heldout=TEXTS[:3])


def new_model(dropout: float = 0.1) -> hb.GPT:
    torch.manual_seed(0)
    return hb.GPT(hb.GPTConfig(vocab_size=265, context_length=16, n_layer=1, n_head=2, d_model=16, dropout=dropout))


def test_threads_are_only_taken_back(monkeypatch) -> None:
    for name in device.THREADS:
        monkeypatch.delenv(name, raising=False)
    have = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        monkeypatch.setattr(machine, "cores", lambda: machine.Cores(8, 8, quota=2.5))
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        assert device.limit_threads() == torch.get_num_threads() == 4, "the environment's number stands"
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert device.limit_threads() == torch.get_num_threads() == 2
        monkeypatch.setattr(machine, "cores", lambda: machine.Cores(8, 8, None))
        assert device.limit_threads() == torch.get_num_threads() == 2, "a lower number stands"
    finally:
        torch.set_num_threads(have)


def test_bf16(monkeypatch, caplog) -> None:
    monkeypatch.setattr(machine, "processor_flags", lambda: frozenset({"avx512_bf16"}))
    assert device.bf16(CPU) == "hardware"
    monkeypatch.setattr(machine, "processor_flags", lambda: frozenset({"avx2"}))
    with caplog.at_level(logging.INFO, "hornbook"):
        assert device.dtype("bf16", CPU) == torch.bfloat16
    assert "in software" in caplog.text
    mps = torch.device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *version: False)
    with pytest.raises(ConfigError, match="use fp32"):
        device.dtype("bf16", mps)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *version: True)
    assert device.bf16(mps) == "hardware"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert device.bf16(torch.device("cuda")) == "software"


def test_each_kind_of_device_has_a_generator(monkeypatch) -> None:
    """A CUDA or MPS generator is played by a tensor that the module's functions read and write."""
    played = {"cuda": torch.tensor([1, 2], dtype=torch.uint8), "mps": torch.tensor([3], dtype=torch.uint8)}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: played["cuda"].clone())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: played.update(cuda=state))
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: played["mps"].clone())
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: played.update(mps=state))
    for kind in ("cuda", "mps"):
        before = played[kind].clone()
        states = device.random_states(torch.device(kind))
        assert sorted(states) == ["cpu", kind]
        drawn, played[kind] = torch.rand(3), torch.zeros_like(before)
        device.set_random_states(states, torch.device(kind))
        assert torch.rand(3).equal(drawn)
        assert played[kind].equal(before)
        played[kind] = torch.zeros_like(before)
        device.set_random_states(states, CPU)  # moved to the CPU
        assert not played[kind].any()
        device.set_random_states(device.random_states(CPU), torch.device(kind))  # and from it
        assert not played[kind].any()


def rewrite(run: Path, **changes) -> None:
    """As if the newest checkpoint had been made elsewhere."""
    path = checkpoint.latest(run)
    assert path is not None
    state = json.loads((path / "state.json").read_text())
    for key, value in changes.items():
        state[key] = value(state[key])
    (path / "state.json").write_text(json.dumps(state))
    (path / "SHA256SUMS").unlink()  # which would say that the file is not the one that was written


def stopped(data: hb.TokenData, out: Path) -> None:
    """A run of four steps that was stopped after two."""
    trainer = Trainer(new_model(), data, CONFIG, out=out, quiet=True)
    trainer.model.train()
    for _ in range(2):
        assert trainer.log is not None
        trainer.log.write(**trainer._one_step())
    trainer.save()


@pytest.mark.parametrize(
    ("machine_", "words"),
    [
        ({"threads": 64}, "threads 64, now 2 (OMP_NUM_THREADS=64 keeps them)"),
        ({"device": "cuda", "name": "NVIDIA H200", "threads": 8}, "made with device cuda, now cpu: the run goes on"),
        ({"device": "mps", "name": "Apple M4"}, "made with device mps, now cpu: the run goes on"),
        ({}, ""),
    ],
)
def test_a_run_moves_here(data: hb.TokenData, tmp_path: Path, caplog, machine_: dict, words: str) -> None:
    have = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        Trainer(new_model(), data, CONFIG, out=tmp_path / "whole", quiet=True).fit()
        stopped(data, tmp_path / "run")
        there = {} if "device" not in machine_ else {machine_["device"]: base64.b64encode(b"\1" * 16).decode()}
        rewrite(
            tmp_path / "run",
            machine=lambda m: m | machine_,
            random=lambda r: [r[0] | there],
            config=lambda c: c | {"device": machine_.get("device", "cpu")},
        )
        moved = new_model()
        with caplog.at_level(logging.WARNING, "hornbook"):
            Trainer(moved, data, CONFIG, out=tmp_path / "run", resume=True, quiet=True).fit()
    finally:
        torch.set_num_threads(have)
    assert words in caplog.text
    assert bool(caplog.text) == bool(words)
    whole, _ = hb.load(tmp_path / "whole")
    assert all(a.equal(b) for a, b in zip(whole.state_dict().values(), moved.state_dict().values(), strict=True))


def test_optimizers_keep_their_tensors_where_they_count(data: hb.TokenData, tmp_path: Path) -> None:
    """Moved to a device, played by "meta": all beside the parameters, but for a count that the CPU keeps."""
    stopped(data, tmp_path / "run")
    path = checkpoint.latest(tmp_path / "run")
    assert path is not None
    for fused in (False, True):
        model = new_model().to("meta")
        model.load_tensors = lambda weights, where: None  # type: ignore[method-assign] (they have no data there)
        optimizers = optim.build(
            model, "muon", learning_rate=1.0, muon_learning_rate=1.0, weight_decay=0.0, betas=(0.9, 0.9)
        )
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["fused"] = fused
        checkpoint.load(path, model, optimizers)
        placed = {
            key: value.device.type
            for optimizer in optimizers
            for state in optimizer.state.values()
            for key, value in state.items()
        }
        assert placed.pop("step") == ("meta" if fused else "cpu")
        assert set(placed) == {"exp_avg", "exp_avg_sq", "momentum_buffer"}
        assert set(placed.values()) == {"meta"}


@pytest.mark.parametrize(
    "random", [[], [{}], [{"cpu": "no base 64!"}], [{"cpu": "AAAA"}], {"cpu": 3}, [{"cuda": "AAAA"}], None]
)
def test_broken_generators_are_refused(data: hb.TokenData, tmp_path: Path, random) -> None:
    stopped(data, tmp_path / "run")
    rewrite(tmp_path / "run", random=lambda r: random)
    model = new_model()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"state\.json.*random"):
        Trainer(model, data, CONFIG, out=tmp_path / "run", resume=True)
    assert all(before[name].equal(t) for name, t in model.state_dict().items())


@pytest.mark.gpu
def test_a_run_moves_to_the_gpu_and_back(data: hb.TokenData, tmp_path: Path) -> None:
    def losses(run: Path) -> list[float]:
        return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]

    def model() -> hb.GPT:
        return new_model(dropout=0.0)

    there = dataclasses.replace(CONFIG, device="cuda")
    Trainer(model(), data, dataclasses.replace(CONFIG, steps=6), out=tmp_path / "whole", quiet=True).fit()
    for number, where in enumerate((CONFIG, there, CONFIG)):
        config = dataclasses.replace(where, steps=6)
        trainer = Trainer(model(), data, config, out=tmp_path / "run", resume=True, quiet=True)
        for _ in range(2):
            assert trainer.log is not None
            trainer.log.write(**trainer._one_step())
        trainer.save()
        assert trainer.step == 2 * number + 2
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "whole"), rel=1e-3)
