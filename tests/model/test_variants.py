"""Positions, norms after the sums, a cap on logits and padding, each against something that was not written here."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import hornbook as hb
import pytest
import torch
import torch.nn.functional as F
from hornbook.positions import sinusoids
from hornbook.sample import Sampling, beam_search, sample_ids
from torch import Tensor, nn

SMALL: dict[str, Any] = {"vocab_size": 29, "context_length": 24, "n_layer": 2, "n_head": 4, "d_model": 32}


def build(seed: int = 0, std: float = 0.2, **fields: Any) -> hb.GPT:
    torch.manual_seed(seed)
    model = hb.GPT(hb.GPTConfig(**SMALL | fields)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            rows = p[: model.config.vocab_size] if name in ("embed.weight", "lm_head.weight") else p
            rows.normal_(std=std)
            if name.endswith("norm.weight"):
                p += 1
    return model


def some_ids(model: hb.GPT, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("length", "width"), [(1, 1), (3000, 6), (40, 33), (7, 512)])
def test_sinusoids_are_the_papers(length: int, width: int) -> None:
    """PE(pos, 2i) = sin(pos / 10000^(2i / d)) and PE(pos, 2i + 1) = cos of the same, in Python's own float64."""
    got = sinusoids(length, width)
    assert (got.shape, got.dtype) == ((length, width), torch.float32)
    for p in range(0, length, 1 if length < 100 else 271):
        for channel in range(width):
            wave = math.cos if channel % 2 else math.sin
            want = wave(p / 10000 ** ((channel - channel % 2) / width))
            assert abs(float(got[p, channel]) - want) <= 2**-25  # half of fp32's last place below 1


