"""The benchmark of whole models, on a CPU."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hornbook.benchmarks import model as model_
from hornbook.benchmarks import timing
from hornbook.cli import main


def test_model_on_a_cpu(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"context_length": 32, "n_layer": 1, "n_head": 2, "d_model": 32, "vocab_size": 64}
    preset = model_.GPTConfig.preset
    monkeypatch.setattr(model_.GPTConfig, "preset", lambda name: preset(name, **shape))
    clock = iter(range(1, 10_000))
    monkeypatch.setattr(timing, "host_clock", lambda call: (call(), float(next(clock)))[1])
    main(["bench", "model", "--preset", "nano", "--device", "cpu", "--quick", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    digest = json.loads(said.splitlines()[-1])
    assert set(digest["tokens_per_second"]) == {"reference", "torch"}
    assert (digest["wrong"], digest["failed"], digest["rows"]) == ([], [], 2)
    result = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    first = result["first_step"]
    assert first["loss"]["torch"] == pytest.approx(math.log(64), rel=0.1)
    assert 0 < first["gradient"]["torch"] < 1e-5
    training = result["training"]
    assert training["tokens_per_second"]["torch"] == pytest.approx(64 / training["ms"]["torch"]["median"] * 1000)
    assert [d["cached"] for d in result["decoding"]] == [31, 31]
    assert "| torch |" in (tmp_path / "model.md").read_text(encoding="utf-8")


def test_a_model_that_disagrees_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    config = model_.GPTConfig(context_length=16, n_layer=1, n_head=2, d_model=32, vocab_size=64)
    training = model_.Training(config, torch.device("cpu"), "fp32")
    notes: dict[str, str] = {}
    assert model_.agreement(training, ["reference", "torch"], (2,), "fp32", notes)["wrong"] == []
    right = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *a, **o: right(*a, **o) * 0.9)
    found = model_.agreement(training, ["reference", "torch"], (2,), "fp32", notes)
    assert found["wrong"] == ["torch"]
    assert not notes


def test_the_largest_batch_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference has memory for 2 rows; where even one row is too much, it is left out and the others go on."""
    config = model_.GPTConfig(context_length=16, n_layer=1, n_head=2, d_model=32, vocab_size=64)
    training = model_.Training(config, torch.device("cpu"), "fp32")
    first, room = training.first, 2

    def tight(name: str) -> Any:
        if name == "reference" and len(training.ids) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return first(name)

    monkeypatch.setattr(training, "first", tight)
    notes: dict[str, str] = {}
    assert set(model_.agreement(training, ["reference", "torch"], (8, 4, 2, 1), "fp32", notes)["loss"]) == {
        "reference",
        "torch",
    }
    assert len(training.ids) == 2
    assert not notes
    room = 0
    assert set(model_.agreement(training, ["reference", "torch"], (2, 1), "fp32", notes)["loss"]) == {"torch"}
    assert "out of memory" in notes["reference"]
