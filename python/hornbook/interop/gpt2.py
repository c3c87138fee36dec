"""GPT-2 as Hugging Face stores it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

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
