"""The shape of a GPT, and the shapes that have a name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from . import config as config_
from .errors import ConfigError, nearest

LARGEST = 1 << 24  # of every size; more is a slip, or a damaged file that would ask for all memory


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT. The defaults are GPT-2's (124 M parameters).

    Every combination of fields that makes sense is a model: all of them run in ``reference`` and in ``torch``, and in
    ``fused`` as far as the kernels' contracts go (head_dim from 16 to 256, in steps of 8).

    Raises:
        ConfigError: for a value that its field does not take, and for fields that contradict each other, saying why.
    """

    vocab_size: int = 50257
    """token ids, 0 to vocab_size - 1; there are as many logits"""
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
    """added to the variance (of rmsnorm, to the mean square), so that nothing is divided by 0"""
    norm_position: Literal["pre", "post"] = "pre"
    """pre: a sub-layer reads the norm of the residual stream, x + f(norm(x)), and one more norm stands before the
    logits (GPT-2). post: the sum is normalised, norm(x + f(x)), with no other norm, as the original transformer has it
    (Vaswani et al., 2017, section 3.1, https://arxiv.org/abs/1706.03762), and GPT-1; it learns well only if the
    learning rate starts small (Xiong et al., 2020, https://arxiv.org/abs/2002.04745)"""
    qk_norm: bool = False
    """RMSNorm, without weights, on each head's queries and keys"""
    position: Literal["learned", "sinusoidal", "rope", "alibi", "none"] = "learned"
    """how the model knows where a token stands. learned: a vector for each position is added to the embedding.
    sinusoidal: fixed waves are, and the embedding is multiplied by sqrt(d_model) before (Vaswani et al., 2017). rope:
    queries and keys are turned by angles (Su et al., 2021, https://arxiv.org/abs/2104.09864). alibi: scores fall with
    the distance (Press et al., 2021, https://arxiv.org/abs/2108.12409). none: the causal mask alone tells"""
    rope_theta: float = 10000.0
    """of rope: the pair j of a head's channels turns by theta^(-2j / head_dim) radians a token"""
    rope_scaling: dict[str, float | str] | None = None
    """of rope: turn more slowly, to read further than was learned; under transformers' names, {rope_type: linear,
    factor} or {rope_type: llama3, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings};
    `positions.rope_speeds` says what they do"""
    activation: Literal["gelu", "gelu_tanh", "relu", "relu2", "swiglu"] = "gelu_tanh"
    attention_window: int | None = None
    """how many tokens a token sees, itself among them; all before it if not given"""
    logit_softcap: float | None = None
    """logits become c · tanh(logits / c), so that none is beyond c (Gemma 2, 2024, https://arxiv.org/abs/2408.00118)"""
    tie_embeddings: bool = True
    """the token embedding is also the matrix that makes logits"""
    init_std: float = 0.02
    """standard deviation of the matrices' first values; `GPT.reset_parameters` tells which are smaller"""
    padded_vocab_size: int | None = None
    """rows of the embedding and of the matrix that makes logits, where a round number suits the hardware (50304 for
    50257). Those beyond vocab_size are 0 and stay so: their logits are cut off before anyone sees them, no loss counts
    them, and no exported file has them"""

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

    @property
    def vocab_rows(self) -> int:
        """Rows of the embedding, padding included."""
        return self.padded_vocab_size or self.vocab_size

    def __post_init__(self) -> None:
        optional = ("n_kv_head", "d_ff", "head_dim", "attention_window", "padded_vocab_size")
        for name in ("vocab_size", "context_length", "n_layer", "n_head", "d_model", *optional):
            value = getattr(self, name)
            if (type(value) is not int or value < 1) and not (name in optional and value is None):
                raise ConfigError(f"{name} must be a whole number of at least 1, not {value!r}")
            if value is not None and value > LARGEST:
                raise ConfigError(f"{name} is {value}; no more than {LARGEST:,} is taken for meant")
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
        if self.logit_softcap is not None and not 0 < self.logit_softcap < math.inf:
            raise ConfigError(f"logit_softcap must be a positive number, or None for no cap, not {self.logit_softcap}")
        if self.vocab_rows < self.vocab_size:
            raise ConfigError(
                f"padded_vocab_size ({self.padded_vocab_size}) adds rows to those of vocab_size ({self.vocab_size}), "
                "so it must not be smaller"
            )
        if self.rope_scaling is not None:
            if self.position != "rope":
                raise ConfigError(
                    f"rope_scaling slows rope down, but position is {self.position!r}: give position='rope' with it, "
                    "or leave it out"
                )
            object.__setattr__(self, "rope_scaling", _checked_scaling(self.rope_scaling))  # a copy, of our own

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
# What each way to scale rope is told, under transformers' names: all of it, and nothing else.
ROPE_SCALINGS = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


def _checked_scaling(given: Mapping[str, Any]) -> dict[str, float | str]:
    """`GPTConfig.rope_scaling` in its own order, or a ConfigError."""
    kind = given.get("rope_type")
    for key in given:
        if key not in (known := ("rope_type", *ROPE_SCALINGS.get(str(kind), ROPE_SCALINGS["llama3"]))):
            of = f" of rope_type {kind!r}" if str(kind) in ROPE_SCALINGS else ""
            raise ConfigError(f"rope_scaling{of} has no setting {key!r}{nearest(str(key), known)}")
    if not isinstance(kind, str) or kind not in ROPE_SCALINGS:
        raise ConfigError(f"rope_scaling: rope_type cannot be {kind!r}{nearest(str(kind), ROPE_SCALINGS)}")
    numbers: dict[str, Any] = {}
    for key in ROPE_SCALINGS[kind]:
        if key not in given:
            raise ConfigError(f"rope_scaling of rope_type {kind!r} needs {', '.join(ROPE_SCALINGS[kind])}; no {key}")
        value: Any = given[key]
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise ConfigError(f"rope_scaling: {key} must be a positive number, not {value!r}")
        numbers[key] = value
    if numbers["factor"] < 1:
        raise ConfigError(f"rope_scaling: factor says how many times slower, at least 1, not {numbers['factor']}")
    if kind == "llama3":
        low, high, length = (numbers[key] for key in ROPE_SCALINGS[kind][1:])
        if low >= high:
            raise ConfigError(f"rope_scaling: low_freq_factor ({low}) must be below high_freq_factor ({high})")
        if length != int(length):
            raise ConfigError(
                f"rope_scaling: original_max_position_embeddings is a number of tokens, a whole one, not {length}"
            )
        numbers["original_max_position_embeddings"] = int(length)  # a command line makes it a float
    return {"rope_type": kind, **numbers}


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