class WithPyTorchsLayers(nn.Module):
    """A model's blocks as PyTorch's own encoder layers, whose norms come after the sums, with its weights."""

    def __init__(self, model: hb.GPT) -> None:
        super().__init__()
        c, w = model.config, model.state_dict()
        layer = nn.TransformerEncoderLayer(
            c.d_model, c.n_head, c.ff_size, dropout=0.0, activation=c.activation, layer_norm_eps=c.norm_eps,
            batch_first=True, norm_first=False, bias=c.bias,
        )  # fmt: skip
        self.layers = nn.TransformerEncoder(layer, c.n_layer, enable_nested_tensor=False)
        self.embed = nn.Embedding.from_pretrained(w["embed.weight"].clone(), freeze=False)
        self.places = nn.Parameter(w["position.weight"].clone())
        names = {
            "self_attn.out_proj": "attn.o_proj", "linear1": "mlp.up_proj", "linear2": "mlp.down_proj",
            "norm1": "attn_norm", "norm2": "mlp_norm",
        }  # fmt: skip
        with torch.no_grad():
            for n, theirs in enumerate(self.layers.layers):
                for name, p in theirs.named_parameters():
                    part, _, kind = name.rpartition(".")
                    if part == "self_attn":  # in_proj_weight and in_proj_bias
                        kind = kind.removeprefix("in_proj_")
                        p.copy_(torch.cat([w[f"blocks.{n}.attn.{x}_proj.{kind}"] for x in "qkv"]))
                    else:
                        p.copy_(w[f"blocks.{n}.{names[part]}.{kind}"])

    def forward(self, ids: Tensor) -> Tensor:
        T = ids.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(T)
        x = self.layers(self.embed(ids) + self.places[:T], mask=mask, is_causal=True)
        return x @ self.embed.weight.T


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_norms_after_the_sums_are_pytorchs(activation: str, bias: bool) -> None:
    model = build(norm_position="post", activation=activation, bias=bias)
    theirs = WithPyTorchsLayers(model)
    assert sum(p.numel() for p in theirs.parameters()) == model.parameter_count()
    ids, targets = some_ids(model, 3, 17), some_ids(model, 3, 17, seed=1)
    want = theirs(ids)
    assert float(want.detach().std()) > 0.5
    torch.testing.assert_close(model(ids), want, atol=1e-5, rtol=1e-5)
    model(ids, targets).backward()
    F.cross_entropy(want.flatten(0, 1), targets.flatten()).backward()
    first = theirs.layers.layers[0]
    for mine, gradient in (
        (model.embed.weight, theirs.embed.weight.grad),
        (model.position.weight, theirs.places.grad),
        (model.blocks[0].attn_norm.weight, first.norm1.weight.grad),
        (model.blocks[0].mlp.down_proj.weight, first.linear2.weight.grad),
        (model.blocks[0].attn.k_proj.weight, first.self_attn.in_proj_weight.grad[32:64]),
    ):
        torch.testing.assert_close(mine.grad, gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cap_on_logits(dtype: torch.dtype) -> None:
    """The logits are Gemma's function of the logits without it, and the loss is that of the capped ones."""
    capped, free = build(logit_softcap=0.7), build()
    capped.compute_dtype = free.compute_dtype = dtype
    ids, targets = some_ids(free, 2, 9), some_ids(free, 2, 9, seed=1)
    raw = free(ids).detach()
    want = 0.7 * (raw.double() / 0.7).tanh()
    assert float((raw - want).abs().max()) > 0.5
    near = 1e-6 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(capped(ids).double(), want, atol=near, rtol=near)
    loss = F.cross_entropy(want.flatten(0, 1), targets.flatten())
    assert abs(float(capped(ids, targets).detach()) - float(loss.detach())) <= near


def padded(model: hb.GPT, rows: int) -> hb.GPT:
    """The same model with rows of padding, which hold what must never be seen."""
    tensors = dict(model.state_dict())
    for name in ("embed.weight", "lm_head.weight"):
        if name in tensors:
            tensors[name] = F.pad(tensors[name], (0, 0, 0, rows - model.config.vocab_size), value=50.0)
    return hb.GPT.from_tensors(replace(model.config, padded_vocab_size=rows), tensors, "here").eval()


@pytest.mark.parametrize("tie", [True, False])
def test_padding_is_never_seen(tie: bool) -> None:
    """Whatever is in its rows, logits, losses and gradients are those of the model without, and so is what is
    written."""
    model = build(tie_embeddings=tie)
    wide = padded(model, 64)
    assert wide.embed.weight.shape == (64, 32)
    assert wide.parameter_count() - model.parameter_count() == 35 * 32 * (1 if tie else 2)
    ids, targets = some_ids(model, 2, 9), some_ids(model, 2, 9, seed=1)
    for choice in ("reference", "torch"):
        with hb.use_kernels(choice):
            assert wide(ids).shape == (2, 9, 29)
            torch.testing.assert_close(wide(ids), model(ids), atol=1e-5, rtol=1e-5)
            for reduction in ("mean", "sum", "none"):
                a, b = (m(ids, targets, reduction=reduction) for m in (wide, model))
                torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
            a, b = (torch.autograd.grad(m(ids, targets), list(m.parameters())) for m in (wide, model))
            for (name, _), x, y in zip(model.named_parameters(), a, b, strict=True):
                torch.testing.assert_close(x[: len(y)], y, atol=1e-5, rtol=1e-4)
                assert not x[len(y) :].any(), name
    options: dict[str, Any] = {"max_new_tokens": 30, "seed": 3}
    hot = Sampling(temperature=3.0)
    a, b = (torch.stack(list(sample_ids(m, ids, hot, **options))) for m in (wide, model))
    assert torch.equal(a, b)
    beams: dict[str, Any] = {"num_beams": 40, "max_new_tokens": 4, "eot_id": None}  # more than there are tokens
    assert beam_search(wide, [1, 2], **beams) == beam_search(model, [1, 2], **beams)


def test_training_leaves_padding_alone() -> None:
    from hornbook import optim

    model = hb.GPT(hb.GPTConfig(**SMALL, padded_vocab_size=32, tie_embeddings=False))
    assert not model.embed.weight[29:].any()
    (optimizer,) = optim.build(
        model, "adamw", learning_rate=0.1, muon_learning_rate=0.0, weight_decay=0.1, betas=(0.9, 0.95)
    )
    before = model.embed.weight.detach().clone()
    for step in range(3):
        optimizer.zero_grad()
        model(some_ids(model, 2, 8, seed=step), some_ids(model, 2, 8, seed=step + 1)).backward()
        optimizer.step()
    for weight in (model.embed.weight, model.lm_head.weight):
        assert not weight[29:].any()
    assert (model.embed.weight[:29] != before[:29]).all()


FUSED: dict[str, dict[str, Any]] = {
    "transformer-of-2017": {
        "norm_position": "post", "position": "sinusoidal", "activation": "relu", "logit_softcap": 2.0,
        "padded_vocab_size": 32,
    },
    "llama3-long": {
        "norm": "rmsnorm", "position": "rope", "activation": "swiglu", "bias": False, "n_kv_head": 1, "qk_norm": True,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
            "original_max_position_embeddings": 16,
        },
        "rope_theta": 50.0, "tie_embeddings": False, "padded_vocab_size": 40, "attention_window": 6,
    },
    "alibi": {
        "position": "alibi", "attention_window": 7, "activation": "gelu", "norm": "rmsnorm", "norm_position": "post",
        "logit_softcap": 5.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", FUSED)
def test_kernels_give_the_same(name: str) -> None:
    """Losses, gradients, logits, and logits by the cache, of every kernel against the reference."""
    pytest.importorskip("triton")
    from hornbook.kernels import library

    device = "cuda" if torch.cuda.is_available() else "cpu"  # the interpreter
    model = build(n_head=2, n_layer=1, **FUSED[name]).to(device)
    ids, targets = (some_ids(model, 2, 11, seed=seed).to(device) for seed in (0, 1))

    def everything() -> tuple[Tensor, ...]:
        loss = model(ids, targets)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            cache = model.new_cache(2)
            cached = torch.cat([model(piece, cache=cache) for piece in ids.split([8, 2, 1], dim=1)], dim=1)
            return loss.detach(), *gradients, model(ids), cached

    with hb.use_kernels("reference"):
        want = everything()
    before = {
        kernel: library.launches[kernel] for kernel in ("attention_forward", "decode_attention_split", "add_norm_rows")
    }
    with hb.use_kernels("fused"):
        got = everything()
    assert all(library.launches[kernel] > count for kernel, count in before.items())
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)
