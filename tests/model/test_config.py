"""What a GPTConfig takes, what it refuses, and in which words."""

from __future__ import annotations

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


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm_position": "post"}, "norm_position='post' is not implemented yet"),
        ({"position": "sinusoidal"}, "position='sinusoidal' is not implemented yet"),
        ({"rope_scaling": {"factor": 2.0}}, "rope_scaling=.* is not implemented yet"),
        ({"logit_softcap": 30.0}, "logit_softcap=30.0 is not implemented yet"),
        ({"padded_vocab_size": 50304}, "padded_vocab_size=50304 is not implemented yet"),
    ],
)
def test_not_yet(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        hb.GPTConfig(**fields)


@pytest.mark.parametrize("name", ["vocab_size", "context_length", "n_layer", "n_head", "d_model"])
@pytest.mark.parametrize("value", [0, -1, 1.0, "2", None, True])
def test_sizes_are_counts(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a whole number of at least 1, not {re.escape(repr(value))}"):
        hb.GPTConfig(**{name: value})


@pytest.mark.parametrize("name", ["n_kv_head", "d_ff", "head_dim", "attention_window"])
@pytest.mark.parametrize("value", [0, -1, 1.0, "2", False])
def test_optional_sizes_are_counts_or_none(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a whole number of at least 1, not {re.escape(repr(value))}"):
        hb.GPTConfig(**{name: value})
    hb.GPTConfig(**{name: None})


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


def test_presets() -> None:
    for name in PRESETS:
        hb.GPTConfig.preset(name)
    assert hb.GPTConfig.preset("gpt2") == hb.GPTConfig()
    assert hb.GPTConfig.preset("gpt2-xl", context_length=8).context_length == 8
    with pytest.raises(ConfigError, match=r"no preset 'gpt2-midium'; did you mean 'gpt2-medium'\?"):
        hb.GPTConfig.preset("gpt2-midium")
    with pytest.raises(
        ConfigError, match=r"preset nano: GPTConfig has no setting 'n_layers'; did you mean 'n_layer'\?"
    ):
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
