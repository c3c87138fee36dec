"""What a GPTConfig takes, what it refuses, and in which words."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import hornbook as hb
import pytest
from hornbook.errors import ConfigError
from hornbook.model import PRESETS


def test_defaults_are_gpt2() -> None:
    c = hb.GPTConfig()
    assert (c.vocab_size, c.context_length, c.n_layer, c.n_head, c.d_model) == (50257, 1024, 12, 12, 768)
    assert (c.kv_heads, c.head_size, c.ff_size) == (12, 64, 3072)
    assert (c.norm, c.position, c.activation, c.tie_embeddings, c.bias) == (
        "layernorm",
        "learned",
        "gelu_tanh",
        True,
        True,
    )


@pytest.mark.parametrize("name", ["vocab_size", "context_length", "n_layer", "n_head", "d_model"])
@pytest.mark.parametrize("value", [0, -1, 1.0, "2", None, True])
def test_sizes_are_counts(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a whole number of at least 1, not {re.escape(repr(value))}"):
        hb.GPTConfig(**{name: value})


@pytest.mark.parametrize("name", ["n_kv_head", "d_ff", "head_dim", "attention_window", "padded_vocab_size"])
@pytest.mark.parametrize("value", [0, -1, 1.0, "2", False])
def test_optional_sizes_are_counts_or_none(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a whole number of at least 1, not {re.escape(repr(value))}"):
        hb.GPTConfig(**{name: value})
    hb.GPTConfig(**{name: None})


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def scaled(**changes: Any) -> dict[str, Any]:
    values = {k: v for k, v in (LLAMA3 | changes).items() if v is not ...}
    return {"position": "rope", "rope_scaling": values}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d_model": 10, "n_head": 4}, r"d_model \(10\) must be a multiple of n_head \(4\), or give head_dim"),
        ({"d_model": 2, "n_head": 4}, r"d_model \(2\) must be a multiple of n_head \(4\), or give head_dim"),
        ({"n_head": 6, "n_kv_head": 4, "d_model": 12}, r"n_head \(6\) must be a multiple of n_kv_head \(4\)"),
        ({"n_head": 2, "n_kv_head": 4, "d_model": 12}, r"n_head \(2\) must be a multiple of n_kv_head \(4\)"),
        ({"position": "rope", "head_dim": 5}, "head_dim must be even, not 5"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1.0"),
        ({"dropout": -0.1}, "dropout must be at least 0"),
        ({"norm": "rmsnrom"}, r"norm cannot be 'rmsnrom'; did you mean 'rmsnorm'\?"),
        ({"activation": "swish"}, "activation cannot be 'swish'; "),
        ({"position": None}, "position cannot be None"),
        ({"norm_eps": -1.0}, "norm_eps must be a positive number, not -1.0"),
        ({"init_std": float("inf")}, "init_std must be a positive number, not inf"),
        ({"rope_theta": 0.0}, "rope_theta must be a positive number, not 0.0"),
        ({"norm_position": "sandwich"}, "norm_position cannot be 'sandwich'; known: post, pre"),
        ({"attention_window": 0}, "attention_window must be a whole number of at least 1, not 0"),
        ({"logit_softcap": 0.0}, "logit_softcap must be a positive number, or None for no cap, not 0.0"),
        ({"logit_softcap": -30}, "logit_softcap must be a positive number, or None for no cap, not -30"),
        ({"logit_softcap": float("inf")}, "logit_softcap must be a positive number, or None for no cap, not inf"),
        ({"logit_softcap": float("nan")}, r"logit_softcap should be of type float \| None, but is nan"),
        ({"logit_softcap": True}, r"logit_softcap should be of type float \| None, but is True"),
        ({"padded_vocab_size": 50256}, r"padded_vocab_size \(50256\) adds rows to .* vocab_size \(50257\), so it must"),
        ({"rope_scaling": LLAMA3}, "rope_scaling slows rope down, but position is 'learned': give position='rope'"),
        ({"rope_scaling": "linear", "position": "rope"}, "rope_scaling should be of type dict"),
        ({"rope_scaling": {}, "position": "rope"}, "rope_scaling: rope_type cannot be None; known: linear, llama3"),
        ({"rope_scaling": {"factr": 2}, "position": "rope"}, r"no setting 'factr'; did you mean 'factor'\?"),
        (scaled(rope_type="lama3"), r"rope_type cannot be 'lama3'; did you mean 'llama3'\?"),
        (scaled(rope_type=["llama3"]), "rope_type cannot be "),
        (scaled(rope_type="linear"), "rope_scaling of rope_type 'linear' has no setting 'low_freq_factor'; known: fac"),
        (scaled(hi_freq_factor=2), "of rope_type 'llama3' has no setting 'hi_freq_factor'; did you mean 'high_freq_f"),
        (scaled(low_freq_factor=...), "rope_scaling of rope_type 'llama3' needs factor, .*; no low_freq_factor"),
        (scaled(factor=0.5), "rope_scaling: factor says how many times slower, at least 1, not 0.5"),
        (scaled(factor="8"), "rope_scaling: factor must be a positive number, not '8'"),
        (scaled(factor=float("nan")), "rope_scaling: factor must be a positive number, not nan"),
        (scaled(factor=True), "rope_scaling: factor must be a positive number, not True"),
        (scaled(low_freq_factor=4), r"low_freq_factor \(4\) must be below high_freq_factor \(4.0\)"),
        (scaled(original_max_position_embeddings=8.5), "is a number of tokens, a whole one, not 8.5"),
        (scaled(original_max_position_embeddings=0), "original_max_position_embeddings must be a positive number"),
    ],
)
def test_nonsense(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        hb.GPTConfig(**fields)
    assert "\n" not in str(raised.value)


def test_sizes_that_follow_from_others() -> None:
    assert hb.GPTConfig(d_model=100, n_head=7, head_dim=4).head_size == 4
    assert hb.GPTConfig(n_kv_head=4).kv_heads == 4
    assert hb.GPTConfig(activation="swiglu").ff_size == 2048
    assert hb.GPTConfig(activation="swiglu", d_model=24, n_head=1).ff_size == 64
    assert hb.GPTConfig(activation="swiglu", d_model=25, n_head=1).ff_size == 128
    assert hb.GPTConfig(activation="swiglu", d_ff=5).ff_size == 5


def test_scaling_is_a_copy_in_one_order() -> None:
    given: dict[str, Any] = dict(reversed(scaled(original_max_position_embeddings=8192.0)["rope_scaling"].items()))
    c = hb.GPTConfig(position="rope", rope_scaling=given)
    given["factor"] = 0.0
    assert c.rope_scaling is not None
    assert list(c.rope_scaling.items()) == list(LLAMA3.items())
    assert type(c.rope_scaling["original_max_position_embeddings"]) is int  # a command line reads it as 8192.0
    assert dataclasses.replace(c, n_layer=1).rope_scaling == LLAMA3


def test_presets() -> None:
    for name in PRESETS:
        hb.GPTConfig.preset(name)
    assert hb.GPTConfig.preset("gpt2") == hb.GPTConfig()
    assert hb.GPTConfig.preset("gpt2-xl", context_length=8).context_length == 8
    with pytest.raises(ConfigError, match=r"no preset 'gpt2-midium'; did you mean 'gpt2-medium'\?"):
        hb.GPTConfig.preset("gpt2-midium")
    with pytest.raises(ConfigError, match=r"preset nano: there is no setting 'n_layers'; did you mean 'n_layer'\?"):
        hb.GPTConfig.preset("nano", n_layers=2)
    with pytest.raises(ConfigError, match=r"preset nano: .*multiple of n_kv_head"):
        hb.GPTConfig.preset("nano", n_kv_head=3)


# What the weights that OpenAI published hold; the numbers in their paper are smaller.
@pytest.mark.parametrize(
    ("name", "count"),
    [("gpt2", 124_439_808), ("gpt2-medium", 354_823_168), ("gpt2-large", 774_030_080), ("gpt2-xl", 1_557_611_200)],
)
def test_published_parameter_counts(name: str, count: int) -> None:
    c = hb.GPTConfig.preset(name)
    layer = 12 * c.d_model**2 + 13 * c.d_model
    assert (c.vocab_size + c.context_length) * c.d_model + c.n_layer * layer + 2 * c.d_model == count
    import torch

    with torch.device("meta"):
        assert hb.GPT(c).parameter_count() == count
