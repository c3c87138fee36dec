"""Llama as Hugging Face stores it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import from_dict
from ..errors import CheckpointError
from ..files import read_json
from ..model import GPT, GPTConfig
from . import huggingface

# Their names of a layer's parts → ours.
LAYER = {"input_layernorm": "attn_norm", "post_attention_layernorm": "mlp_norm", "self_attn": "attn"}
TOP = {
    "model.embed_tokens.weight": "embed.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "lm_head.weight",
}


def config(values: dict[str, Any], source: Path) -> GPTConfig:
    """Our configuration of theirs."""
    huggingface.require(
        values, source, "vocab_size", "max_position_embeddings", "num_hidden_layers", "num_attention_heads",
        "hidden_size", "intermediate_size",
    )  # fmt: skip
    # transformers ≥ 5 writes rope_parameters; before, it was rope_theta, and rope_scaling where there was some
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise CheckpointError(f"{source}/config.json: RoPE with scaling ({rope}) is not implemented yet")
    bias = values.get("attention_bias", False)
    huggingface.expect({"mlp_bias": False, **values}, source, hidden_act="silu", mlp_bias=bias)
    ours = {
        "vocab_size": values["vocab_size"],
        "context_length": values["max_position_embeddings"],
        "n_layer": values["num_hidden_layers"],
        "n_head": values["num_attention_heads"],
        "n_kv_head": values.get("num_key_value_heads"),
        "d_model": values["hidden_size"],
        "d_ff": values["intermediate_size"],
        "head_dim": values.get("head_dim"),
        "bias": bias,
        "norm": "rmsnorm",
        "norm_eps": values.get("rms_norm_eps", 1e-6),
        "position": "rope",
        "rope_theta": float(rope.get("rope_theta") or values.get("rope_theta") or 10000.0),
        "activation": "swiglu",
        "tie_embeddings": values.get("tie_word_embeddings", False),
    }
    return from_dict(GPTConfig, ours, str(source / "config.json"))


def read(directory: Path) -> GPT:
    """The model of a Hugging Face Llama directory."""
    shape = config(read_json(directory / "config.json"), directory)
    ours = rename(huggingface.tensors(directory))
    if shape.tie_embeddings:
        ours.pop("lm_head.weight", None)  # the embedding again
    return GPT.from_tensors(shape, ours, str(directory))


def rename(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors under our names."""
    ours: dict[str, Tensor] = {}
    for name, tensor in theirs.items():
        if match := re.fullmatch(r"model\.layers\.(\d+)\.(\w+)\.(.+)", name):
            layer, part, rest = match.groups()
            if rest != "rotary_emb.inv_freq":  # an old file's constant
                ours[f"blocks.{layer}.{LAYER.get(part, part)}.{rest}"] = tensor
        else:
            ours[TOP.get(name, name)] = tensor
    return ours
