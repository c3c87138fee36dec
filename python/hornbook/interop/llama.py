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
from ..model_config import ROPE_SCALINGS
from . import huggingface

# Their names of a layer's parts → ours.
LAYER = {"input_layernorm": "attn_norm", "post_attention_layernorm": "mlp_norm", "self_attn": "attn"}
TOP = {
    "model.embed_tokens.weight": "embed.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "lm_head.weight",
}
THEIR_LAYER = {ours: theirs for theirs, ours in LAYER.items()}
THEIR_TOP = {ours: theirs for theirs, ours in TOP.items()}


def config(values: dict[str, Any], source: Path) -> GPTConfig:
    """Our configuration of theirs."""
    huggingface.require(
        values, source, "vocab_size", "max_position_embeddings", "num_hidden_layers", "num_attention_heads",
        "hidden_size", "intermediate_size",
    )  # fmt: skip
    # transformers ≥ 5 writes rope_parameters; before, it was rope_theta, and rope_scaling where there was some
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise CheckpointError(f"{source}/config.json: rope_parameters or rope_scaling is a table, not {rope!r}")
    huggingface.expect({**values, **rope}, source, partial_rotary_factor=(None, 1.0))
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
        "rope_theta": rope.get("rope_theta") or values.get("rope_theta") or 10000.0,
        "rope_scaling": scaling(rope, values, source),
        "activation": "swiglu",
        "tie_embeddings": values.get("tie_word_embeddings", False),
    }
    return from_dict(GPTConfig, ours, str(source / "config.json"))


def scaling(rope: dict[str, Any], values: dict[str, Any], source: Path) -> dict[str, Any] | None:
    """Our rope_scaling of their ``rope``, which may be empty."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if not isinstance(kind, str) or kind not in ROPE_SCALINGS:
        known = ", ".join(("default", *ROPE_SCALINGS))
        raise CheckpointError(f"{source}/config.json: RoPE of type {kind!r} is not supported; only {known} are")
    others = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
    ours = {"rope_type": kind, **{k: v for k, v in rope.items() if k not in others and v is not None}}
    if "original_max_position_embeddings" in ROPE_SCALINGS[kind]:  # where they do not say it, it is all of the context
        ours.setdefault("original_max_position_embeddings", values["max_position_embeddings"])
    return ours


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


def misfits(config: GPTConfig) -> list[str]:
    """Why a model of this shape is not a Llama; nothing, if it is one."""
    return huggingface.unlike(
        config, position="rope", norm="rmsnorm", norm_position="pre", activation="swiglu",
        qkv_bias=(None, config.bias), qk_norm=False, attention_window=None, logit_softcap=None,
    )  # fmt: skip


def their_config(config: GPTConfig) -> dict[str, Any]:
    """Their configuration of ours, in the words that versions before 5 of transformers know, too."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.kv_heads,
        "hidden_size": config.d_model,
        "intermediate_size": config.ff_size,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "attention_bias": config.bias,
        "mlp_bias": config.bias,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": config.rope_scaling,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.tie_embeddings,
    }


def their_tensors(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names."""
    theirs: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        if match := re.fullmatch(r"blocks\.(\d+)\.(\w+)\.(.+)", name):
            layer, part, rest = match.groups()
            theirs[f"model.layers.{layer}.{THEIR_LAYER.get(part, part)}.{rest}"] = tensor
        else:
            theirs[THEIR_TOP[name]] = tensor
    return theirs
