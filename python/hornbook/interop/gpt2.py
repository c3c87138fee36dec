"""GPT-2 as Hugging Face stores it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import from_dict
from ..files import read_json
from ..model import GPT, GPTConfig
from . import huggingface

# Their names of a layer's parts → ours. Their projections are (in, out) matrices, ours (out, in).
LAYER = {
    "ln_1": "attn_norm",
    "ln_2": "mlp_norm",
    "attn.c_proj": "attn.o_proj",
    "mlp.c_fc": "mlp.up_proj",
    "mlp.c_proj": "mlp.down_proj",
}
TOP = {
    "wte.weight": "embed.weight",
    "wpe.weight": "position.weight",
    "ln_f.weight": "norm.weight",
    "ln_f.bias": "norm.bias",
}
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"}
THEIR_LAYER = {ours: theirs for theirs, ours in LAYER.items()}
THEIR_TOP = {ours: theirs for theirs, ours in TOP.items()}
THEIR_ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu"}


def config(values: dict[str, Any], source: Path) -> GPTConfig:
    """Our configuration of theirs."""
    huggingface.require(values, source, "vocab_size", "n_positions", "n_layer", "n_head", "n_embd")
    huggingface.expect(
        values, source, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, reorder_and_upcast_attn=False,
        tie_word_embeddings=True, add_cross_attention=False, activation_function=tuple(ACTIVATIONS),
    )  # fmt: skip
    ours = {
        "vocab_size": values["vocab_size"],
        "context_length": values["n_positions"],
        "n_layer": values["n_layer"],
        "n_head": values["n_head"],
        "d_model": values["n_embd"],
        "d_ff": values.get("n_inner"),
        "norm_eps": values.get("layer_norm_epsilon", 1e-5),
        "activation": ACTIVATIONS[values.get("activation_function", "gelu_new")],
    }
    return from_dict(GPTConfig, ours, str(source / "config.json"))


def read(directory: Path) -> GPT:
    """The model of a Hugging Face GPT-2 directory."""
    shape = config(read_json(directory / "config.json"), directory)
    return GPT.from_tensors(shape, rename(huggingface.tensors(directory)), str(directory))


def rename(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors under our names and in our shapes."""
    ours: dict[str, Tensor] = {}
    for full_name, tensor in theirs.items():
        name = full_name.removeprefix("transformer.")
        if name in TOP:
            ours[TOP[name]] = tensor
        elif match := re.fullmatch(r"h\.(\d+)\.(.+)\.(weight|bias)", name):
            layer, part, kind = match.groups()
            if kind == "weight" and not part.startswith("ln_"):
                tensor = tensor.T.contiguous()
            if part == "attn.c_attn":  # queries, keys and values in one matrix
                for projection, third in zip("qkv", tensor.chunk(3), strict=True):
                    ours[f"blocks.{layer}.attn.{projection}_proj.{kind}"] = third.contiguous()
            elif part in LAYER:
                ours[f"blocks.{layer}.{LAYER[part]}.{kind}"] = tensor
            elif not (part == "attn" and kind == "bias"):  # an old file's causal mask, which is no parameter
                ours[name] = tensor
        elif name != "lm_head.weight" and not name.endswith("masked_bias"):  # the former is the embedding again
            ours[name] = tensor
    return ours


def misfits(config: GPTConfig) -> list[str]:
    """Why a model of this shape is not a GPT-2; nothing, if it is one."""
    return huggingface.unlike(
        config, position="learned", norm="layernorm", norm_position="pre", activation=tuple(THEIR_ACTIVATIONS),
        bias=True, qkv_bias=(None, True), qk_norm=False, kv_heads=config.n_head,
        head_size=config.d_model // config.n_head, attention_window=None, logit_softcap=None, tie_embeddings=True,
    )  # fmt: skip


def their_config(config: GPTConfig) -> dict[str, Any]:
    """Their configuration of ours."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.d_model,
        "n_inner": config.ff_size,
        "layer_norm_epsilon": config.norm_eps,
        "activation_function": THEIR_ACTIVATIONS[config.activation],
        "embd_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "attn_pdrop": 0.0,
        "initializer_range": config.init_std,
        "tie_word_embeddings": True,
    }


def their_tensors(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names and in their shapes."""
    theirs: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        if name in THEIR_TOP:
            theirs["transformer." + THEIR_TOP[name]] = tensor
            continue
        layer, part, kind = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name).groups()  # type: ignore[union-attr]
        at = f"blocks.{layer}.attn."
        if part in ("attn.k_proj", "attn.v_proj"):  # go with the queries
            continue
        if part == "attn.q_proj":
            tensor, part = torch.cat([ours[f"{at}{p}_proj.{kind}"] for p in "qkv"]), "attn.c_attn"
        matrix = tensor.dim() == 2
        theirs[f"transformer.h.{layer}.{THEIR_LAYER.get(part, part)}.{kind}"] = (
            tensor.T.contiguous() if matrix else tensor
        )
    return theirs
