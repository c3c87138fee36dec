"""The shape of a GPT, and the shapes that have a name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from . import config as config_
from .errors import ConfigError, nearest


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT. The defaults are GPT-2's (124 M parameters)."""

    vocab_size: int = 50257
    context_length: int = 1024
    """the longest sequence, in tokens"""
    n_layer: int = 12
    n_head: int = 12
    n_kv_head: int | None = None
    """key-value heads, each shared by n_head / n_kv_head query heads; n_head if not given"""
    d_model: int = 768
    d_ff: int | None = None
    """width inside the feed-forward layer; 4 d_model if not given (8/3 d_model, rounded up to 64s, for swiglu)"""
    head_dim: int | None = None
    """channels a head; d_model / n_head if not given"""
    dropout: float = 0.0
    """on the embeddings and on what each sub-layer adds, while training"""
    bias: bool = True
    """in linear layers and LayerNorms"""
    qkv_bias: bool | None = None
    """in the query, key and value projections; as ``bias`` if not given"""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_eps: float = 1e-5
    norm_position: Literal["pre", "post"] = "pre"
    qk_norm: bool = False
    """RMSNorm, without weights, on each head's queries and keys"""
    position: Literal["learned", "sinusoidal", "rope", "alibi", "none"] = "learned"
    rope_theta: float = 10000.0
    rope_scaling: dict[str, float | str] | None = None
    activation: Literal["gelu", "gelu_tanh", "relu", "relu2", "swiglu"] = "gelu_tanh"
    attention_window: int | None = None
    """how many tokens a token sees, itself among them; all before it if not given"""
    logit_softcap: float | None = None
    tie_embeddings: bool = True
    """the token embedding is also the matrix that makes logits"""
    init_std: float = 0.02
    padded_vocab_size: int | None = None

    @property
    def kv_heads(self) -> int:
        return self.n_kv_head or self.n_head

    @property
    def head_size(self) -> int:
        return self.head_dim or self.d_model // self.n_head

    @property
    def ff_size(self) -> int:
        if self.d_ff:
            return self.d_ff
        return -(-self.d_model * 8 // 3 // 64) * 64 if self.activation == "swiglu" else 4 * self.d_model

    def __post_init__(self) -> None:
        optional = ("n_kv_head", "d_ff", "head_dim", "attention_window")
        for name in ("vocab_size", "context_length", "n_layer", "n_head", "d_model", *optional):
            value = getattr(self, name)
            if (type(value) is not int or value < 1) and not (name in optional and value is None):
                raise ConfigError(f"{name} must be a whole number of at least 1, not {value!r}")
        for name, known in _CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise ConfigError(f"{name} cannot be {value!r}{nearest(str(value), known)}")
        config_.check_types(self)
        if not self.head_dim and self.d_model % self.n_head:
            raise ConfigError(
                f"d_model ({self.d_model}) must be a multiple of n_head ({self.n_head}), or give head_dim"
            )
        if self.n_head % self.kv_heads:
            raise ConfigError(f"n_head ({self.n_head}) must be a multiple of n_kv_head ({self.kv_heads})")
        if self.position == "rope" and self.head_size % 2:
            raise ConfigError(f"rope turns pairs of channels: head_dim must be even, not {self.head_size}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        for name in ("norm_eps", "init_std", "rope_theta"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise ConfigError(f"{name} must be a positive number, not {value}")
        for name, implemented in _NOT_YET.items():
            if (value := getattr(self, name)) not in implemented:
                raise ConfigError(f"{name}={value!r} is not implemented yet; this version has {implemented}")

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> GPTConfig:
        """A named shape, e.g. ``GPTConfig.preset("gpt2", context_length=512)``; see `PRESETS`."""
        if name not in PRESETS:
            raise ConfigError(f"there is no preset {name!r}{nearest(name, PRESETS)}")
        return config_.from_dict(cls, PRESETS[name] | overrides, f"preset {name}")


_CHOICES = {
    "norm": ("layernorm", "rmsnorm"),
    "norm_position": ("pre", "post"),
    "position": ("learned", "sinusoidal", "rope", "alibi", "none"),
    "activation": ("gelu", "gelu_tanh", "relu", "relu2", "swiglu"),
}
_NOT_YET: dict[str, tuple[Any, ...]] = {
    "norm_position": ("pre",),
    "position": ("learned", "rope", "alibi", "none"),
    "rope_scaling": (None,),
    "logit_softcap": (None,),
    "padded_vocab_size": (None,),
}


_LLAMA = {
    "norm": "rmsnorm",
    "position": "rope",
    "activation": "swiglu",
    "bias": False,
    "tie_embeddings": False,
}
PRESETS: dict[str, dict[str, Any]] = {
    # nano is sized by what two laptop cores learn from fables in two minutes.
    "nano": {
        "vocab_size": 2048, "context_length": 256, "n_layer": 4, "n_head": 4, "d_model": 128, "bias": False,
        "norm": "rmsnorm", "position": "rope", "activation": "relu2", "qk_norm": True,
    },
    "mini": {
        "vocab_size": 8192, "context_length": 512, "n_layer": 6, "n_head": 6, "d_model": 384, "bias": False,
        "norm": "rmsnorm", "position": "rope", "activation": "relu2", "qk_norm": True,
    },
    "gpt2": {},
    "gpt2-medium": {"n_layer": 24, "n_head": 16, "d_model": 1024},
    "gpt2-large": {"n_layer": 36, "n_head": 20, "d_model": 1280},
    "gpt2-xl": {"n_layer": 48, "n_head": 25, "d_model": 1600},
    "llama-tiny": _LLAMA
    | {"vocab_size": 8192, "context_length": 512, "n_layer": 6, "n_head": 6, "n_kv_head": 2, "d_model": 384},
}  # fmt: skip
