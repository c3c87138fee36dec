"""Any configuration that makes sense is a model whose parts agree: drawn at random from all fields.

What counts as a floating-point operation: two for each multiplication with a weight or between activations in a product
of matrices, as PyTorch's own counter counts them while the reference runs, and nothing else.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from typing import Any

import hornbook as hb
import pytest
import torch
import torch.nn.functional as F
from hornbook.config import from_dict, to_toml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

# Everything is compared in float64, where rounding is out of the question: what differs by more than this share of the
# largest value is wrong. In fp32 the same models agree to about 1e-5 (test_model.py holds them to that).
TOLERANCE = 1e-9


@st.composite
def scalings(draw: st.DrawFn) -> dict[str, Any]:
    factor = draw(st.sampled_from([1, 2.5, 8.0]))
    if draw(st.booleans()):
        return {"rope_type": "linear", "factor": factor}
    low = draw(st.sampled_from([0.5, 1, 2.0]))
    high = low + draw(st.sampled_from([0.5, 3]))
    length = draw(st.integers(1, 40))
    ends = {"low_freq_factor": low, "high_freq_factor": high, "original_max_position_embeddings": length}
    return {"rope_type": "llama3", "factor": factor, **ends}


@st.composite
def configs(draw: st.DrawFn) -> hb.GPTConfig:
    n_kv_head, group, head_dim = draw(st.integers(1, 3)), draw(st.integers(1, 3)), 2 * draw(st.integers(1, 5))
    n_head = n_kv_head * group
    own_width = draw(st.booleans())
    position = draw(st.sampled_from(["learned", "sinusoidal", "rope", "alibi", "none"]))
    if position != "rope" and own_width:
        head_dim -= draw(st.integers(0, 1))
    vocab_size = draw(st.integers(1, 40))
    fields: dict[str, Any] = {
        "vocab_size": vocab_size,
        "context_length": draw(st.integers(1, 12)),
        "n_layer": draw(st.integers(1, 3)),
        "n_head": n_head,
        "n_kv_head": draw(st.sampled_from([n_kv_head, None])) if group == 1 else n_kv_head,
        "d_model": draw(st.integers(1, 40)) if own_width else n_head * head_dim,
        "d_ff": draw(st.sampled_from([None, 1, 17])),
        "head_dim": head_dim if own_width else None,
        "dropout": draw(st.sampled_from([0.0, 0.5])),
        "bias": draw(st.booleans()),
        "qkv_bias": draw(st.sampled_from([None, True, False])),
        "norm": draw(st.sampled_from(["layernorm", "rmsnorm"])),
        "norm_eps": draw(st.sampled_from([1e-5, 1e-6])),
        "norm_position": draw(st.sampled_from(["pre", "post"])),
        "qk_norm": draw(st.booleans()),
        "position": position,
        "rope_theta": draw(st.sampled_from([100.0, 10000.0, 500000.0])),
        "rope_scaling": draw(st.none() | scalings()) if position == "rope" else None,
        "activation": draw(st.sampled_from(["gelu", "gelu_tanh", "relu", "relu2", "swiglu"])),
        "attention_window": draw(st.sampled_from([None, None, 1, 3, 20])),
        "logit_softcap": draw(st.sampled_from([None, 0.5, 30])),
        "tie_embeddings": draw(st.booleans()),
        "init_std": draw(st.sampled_from([0.02, 0.2])),
        "padded_vocab_size": draw(st.sampled_from([None, vocab_size, vocab_size + 1, 64])),
    }
    assert fields.keys() == {field.name for field in dataclasses.fields(hb.GPTConfig)}
    return hb.GPTConfig(**fields)


def parameters_by_hand(c: hb.GPTConfig) -> int:
    H, KV, D, W = c.n_head, c.n_kv_head or c.n_head, c.head_dim or c.d_model // c.n_head, c.d_model
    ff = c.d_ff or (math.ceil(W * 8 / 3 / 64) * 64 if c.activation == "swiglu" else 4 * W)
    ups = 2 if c.activation == "swiglu" else 1
    norm = W + (W if c.norm == "layernorm" and c.bias else 0)
    matrices = W * H * D + 2 * W * KV * D + H * D * W + ups * W * ff + ff * W
    biases = (H * D + 2 * KV * D if (c.bias if c.qkv_bias is None else c.qkv_bias) else 0) + (
        W + ups * ff + W if c.bias else 0
    )
    outer = embeddings_by_hand(c) + (0 if c.tie_embeddings else (c.padded_vocab_size or c.vocab_size) * W)
    return outer + c.n_layer * (matrices + biases + 2 * norm) + (norm if c.norm_position == "pre" else 0)


def embeddings_by_hand(c: hb.GPTConfig) -> int:
    positions = c.context_length if c.position == "learned" else 0
    return ((c.padded_vocab_size or c.vocab_size) + positions) * c.d_model


def same(a: Tensor, b: Tensor) -> None:
    assert a.shape == b.shape
    assert float((a - b).abs().max()) <= TOLERANCE * max(1.0, float(a.abs().max()))


def pieces(data: st.DataObject, T: int) -> list[list[int]]:
    """Ways to cut T tokens: one by one, a beginning and then one by one, and anyhow."""
    start = data.draw(st.integers(0, T - 1))
    cuts = sorted(data.draw(st.sets(st.integers(1, T - 1)))) if T > 1 else []
    anyhow = [b - a for a, b in zip([0, *cuts], [*cuts, T], strict=True)]
    return [[1] * T, [start] * (start > 0) + [1] * (T - start), anyhow]


def check(folder: Any, c: hb.GPTConfig, seed: int, data: st.DataObject) -> None:
    torch.manual_seed(seed)
    model = hb.GPT(c).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            rows = p[: c.vocab_size] if name in ("embed.weight", "lm_head.weight") else p
            rows += 0.1 * torch.randn_like(rows)
    T, B, V = c.context_length, data.draw(st.integers(1, 3)), c.vocab_size
    ids, targets = torch.randint(V, (2, B, T), generator=torch.Generator().manual_seed(seed)).unbind()

    assert model.parameter_count() == parameters_by_hand(c) == sum(p.numel() for p in set(model.state_dict().values()))
    assert model.parameter_count(embeddings=False) == parameters_by_hand(c) - embeddings_by_hand(c)

    model.save_pretrained(folder)
    again, _ = hb.load(folder)
    assert again.config == c == from_dict(hb.GPTConfig, tomllib.loads(to_toml({"model": c}))["model"], "run.toml")
    with torch.no_grad():
        assert torch.equal(again(ids), model(ids))
    for (name, a), (other, b) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(a, b)

    model.double()
    with torch.no_grad():
        logits = model(ids)
        assert logits.shape == (B, T, V)
        assert c.logit_softcap is None or float(logits.abs().max()) <= c.logit_softcap
        for sizes in pieces(data, T):
            cache = model.new_cache(B)
            same(torch.cat([model(piece, cache=cache) for piece in ids.split(sizes, dim=1)], 1), logits)
        with hb.use_kernels("reference"), FlopCounterMode(display=False) as counter:
            same(model(ids), logits)
        # The reference multiplies every query with every key; the model counts those that a query sees.
        every = 4 * c.n_layer * c.n_head * c.head_size * T
        pairs = sum(min(t + 1, c.attention_window or T) for t in range(T))
        seen = 4 * c.n_layer * c.n_head * c.head_size * pairs // T
        assert counter.get_total_flops() / (B * T) == model.flops_per_token(T) - seen + every

    found = []
    for implementation in ("reference", "torch"):
        with hb.use_kernels(implementation):
            loss = model(ids, targets)
            found.append((loss.detach(), *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)))
    for a, b in zip(*found, strict=True):
        same(a, b)
    same(found[0][0], F.cross_entropy(logits.flatten(0, 1), targets.flatten()))
    for (name, p), gradient in zip(model.named_parameters(), found[0][1:], strict=True):
        if name in ("embed.weight", "lm_head.weight"):  # padding is 0, and stays so
            assert not p[V:].any()
            assert not gradient[V:].any()


HOW: dict[str, Any] = {
    "deadline": None, "derandomize": True, "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}  # fmt: skip


@settings(max_examples=20, **HOW)
@given(configs(), st.integers(0, 10), st.data())
def test_any_configuration(tmp_path_factory: pytest.TempPathFactory, c: hb.GPTConfig, seed: int, data: Any) -> None:
    check(tmp_path_factory.mktemp("model"), c, seed, data)


@pytest.mark.slow
@settings(max_examples=300, **HOW)
@given(configs(), st.integers(0, 10), st.data())
def test_many_configurations(tmp_path_factory: pytest.TempPathFactory, c: hb.GPTConfig, seed: int, data: Any) -> None:
    check(tmp_path_factory.mktemp("model"), c, seed, data)
