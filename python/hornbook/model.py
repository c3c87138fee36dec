"""GPT, top to bottom: token ids in, the next token's logits out.

One model covers two families, and the mixtures of them, by a dataclass of choices whose defaults are GPT-2's:

    GPT-2   learned positions, LayerNorm, GELU, biases, the embedding is also the last matrix
    Llama   rotary positions, RMSNorm, SwiGLU, no biases, fewer key-value heads than query heads

The operations inside (attention, norms, activations, loss) come from `ops`, which chooses who computes them.
Letters in comments on shapes: B sequences, T tokens, H heads, D channels a head, d_model, V tokens known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import config as config_
from . import ops
from .cache import KVCache
from .errors import CheckpointError, ConfigError, nearest
from .files import read_json, read_tensors, write_json, write_tensors


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
        for name in ("vocab_size", "context_length", "n_layer", "n_head", "d_model", "n_kv_head", "d_ff", "head_dim"):
            value = getattr(self, name)
            may_be_none = name in ("n_kv_head", "d_ff", "head_dim")
            if (type(value) is not int or value < 1) and not (may_be_none and value is None):
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
    "position": ("learned", "rope", "none"),
    "rope_scaling": (None,),
    "attention_window": (None,),
    "logit_softcap": (None,),
    "padded_vocab_size": (None,),
}

FEW = 16  # new tokens at a time, up to which a kernel reads the cache where it lies

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


class Linear(nn.Linear):
    """A matrix kept in fp32 and used in the number format of what comes in."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class Norm(nn.Module):
    """LayerNorm or RMSNorm over d_model."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.d_model))
        with_bias = config.bias and config.norm == "layernorm"
        self.bias = nn.Parameter(torch.zeros(config.d_model)) if with_bias else None
        self.eps = config.norm_eps
        self.kind = "layer_norm" if config.norm == "layernorm" else "rms_norm"

    def forward(self, x: Tensor, added: Tensor | None) -> tuple[Tensor, Tensor]:
        """The norm of x + added, and x + added itself; each (B, T, d_model)."""
        if added is None:
            norm = ops.layer_norm if self.kind == "layer_norm" else ops.rms_norm
            return norm(x, self.weight, self.bias, self.eps), x
        return ops.add_norm(added, x, self.weight, self.bias, self.eps, norm=self.kind)


class Attention(nn.Module):
    """Every token asks (query) and every earlier token answers (key, value)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        D, qkv_bias = config.head_size, config.bias if config.qkv_bias is None else config.qkv_bias
        self.q_proj = Linear(config.d_model, config.n_head * D, bias=qkv_bias)
        self.k_proj = Linear(config.d_model, config.kv_heads * D, bias=qkv_bias)
        self.v_proj = Linear(config.d_model, config.kv_heads * D, bias=qkv_bias)
        self.o_proj = Linear(config.n_head * D, config.d_model, bias=config.bias)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor] | None, cache: KVCache | None, layer: int, places: Tensor | None
    ) -> Tensor:
        B, T, _ = x.shape
        D = self.config.head_size
        q = self.q_proj(x).view(B, T, -1, D)  # (B, T, H, D)
        k = self.k_proj(x).view(B, T, -1, D)  # (B, T, H_kv, D)
        v = self.v_proj(x).view(B, T, -1, D)
        if self.config.qk_norm:
            q, k = ops.rms_norm(q, eps=self.config.norm_eps), ops.rms_norm(k, eps=self.config.norm_eps)
        if turn is not None:
            q, k = ops.rope(q, *turn, positions=places), ops.rope(k, *turn, positions=places)
        if cache is not None and places is not None:
            k, v = cache.put(layer, k, v, places)  # (B, max_length, H_kv, D)
            y = ops.decode_attention(q, k, v, cache.ends)
        else:
            if cache is not None:
                k, v = cache.append(layer, k, v)  # (B, T_cached + T, H_kv, D)
            # causal=True is the mask: inside, query i is shown the keys 0 ... i + T_k - T_q and no later one.
            y = ops.attention(q, k, v, causal=True)  # (B, T, H, D)
        return self.o_proj(y.reshape(B, T, -1))


