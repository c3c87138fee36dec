"""GPT, top to bottom: token ids in, the next token's logits out.

One model covers two families, and the mixtures of them, by a dataclass of choices whose defaults are GPT-2's:

    GPT-2   learned positions, LayerNorm, GELU, biases, the embedding is also the last matrix
    Llama   rotary positions, RMSNorm, SwiGLU, no biases, fewer key-value heads than query heads

and the original transformer of 2017 as well (its decoder alone): norms after the sums, sinusoidal positions.
The operations inside (attention, norms, activations, loss) come from `ops`, which chooses who computes them.
Letters in comments on shapes: B sequences, T tokens, H heads, D channels a head, d_model, V tokens known.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import config as config_
from . import ops
from .cache import KVCache
from .errors import CheckpointError, ConfigError
from .files import read_json, read_tensors, write_json, write_tensors
from .model_config import PRESETS as PRESETS
from .model_config import GPTConfig as GPTConfig
from .positions import alibi_slopes, rope_angles, sinusoids

FEW = 16  # new tokens at a time, up to which a kernel reads the cache where it lies


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


class Places(NamedTuple):
    """Where the tokens of a batch are, as far as attention wants to know."""

    positions: Tensor | None = None
    """(B, T), where the device is to know them, and not this program"""
    turn: tuple[Tensor, Tensor] | None = None
    """of rope: cosines and sines, each (T, D/2), or of all positions, if ``positions`` are given"""
    slopes: Tensor | None = None
    """of alibi: (n_head,)"""
    document_ids: ops.Documents | None = None
    """tokens see those of their own document"""


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

    def forward(self, x: Tensor, places: Places, cache: KVCache | None, layer: int) -> Tensor:
        B, T, _ = x.shape
        D = self.config.head_size
        q = self.q_proj(x).view(B, T, -1, D)  # (B, T, H, D)
        k = self.k_proj(x).view(B, T, -1, D)  # (B, T, H_kv, D)
        v = self.v_proj(x).view(B, T, -1, D)
        if self.config.qk_norm:
            q, k = ops.rms_norm(q, eps=self.config.norm_eps), ops.rms_norm(k, eps=self.config.norm_eps)
        if places.turn is not None:
            q, k = (ops.rope(t, *places.turn, positions=places.positions) for t in (q, k))
        options: dict[str, Any] = {"window": self.config.attention_window, "alibi_slopes": places.slopes}
        if cache is not None and places.positions is not None:
            k, v = cache.put(layer, k, v, places.positions)  # (B, max_length, H_kv, D)
            y = ops.decode_attention(q, k, v, cache.ends, **options)
        else:
            if cache is not None:
                k, v = cache.append(layer, k, v)  # (B, T_cached + T, H_kv, D)
            # causal=True is the mask: inside, query i is shown the keys 0 ... i + T_k - T_q and no later one.
            y = ops.attention(q, k, v, causal=True, document_ids=places.document_ids, **options)  # (B, T, H, D)
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
    With norms after the sums ("post") that is the block's own, and what it makes is the stream.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.post = config.norm_position == "post"
        self.attn_norm = Norm(config)
        self.attn = Attention(config)
        self.mlp_norm = Norm(config)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, added: Tensor | None, places: Places, cache: KVCache | None, layer: int
    ) -> tuple[Tensor, Tensor | None]:
        """The stream, and what is still to be added to it, if anything is; each (B, T, d_model)."""
        if self.post:
            x, _ = self.attn_norm(x, self.dropout(self.attn(x, places, cache, layer)))
            x, _ = self.mlp_norm(x, self.dropout(self.mlp(x)))
            return x, None
        h, x = self.attn_norm(x, added)
        added = self.dropout(self.attn(h, places, cache, layer))
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
    slopes: Tensor
    waves: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype: torch.dtype | None = None
        self.embed = nn.Embedding(config.vocab_rows, config.d_model)
        self.position = nn.Embedding(config.context_length, config.d_model) if config.position == "learned" else None
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = Norm(config) if config.norm_position == "pre" else None
        self.lm_head = None if config.tie_embeddings else Linear(config.d_model, config.vocab_rows, bias=False)
        match config.position:
            case "rope":
                shape = config.context_length, config.head_size
                cos, sin = rope_angles(*shape, config.rope_theta, config.rope_scaling)  # each (context_length, D/2)
                self.register_buffer("cos", cos, persistent=False)
                self.register_buffer("sin", sin, persistent=False)
            case "alibi":
                self.register_buffer("slopes", alibi_slopes(config.n_head), persistent=False)
            case "sinusoidal":
                self.register_buffer("waves", sinusoids(config.context_length, config.d_model), persistent=False)
        self.reset_parameters()
        ops.decide()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """GPT-2's initialisation: normal with std 0.02; the two matrices of each layer that write to the residual
        stream are smaller by sqrt(2 n_layer), so that its variance does not grow with depth (but not where norms after
        the sums see to that: so GPT-1 had it); positions half as large; biases and padding zero."""
        std, deep = self.config.init_std, 1.0 if self.norm is None else math.sqrt(2 * self.config.n_layer)
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.normal_(parameter, std=std / deep)
            elif name == "position.weight":
                nn.init.normal_(parameter, std=std / 2)
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=std)
            else:
                nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
            if name in ("embed.weight", "lm_head.weight"):
                parameter[self.config.vocab_size :] = 0.0

    def forward(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        *,
        cache: KVCache | None = None,
        document_ids: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """Logits, or the loss where ``targets`` are given.

        Args:
            ids: (B, T) token ids, T ≤ context_length (with ``cache``, what it holds counts too).
            targets: (B, T), the token that follows each of ``ids``; -100 counts for nothing. The logits are
                then never stored as a whole.
            cache: keys and values of the tokens before ``ids``; those of ``ids`` are added to it.
            document_ids: (B, T), whole numbers: a token sees the tokens of its own document only. Positions go on from
                one document to the next. Not with ``cache``.
            reduction: of the loss, in nats: "mean" over the targets that count, "sum", or "none".

        Returns:
            (B, T, V) logits; or the loss, a scalar, or (B, T) with reduction="none".
        """
        x, V = self.hidden(ids, cache=cache, document_ids=document_ids), self.config.vocab_size
        head = self.embed.weight if self.lm_head is None else self.lm_head.weight  # (vocab_rows, d_model)
        cap = self.config.logit_softcap
        if targets is None:
            logits = F.linear(x, head.to(x.dtype))[..., :V]  # a product of round sizes, then without padding
            return logits if cap is None else cap * torch.tanh(logits / cap)
        # Padding must not be in the sum over all logits, so here its rows are cut off.
        loss = ops.linear_cross_entropy(x.flatten(0, 1), head[:V], targets.flatten(), reduction=reduction, softcap=cap)
        return loss.view(targets.shape) if reduction == "none" else loss

    def hidden(self, ids: Tensor, *, cache: KVCache | None = None, document_ids: Tensor | None = None) -> Tensor:
        """(B, T) ids → (B, T, d_model): what the last matrix makes logits from."""
        if cache is not None and document_ids is not None:
            raise ConfigError(
                "document_ids are of whole sequences, and a cache is of their beginnings: give one of them"
            )
        start = 0 if cache is None else cache.length
        T = ids.shape[1]
        if start + T > self.config.context_length:
            raise ConfigError(
                f"{start + T} tokens do not fit into the context of {self.config.context_length}: "
                "shorten the text or use a model with a larger context_length"
            )
        x = self.embed(ids)  # (B, T, d_model)
        positions = None  # (B, T), of the tokens: only where the device, not this program, is to know them
        few = T <= FEW and not torch.is_grad_enabled()
        if cache is not None and few and ops.reads_caches(x, self.config.head_size):
            positions = cache.places(T)
        if self.config.position == "sinusoidal":
            x = x * math.sqrt(self.config.d_model)
        if self.config.position in ("learned", "sinusoidal"):
            table = self.waves if self.position is None else self.position.weight  # (context_length, d_model)
            x = x + (table[start : start + T] if positions is None else table[positions])
        x = self.dropout(x.to(self.compute_dtype or x.dtype))
        documents = None if document_ids is None else ops.documents(document_ids)  # once, for all layers
        places = Places(positions=positions, document_ids=documents)
        if self.config.position == "rope":
            turn = self.cos, self.sin  # each (context_length, D/2)
            if positions is None:
                turn = self.cos[start : start + T], self.sin[start : start + T]  # each (T, D/2)
            places = places._replace(turn=turn)
        elif self.config.position == "alibi":
            places = places._replace(slopes=self.slopes)
        added = None
        for layer, block in enumerate(self.blocks):
            x, added = block(x, added, places, cache, layer)
        if cache is not None:
            cache.advance(T)
        return x if self.norm is None else self.norm(x, added)[0]

    def parameter_count(self, embeddings: bool = True) -> int:
        """Parameters, each counted once, padding included; without ``embeddings``, those of tokens and positions are
        left out."""
        total = sum(p.numel() for p in self.parameters())
        if not embeddings:
            total -= self.embed.weight.numel() + (0 if self.position is None else self.position.weight.numel())
        return total

    def flops_per_token(self, length: int | None = None) -> int:
        """Floating-point operations of one forward pass, per token of a sequence of ``length`` tokens.

        Two for every weight that a token is multiplied with, and in each layer 4 · n_head · head_dim for every key it
        sees, on average (``length`` + 1) / 2 if there is no window. Only products of matrices count, logits of padding
        among them: no biases, norms, or look-ups in the embedding. Training costs three times as much: backward is two
        products for each one.
        """
        length = self.config.context_length if length is None else length
        matrices = sum(p.numel() for n, p in self.blocks.named_parameters() if p.dim() == 2)
        head = self.config.vocab_rows * self.config.d_model
        near = min(length, self.config.attention_window or length)
        seen = near * (near + 1) // 2 + (length - near) * near  # pairs
        attention = 4 * self.config.n_layer * self.config.n_head * self.config.head_size * seen // length
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
        if config.n_layer <= len(tensors):
            with torch.device("meta"):  # a configuration that does not fit may ask for any amount of memory
                cls(config).check_tensors(tensors, source)
        else:
            raise CheckpointError(f"{source}: {len(tensors)} tensors are no model of {config.n_layer} layers")
        with torch.random.fork_rng(devices=[]):
            model = cls(config)
        model.load_state_dict(tensors)
        return model

    def load_tensors(self, tensors: dict[str, Tensor], source: str) -> None:
        """Copy ``tensors`` in; every name and shape must fit."""
        self.check_tensors(tensors, source)
        self.load_state_dict(tensors)

    def check_tensors(self, tensors: dict[str, Tensor], source: str) -> None:
        """Raise CheckpointError if ``tensors`` are not those of this model, by names and shapes."""
        mine = self.state_dict()
        missing, foreign = sorted(mine.keys() - tensors.keys()), sorted(tensors.keys() - mine.keys())
        shapes = [n for n in mine.keys() & tensors.keys() if mine[n].shape != tensors[n].shape]
        if missing or foreign or shapes:
            raise CheckpointError(
                f"{source}: the tensors do not fit the configuration (missing: {missing[:3]}, unknown: {foreign[:3]}, "
                f"of another shape: {sorted(shapes)[:3]}); config.json and model.safetensors must be of one model"
            )
