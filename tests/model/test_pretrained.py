"""Model directories that are whole, and ones that are not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import hornbook as hb
import pytest
import torch
from hornbook.errors import CheckpointError, ConfigError, HornbookError
from hornbook.files import read_tensors, write_tensors

CONFIG = hb.GPTConfig(vocab_size=13, context_length=6, n_layer=1, n_head=2, d_model=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    hb.GPT(CONFIG).save_pretrained(tmp_path / "deep" / "model")
    return tmp_path / "deep" / "model"


def test_what_is_written(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "hornbook"
    assert config["n_layer"] == 1
    model, tokenizer = hb.load(str(folder))
    assert tokenizer is None
    assert not model.training
    assert model.config == CONFIG


def test_a_directory_that_the_first_version_wrote(folder: Path) -> None:
    """Its config.json, to the letter; in it, what could not be chosen then is None."""
    text = """{
  "model_type": "hornbook", "vocab_size": 13, "context_length": 6, "n_layer": 1, "n_head": 2, "n_kv_head": null,
  "d_model": 8, "d_ff": null, "head_dim": null, "dropout": 0.0, "bias": true, "qkv_bias": null, "norm": "layernorm",
  "norm_eps": 1e-05, "norm_position": "pre", "qk_norm": false, "position": "learned", "rope_theta": 500.0,
  "rope_scaling": null, "activation": "gelu_tanh", "attention_window": null, "logit_softcap": null,
  "tie_embeddings": true, "init_std": 0.02, "padded_vocab_size": null
}"""
    ids, before = torch.tensor([[3, 12, 0]]), hb.GPT.from_pretrained(folder)
    (folder / "config.json").write_text(text, encoding="utf-8")
    with torch.no_grad():
        assert torch.equal(hb.load(folder)[0](ids), before(ids))


def test_a_directory_is_overwritten(folder: Path) -> None:
    other = hb.GPT(CONFIG)
    other.save_pretrained(folder)
    assert torch.equal(hb.GPT.from_pretrained(folder).embed.weight, other.embed.weight)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_loading_draws_nothing(folder: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    hb.load(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_of_another_type_become_fp32(folder: Path) -> None:
    tensors = read_tensors(folder / "model.safetensors")
    write_tensors(folder / "model.safetensors", {k: v.bfloat16() for k, v in tensors.items()})
    model = hb.GPT.from_pretrained(folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    torch.testing.assert_close(model.embed.weight, tensors["embed.weight"], atol=1e-2, rtol=1e-2)


def edit_config(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8")) | changes
        path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}), encoding="utf-8")

    return edit


def edit_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = read_tensors(folder / "model.safetensors")
        change(tensors)
        write_tensors(folder / "model.safetensors", tensors)

    return edit


def cut(size: int) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:size])

    return edit


BROKEN: dict[str, tuple[Callable[[Path], object], type[HornbookError], str]] = {
    "half the weights": (cut(2000), CheckpointError, "model.safetensors: not a whole safetensors file"),
    "a bit of the header": (cut(20), CheckpointError, "model.safetensors: not a whole safetensors file"),
    "empty weights": (cut(0), CheckpointError, "model.safetensors: not a whole safetensors file"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), CheckpointError, "model.safetensors: no such file"),
    "no config": (lambda f: (f / "config.json").unlink(), CheckpointError, "config.json"),
    "no folder": (lambda f: shutil.rmtree(f), CheckpointError, "no such f"),
    "half a config": (
        lambda f: (f / "config.json").write_text('{"model_type": "horn'), CheckpointError, "config.json: cannot be"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), CheckpointError, "config.json: expected a JSON object"),
    "not text": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), CheckpointError, "config.json: cannot be"),
    "newer version": (
        edit_config(norm_type="x"), ConfigError, "config.json: there is no setting 'norm_type'; did you mean "),
    "other type": (edit_config(norm_eps="small"), ConfigError, "config.json: norm_eps should be of type float"),
    "nonsense": (edit_config(n_head=3), ConfigError, "config.json: d_model (8) must be a multiple of n_head (3)"),
    "no rope": (edit_config(rope_scaling={"factor": 2}), ConfigError, "config.json: rope_scaling slows rope down"),
    "other norms": (edit_config(norm_position="post"), CheckpointError, "unknown: ['norm.bias', 'norm.weight']"),
    "unknown kind": (edit_config(model_type="mamba"), CheckpointError, "'mamba'"),
    "no kind": (edit_config(model_type=...), CheckpointError, "None"),
    "wider": (edit_config(d_model=16), CheckpointError, "of another shape: ['blocks.0.attn"),
    "deeper": (edit_config(n_layer=2), CheckpointError, "missing: ['blocks.1.attn"),
    "one tensor less": (
        edit_tensors(lambda t: t.pop("norm.bias")), CheckpointError, "missing: ['norm.bias'], unknown: []"),
    "one tensor more": (
        edit_tensors(lambda t: t.update(x=torch.ones(1))), CheckpointError, "missing: [], unknown: ['x']"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_directories(name: str, folder: Path) -> None:
    damage, kind, message = BROKEN[name]
    damage(folder)
    before = {p: p.read_bytes() for p in folder.parent.rglob("*") if p.is_file()}
    for read in (hb.GPT.from_pretrained, hb.load):
        with pytest.raises(HornbookError) as raised:
            read(folder)
        line = str(raised.value)
        assert type(raised.value) is kind
        assert message in line
        assert str(folder) in line
        assert "\n" not in line
    assert before == {p: p.read_bytes() for p in folder.parent.rglob("*") if p.is_file()}


def test_a_model_that_cannot_load_is_as_it_was() -> None:
    model = hb.GPT(CONFIG)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    tensors = {k: torch.zeros_like(v) for k, v in before.items()}
    tensors["norm.bias"] = torch.zeros(9)
    with pytest.raises(CheckpointError, match=r"here: .*of another shape: \['norm.bias'\]"):
        model.load_tensors(tensors, "here")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_run_without_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        hb.load(tmp_path)


def test_a_run_is_its_latest_checkpoint(tmp_path: Path) -> None:
    for step in (5, 10):
        hb.GPT(CONFIG).save_pretrained(tmp_path / "checkpoints" / f"step-{step:06d}")
    (tmp_path / "checkpoints" / "latest").write_text("step-000005\n")
    model, _ = hb.load(tmp_path)
    saved = read_tensors(tmp_path / "checkpoints" / "step-000005" / "model.safetensors")
    assert torch.equal(model.embed.weight, saved["embed.weight"])