class MLP(nn.Module):
    """The same small network at every position: widen, bend, narrow."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.activation = config.activation
        if config.activation == "swiglu":
            self.gate_proj = Linear(config.d_model, config.ff_size, bias=config.bias)
        self.up_proj = Linear(config.d_model, config.ff_size, bias=config.bias)
        self.down_proj = Linear(config.ff_size, config.d_model, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, d_model) -> the same
        h = self.up_proj(x)  # (B, T, d_ff)
        match self.activation:
            case "swiglu":
                h = ops.swiglu(self.gate_proj(x), h)
            case "relu2":
                h = ops.relu2(h)
            case "relu":
                h = F.relu(h)
            case _:
                h = ops.gelu(h, approximate="tanh" if self.activation == "gelu_tanh" else "none")
        return self.down_proj(h)


class Block(nn.Module):
    """One layer: attention moves information between positions, the MLP works on it at each.

    Both add to the residual stream x. The sum is left to the norm that reads it next: one pass over memory, not two.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attn_norm = Norm(config)
        self.attn = Attention(config)
        self.mlp_norm = Norm(config)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, added: Tensor | None, turn: tuple[Tensor, Tensor] | None, cache: KVCache | None, layer: int,
        places: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The stream, and what is still to be added to it; each (B, T, d_model)."""
        h, x = self.attn_norm(x, added)
        added = self.dropout(self.attn(h, turn, cache, layer, places))
        h, x = self.mlp_norm(x, added)
        return x, self.dropout(self.mlp(h))


class GPT(nn.Module):
    """A decoder-only transformer.

    Args:
        config: its shape.

    Attributes:
        compute_dtype: the number format of activations. Parameters stay as they are (fp32 while training).
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype: torch.dtype | None = None
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        self.position = nn.Embedding(config.context_length, config.d_model) if config.position == "learned" else None
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = Norm(config)
        self.lm_head = None if config.tie_embeddings else Linear(config.d_model, config.vocab_size, bias=False)
        if config.position == "rope":
            cos, sin = rope_angles(config)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)
        self.reset_parameters()
        ops.decide()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """GPT-2's initialisation: normal with std 0.02; the two matrices of each layer that write to the residual
        stream are smaller by sqrt(2 n_layer), so that its variance does not grow with depth; positions half as
        large; biases zero."""
        std = self.config.init_std
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.normal_(parameter, std=std / math.sqrt(2 * self.config.n_layer))
            elif name == "position.weight":
                nn.init.normal_(parameter, std=std / 2)
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=std)
            else:
                nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)

    def forward(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        *,
        cache: KVCache | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """Logits, or the loss where ``targets`` are given.

        Args:
            ids: (B, T) token ids, T ≤ context_length (with ``cache``, what it holds counts too).
            targets: (B, T), the token that follows each of ``ids``; -100 counts for nothing. The logits are
                then never stored as a whole.
            cache: keys and values of the tokens before ``ids``; those of ``ids`` are added to it.
            reduction: of the loss, in nats: "mean" over the targets that count, "sum", or "none".

        Returns:
            (B, T, V) logits; or the loss, a scalar, or (B, T) with reduction="none".
        """
        x = self.hidden(ids, cache=cache)
        head = self.embed.weight if self.lm_head is None else self.lm_head.weight
        if targets is None:
            return F.linear(x, head.to(x.dtype))
        loss = ops.linear_cross_entropy(x.flatten(0, 1), head, targets.flatten(), reduction=reduction)
        return loss.view(targets.shape) if reduction == "none" else loss

    def hidden(self, ids: Tensor, *, cache: KVCache | None = None) -> Tensor:
        """(B, T) ids → (B, T, d_model): what the last matrix makes logits from."""
        start = 0 if cache is None else cache.length
        T = ids.shape[1]
        if start + T > self.config.context_length:
            raise ConfigError(
                f"{start + T} tokens do not fit into the context of {self.config.context_length}: "
                "shorten the text or use a model with a larger context_length"
            )
        x = self.embed(ids)  # (B, T, d_model)
        places = None  # (B, T), of the tokens: only where the device, not this program, is to know them
        if cache is not None and T <= FEW and not torch.is_grad_enabled() and ops.is_fused("decode_attention", x):
            places = cache.places(T)
        if self.position is not None:
            x = x + (self.position.weight[start : start + T] if places is None else self.position(places))
        x = self.dropout(x.to(self.compute_dtype or x.dtype))
        turn = None
        if self.config.position == "rope":
            turn = self.cos, self.sin  # each (context_length, D/2)
            if places is None:
                turn = self.cos[start : start + T], self.sin[start : start + T]  # each (T, D/2)
        added = None
        for layer, block in enumerate(self.blocks):
            x, added = block(x, added, turn, cache, layer, places)
        if cache is not None:
            cache.advance(T)
        return self.norm(x, added)[0]

    def parameter_count(self, embeddings: bool = True) -> int:
        """Parameters, each counted once; without ``embeddings``, those of tokens and positions are left out."""
        total = sum(p.numel() for p in self.parameters())
        if not embeddings:
            total -= self.embed.weight.numel() + (0 if self.position is None else self.position.weight.numel())
        return total

    def flops_per_token(self, length: int | None = None) -> int:
        """Floating-point operations of one forward pass, per token of a sequence of ``length`` tokens.

        Two for every weight that a token is multiplied with, and in each layer 4 · n_head · head_dim for every key it
        sees, on average (``length`` + 1) / 2. Only products of matrices count: no biases, norms, or look-ups in the
        embedding. Training costs three times as much: backward is two products for each one.
        """
        length = self.config.context_length if length is None else length
        matrices = sum(p.numel() for n, p in self.blocks.named_parameters() if p.dim() == 2)
        head = self.config.vocab_size * self.config.d_model
        attention = 4 * self.config.n_layer * self.config.n_head * self.config.head_size * (length + 1) // 2
        return 2 * (matrices + head) + attention

    def new_cache(self, batch_size: int = 1, max_length: int | None = None) -> KVCache:
        """An empty cache for ``batch_size`` sequences of up to ``max_length`` tokens (context_length if not given)."""
        c = self.config
        return KVCache(
            c.n_layer, batch_size, max_length or c.context_length, c.kv_heads, c.head_size,
            dtype=self.compute_dtype or self.embed.weight.dtype, device=self.embed.weight.device,
        )  # fmt: skip

    def save_pretrained(self, directory: str | Path) -> None:
        """Write model.safetensors and config.json."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_tensors(directory / "model.safetensors", self.state_dict())
        write_json(directory / "config.json", {"model_type": "hornbook", **config_.to_dict(self.config)})

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> GPT:
        """Read what `save_pretrained` wrote (`hornbook.load` also reads other formats and the tokenizer).

        Raises:
            CheckpointError: for a file that is missing, truncated, or does not fit the configuration.
        """
        directory = Path(directory)
        values = read_json(directory / "config.json")
        if (kind := values.pop("model_type", None)) != "hornbook":
            raise CheckpointError(f"{directory}: config.json is of type {kind!r}; hornbook.load reads foreign ones")
        config = config_.from_dict(GPTConfig, values, str(directory / "config.json"))
        return cls.from_tensors(config, read_tensors(directory / "model.safetensors"), str(directory))

    @classmethod
    def from_tensors(cls, config: GPTConfig, tensors: dict[str, Tensor], source: str) -> GPT:
        """A model made of ``tensors``, by name; ``source`` is for messages. Draws nothing from PyTorch's generator."""
        with torch.random.fork_rng(devices=[]):
            model = cls(config)
        model.load_tensors(tensors, source)
        return model

    def load_tensors(self, tensors: dict[str, Tensor], source: str) -> None:
        """Copy ``tensors`` in; every name and shape must fit."""
        mine = self.state_dict()
        missing, foreign = sorted(mine.keys() - tensors.keys()), sorted(tensors.keys() - mine.keys())
        shapes = [n for n in mine.keys() & tensors.keys() if mine[n].shape != tensors[n].shape]
        if missing or foreign or shapes:
            raise CheckpointError(
                f"{source}: the tensors do not fit the configuration (missing: {missing[:3]}, unknown: {foreign[:3]}, "
                f"of another shape: {sorted(shapes)[:3]}); config.json and model.safetensors must be of one model"
            )
        self.load_state_dict(tensors)


def rope_angles(config: GPTConfig) -> tuple[Tensor, Tensor]:
    """Cosine and sine, each (context_length, D/2), of position · theta^(-2j/D) for the channel pair j."""
    D = config.head_size
    speed = config.rope_theta ** (-torch.arange(0, D, 2, dtype=torch.float32) / D)
    angles = torch.arange(config.context_length, dtype=torch.float32)[:, None] * speed
    return angles.cos(), angles.sin()
