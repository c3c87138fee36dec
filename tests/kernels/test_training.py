"""A model trained with each implementation learns the same."""

from __future__ import annotations

from pathlib import Path

import hornbook as hb
import pytest
import torch
from hornbook.corpora import fables
from hornbook.data import Batches
from hornbook.kernels import interpreter, library

IMPLEMENTATIONS = ("reference", "torch", "fused", "attention=composed")
STEPS = 20


@pytest.fixture(scope="module")
def data() -> hb.TokenData:
    texts = [story.text for story in fables.generate(100_000)]
    return hb.TokenData.from_text(texts, hb.Tokenizer.train(texts, vocab_size=512))


@pytest.fixture(autouse=True)
def _as_before():
    with hb.use_kernels("auto"):
        yield


def learn(choice: str, config: hb.GPTConfig, data: hb.TokenData, device: str) -> tuple[list[float], list[torch.Tensor]]:
    """The losses of all steps, and the gradients of the first."""
    from hornbook import ops

    ops.use("torch")
    ops.use(choice)
    torch.manual_seed(0)
    model = hb.GPT(config)
    train = hb.TrainConfig(
        steps=STEPS, batch_size=1, optimizer="adamw", learning_rate=1e-3, eval_every=0, device=device, clip=0.0
    )
    trainer = hb.Trainer(model, data, train, quiet=True)
    ids, targets = Batches(data.train, 1, config.context_length).next()
    model(ids.to(device), targets.to(device)).backward()
    first = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    library.launches.clear()
    return [trainer._one_step()["loss"] for _ in range(STEPS)], first


def same(config: hb.GPTConfig, data: hb.TokenData, device: str) -> None:
    results = {}
    for choice in IMPLEMENTATIONS:
        results[choice] = learn(choice, config, data, device)
        if choice == "torch":
            assert not library.launches
        if choice == "fused":
            assert library.launches["attention_forward"] == STEPS * config.n_layer
            assert library.launches["attention_backward_q"] == STEPS * config.n_layer
            first = "layer_norm_rows" if config.norm == "layernorm" else "rms_norm_rows"
            assert library.launches[first] >= STEPS  # more if queries and keys are normalised, too
            assert library.launches["add_norm_rows"] == STEPS * 2 * config.n_layer
            assert library.launches["norm_backward_rows"] == library.launches[first] + STEPS * 2 * config.n_layer
    assert library.launches["softmax_rows"] == library.launches["softmax_backward_rows"] == STEPS * config.n_layer
    losses, gradients = results.pop("reference")
    assert losses[-1] < losses[0] - 0.2
    largest = max(g.abs().max().item() for g in gradients)
    for choice, (mine, first) in results.items():
        assert mine == pytest.approx(losses, rel=1e-4), choice
        assert len(first) == len(gradients) > 0
        for a, b in zip(first, gradients, strict=True):
            assert (a - b).abs().max() <= 1e-5 * largest, choice


@pytest.mark.skipif(not interpreter.is_on(), reason="kernels run on the GPU here")
def test_twenty_steps_are_the_same(data: hb.TokenData) -> None:
    config = hb.GPTConfig(vocab_size=512, context_length=32, n_layer=2, n_head=2, d_model=64)
    same(config, data, "cpu")


@pytest.mark.gpu
def test_twenty_steps_of_nano_are_the_same(data: hb.TokenData) -> None:
    same(hb.GPTConfig.preset("nano", vocab_size=512), data, "cuda")
    same(hb.GPTConfig.preset("nano", vocab_size=512, norm="layernorm"), data, "cuda")


@pytest.mark.skipif(not interpreter.is_on(), reason="kernels run on the GPU here")
def test_the_sampler_draws_by_the_kernel(data: hb.TokenData) -> None:
    torch.manual_seed(0)
    model = hb.GPT(hb.GPTConfig(vocab_size=512, context_length=32, n_layer=1, n_head=2, d_model=32))
    with hb.use_kernels("torch"):
        want = hb.generate(model, data.tokenizer, "Once", max_new_tokens=5, seed=1, top_p=0.9)
    library.launches.clear()
    with hb.use_kernels("fused"):
        assert hb.generate(model, data.tokenizer, "Once", max_new_tokens=5, seed=1, top_p=0.9) == want
    assert library.launches["sample_logits_row"] == 5
    assert library.launches["attention_forward"] + library.launches["decode_attention_split"] == 5


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.skipif(not interpreter.is_on(), reason="kernels run on the GPU here")
def test_the_command_trains_with_kernels(data: hb.TokenData, tmp_path: Path) -> None:
    """In processes of their own, as there Triton is not imported yet."""
    import os
    import subprocess
    import sys

    (tmp_path / "text.txt").write_text("\n<|endoftext|>\n".join(s.text for s in fables.generate(30_000)))
    data.tokenizer.save(tmp_path / "tok")
    clean = {k: v for k, v in os.environ.items() if k not in (interpreter.VARIABLE, "HORNBOOK_KERNELS")}

    def hornbook(*args: object, **environment: str) -> str:
        command = [sys.executable, "-m", "hornbook", *map(str, args)]
        done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stderr

    hornbook("prepare", "text.txt", "--tokenizer", "tok", "--out", "shards")
    shape = "--model.n-layer 1 --model.d-model 32 --model.n-head 2 --model.context-length 32 --model.norm layernorm"
    train = ["train", "--data", "shards", "--steps", 2, "--batch-size", 1, "--eval-every", 0, *shape.split()]
    said = hornbook(*train, "--out", "a", HORNBOOK_KERNELS="fused")
    assert "interpreter" in said
    assert "; asked for: fused\n" in said
    said = hornbook(*train, "--out", "b", "--kernels", "fused,attention=composed")
    assert "composed: attention" in said
    hornbook(*train, "--out", "c", "--kernels", "reference")
    losses = [[e["loss"] for e in read(tmp_path / run / "log.jsonl")] for run in "abc"]
    assert losses[0] == pytest.approx(losses[2], rel=1e-4)
    assert losses[1] == pytest.approx(losses[2], rel=1e-4)


def read(path: Path) -> list[dict[str, float]]:
    import json

    return [json.loads(line) for line in path.read_text().splitlines()]
