"""The model: its parts against a second implementation, its start, its counts, and its cache."""

from __future__ import annotations

import math
import os
from typing import Any

import hornbook as hb
import pytest
import torch
import torch.nn.functional as F
from hornbook import ops
from hornbook.cache import KVCache
from hornbook.errors import ConfigError
from hornbook.files import read_tensors
from hornbook.model import alibi_slopes
from hornbook.ops import use_kernels
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

SMALL: dict[str, Any] = {"vocab_size": 31, "context_length": 24, "n_layer": 2, "n_head": 4, "d_model": 32}
LLAMA: dict[str, Any] = {"norm": "rmsnorm", "position": "rope", "activation": "swiglu", "bias": False}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt2-exact-gelu": {"activation": "gelu", "tie_embeddings": False},
    "llama": LLAMA | {"tie_embeddings": False, "n_kv_head": 2},
    "llama-mqa-tied": LLAMA | {"n_kv_head": 1},
    "nano": LLAMA | {"activation": "relu2", "qk_norm": True},
    "no-positions": {"position": "none", "activation": "relu", "n_kv_head": 2, "qkv_bias": False},
    "wide-heads": {
        "position": "rope",
        "head_dim": 6,
        "n_head": 3,
        "d_model": 20,
        "d_ff": 7,
        "qkv_bias": True,
        "bias": False,
    },
}


def build(seed: int = 0, std: float = 0.2, **fields: Any) -> hb.GPT:
    """A model whose weights, biases and norms are all random, and large enough to matter."""
    torch.manual_seed(seed)
    model = hb.GPT(hb.GPTConfig(**{**SMALL, **fields})).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(std=std)
            if name.endswith("norm.weight"):
                p += 1
    return model


def some_ids(model: hb.GPT, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def plain_logits(model: hb.GPT, ids: Tensor) -> Tensor:
    """The model once more, for one sequence, written position by position from the state dict."""
    c, w = model.config, {k: v.double() for k, v in model.state_dict().items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[name + ".weight"].T + w.get(name + ".bias", torch.zeros(()).double())

    def norm(x: Tensor, name: str | None) -> Tensor:
        if name is None or c.norm == "rmsnorm":
            y = x / (x.pow(2).mean(-1, keepdim=True) + c.norm_eps).sqrt()
        else:
            y = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + c.norm_eps).sqrt()
        return y if name is None else y * w[name + ".weight"] + w.get(name + ".bias", torch.zeros(()).double())

    def turn(x: Tensor, position: int) -> Tensor:
        D, y = len(x), x.clone()
        for j in range(D // 2):
            angle = position * c.rope_theta ** (-2 * j / D)
            a, b = x[j], x[j + D // 2]
            y[j], y[j + D // 2] = a * math.cos(angle) - b * math.sin(angle), a * math.sin(angle) + b * math.cos(angle)
        return y

    x = w["embed.weight"][ids]
    if c.position == "learned":
        x = x + w["position.weight"][: len(ids)]
    for n in range(c.n_layer):
        at = f"blocks.{n}."
        h = norm(x, at + "attn_norm")
        heads: dict[str, list[list[Tensor]]] = {}
        for p in "qkv":
            heads[p] = [list(row.split(c.head_size)) for row in linear(h, at + f"attn.{p}_proj")]
            if p != "v":
                heads[p] = [[norm(t, None) if c.qk_norm else t for t in row] for row in heads[p]]
                if c.position == "rope":
                    heads[p] = [[turn(t, i) for t in row] for i, row in enumerate(heads[p])]
        rows = []
        for i in range(len(ids)):
            out = []
            for head in range(c.n_head):
                kv = head // (c.n_head // c.kv_heads)
                scores = torch.stack([heads["q"][i][head] @ heads["k"][j][kv] for j in range(i + 1)]) / c.head_size**0.5
                out.append(sum(p * heads["v"][j][kv] for j, p in enumerate(scores.softmax(0))))
            rows.append(torch.cat(out))  # type: ignore[arg-type]
        x = x + linear(torch.stack(rows), at + "attn.o_proj")
        h = norm(x, at + "mlp_norm")
        up = linear(h, at + "mlp.up_proj")
        if c.activation == "swiglu":
            up = F.silu(linear(h, at + "mlp.gate_proj")) * up
        else:
            bend = {"relu": F.relu, "relu2": lambda t: F.relu(t) ** 2, "gelu": F.gelu}
            up = bend.get(c.activation, lambda t: F.gelu(t, approximate="tanh"))(up)
        x = x + linear(up, at + "mlp.down_proj")
    return norm(x, "norm") @ w["embed.weight" if c.tie_embeddings else "lm_head.weight"].T


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_against_a_second_implementation(family: str) -> None:
    model = build(**FAMILIES[family])
    ids = some_ids(model, 2, 9)
    with torch.no_grad():
        got = model(ids)
    assert got.shape == (2, 9, 31)
    for row, one in zip(got, ids, strict=True):
        torch.testing.assert_close(row.double(), plain_logits(model, one), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_is_that_of_the_logits(family: str) -> None:
    model = build(**FAMILIES[family])
    ids, targets = (
        some_ids(model, 3, 7),
        some_ids(model, 3, 7, seed=1).masked_fill(some_ids(model, 3, 7) % 4 == 0, -100),
    )
    assert (targets == -100).any()
    for implementation in ("reference", "torch"):
        with hb.use_kernels(implementation):
            for reduction in ("mean", "sum", "none"):
                want = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), reduction=reduction)
                got = model(ids, targets, reduction=reduction)
                torch.testing.assert_close(got, want.view(got.shape), atol=1e-5, rtol=1e-5)
                assert got.shape == (targets.shape if reduction == "none" else ())
    model.zero_grad()
    model(ids, targets).backward()
    got = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    F.cross_entropy(model(ids).flatten(0, 1), targets.flatten()).backward()
    assert got.keys() == dict(model.named_parameters()).keys()  # every parameter has a gradient
    for name, p in model.named_parameters():
        torch.testing.assert_close(got[name], p.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_logits_are_the_uncached(family: str) -> None:
    model = build(**FAMILIES[family])
    ids = some_ids(model, 3, 24)
    with torch.no_grad():
        want = model(ids)
        for chunks in ([1] * 24, [7, 1, 1, 9, 1, 5], [24], [23, 1]):
            cache, got = model.new_cache(3), []
            for chunk in ids.split(chunks, dim=1):
                got.append(model(chunk, cache=cache))
            assert cache.length == 24
            assert float((torch.cat(got, 1) - want).abs().max()) <= 1e-5


def test_cache_select_and_truncate() -> None:
    model = build(**FAMILIES["llama"])
    ids, rows = some_ids(model, 3, 12), torch.tensor([2, 0, 0, 1])
    with torch.no_grad():
        cache = model.new_cache(3, max_length=12)
        model(ids[:, :10], cache=cache)
        cache.select(rows)
        cache.truncate(6)
        assert cache.length == 6
        cache.truncate(100)
        assert cache.length == 6
        mixed = torch.cat((ids[rows, :6], some_ids(model, 4, 6, seed=3)), dim=1)
        got = model(mixed[:, 6:], cache=cache)
        assert float((got - model(mixed)[:, 6:]).abs().max()) <= 1e-5
        cache.truncate(0)
        assert float((model(mixed, cache=cache) - model(mixed)).abs().max()) <= 1e-5


def test_cache_without_room() -> None:
    model = build()
    cache = model.new_cache(1, max_length=4)
    with (
        torch.no_grad(),
        pytest.raises(ConfigError, match="room for 4 tokens, not 5; make it with a larger max_length"),
    ):
        model(some_ids(model, 1, 5), cache=cache)
    assert cache.length == 0
    assert KVCache(1, 2, 3, 4, 5).k.shape == (1, 2, 3, 4, 5)


def test_context_is_full() -> None:
    model = build()
    with pytest.raises(ConfigError, match="25 tokens do not fit into the context of 24: shorten"):
        model(some_ids(model, 1, 25))
    cache = model.new_cache(1, 30)
    with torch.no_grad():
        model(some_ids(model, 1, 20), cache=cache)
        with pytest.raises(ConfigError, match="26 tokens do not fit"):
            model(some_ids(model, 1, 6), cache=cache)
        assert cache.length == 20


def test_no_token_sees_a_later_one() -> None:
    for fields in FAMILIES.values():
        model = build(**fields)
        ids = some_ids(model, 1, 10)
        changed = ids.clone()
        changed[:, 6] = (changed[:, 6] + 1) % 31
        with torch.no_grad():
            a, b = model(ids), model(changed)
        assert torch.equal(a[:, :6], b[:, :6])
        assert (a[:, 6:] != b[:, 6:]).any(-1).all()


@pytest.mark.parametrize("implementation", ["reference", "torch"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_bf16_activations(family: str, implementation: str) -> None:
    model = build(std=0.1, **FAMILIES[family])
    ids, targets = some_ids(model, 2, 8), some_ids(model, 2, 8, seed=1)
    exact = model(ids, targets)
    model.compute_dtype = torch.bfloat16
    with hb.use_kernels(implementation):
        assert model(ids).dtype == torch.bfloat16
        loss = model(ids, targets)
        loss.backward()
        with torch.no_grad():
            cache = model.new_cache(2)
            assert cache.k.dtype == torch.bfloat16
            model(ids, cache=cache)
    assert loss.dtype == torch.float32
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    assert abs(float(loss.detach() - exact.detach())) < 0.05


def test_dropout_only_while_training() -> None:
    model = build(dropout=0.5)
    ids = some_ids(model, 1, 8)
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))


# How it starts


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_initialisation(family: str) -> None:
    torch.manual_seed(0)
    fields = dict(FAMILIES[family], n_layer=8, d_model=128, vocab_size=500, context_length=300)
    model = hb.GPT(hb.GPTConfig(**{**SMALL, **fields}))
    seen = set()
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert (p == 0).all()
            kind = "bias"
        elif p.dim() == 1:
            assert (p == 1).all()
            kind = "norm"
        else:
            residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            kind = "residual" if residual else "position" if name == "position.weight" else "matrix"
            std = {"residual": 0.02 / math.sqrt(16), "position": 0.01, "matrix": 0.02}[kind]
            # the standard deviation of n draws is off by a factor of about 1 ± 1 / sqrt(2n); five of these are allowed
            assert abs(float(p.detach().std()) / std - 1) < 5 / math.sqrt(2 * p.numel()), name
            assert abs(float(p.detach().mean())) < 5 * std / math.sqrt(p.numel()), name
        seen.add(kind)
    assert seen == {"matrix", "residual", "norm"} | ({"position", "bias"} if family == "gpt2" else set())
    ids = some_ids(model, 4, 64)
    assert abs(float(model(ids, some_ids(model, 4, 64, seed=1)).detach()) - math.log(500)) < 0.1  # it knows nothing


def test_initialisation_follows_init_std_and_the_seed() -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(5)
        models.append(hb.GPT(hb.GPTConfig(**SMALL, init_std=0.1)))
    assert abs(float(models[0].embed.weight.detach().std()) - 0.1) < 0.01
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_tied_embeddings_are_one(tmp_path) -> None:
    tied, untied = build(), build(tie_embeddings=False)
    assert tied.lm_head is None
    assert untied.parameter_count() - tied.parameter_count() == tied.embed.weight.numel()
    with torch.no_grad():
        ids = torch.tensor([[3]])
        before = tied(ids)[0, 0]
        tied.embed.weight[7] *= 2  # a token that is not read, but predicted
        assert torch.allclose(tied(ids)[0, 0, 7], 2 * before[7], atol=1e-5)
        before = untied(ids)
        untied.embed.weight[7] *= 2
        assert torch.equal(untied(ids), before)
    tied.save_pretrained(tmp_path)
    assert "lm_head.weight" not in read_tensors(tmp_path / "model.safetensors")


# Any small model


@st.composite
def configs(draw: st.DrawFn) -> hb.GPTConfig:
    n_kv_head, group, head_dim = draw(st.integers(1, 3)), draw(st.integers(1, 3)), 2 * draw(st.integers(1, 5))
    n_head = n_kv_head * group
    own_width = draw(st.booleans())
    return hb.GPTConfig(
        vocab_size=draw(st.integers(1, 40)),
        context_length=draw(st.integers(1, 12)),
        n_layer=draw(st.integers(1, 3)),
        n_head=n_head,
        n_kv_head=draw(st.sampled_from([n_kv_head, None])) if group == 1 else n_kv_head,
        d_model=draw(st.integers(1, 40)) if own_width else n_head * head_dim,
        head_dim=head_dim if own_width else None,
        d_ff=draw(st.sampled_from([None, 1, 17])),
        bias=draw(st.booleans()),
        qkv_bias=draw(st.sampled_from([None, True, False])),
        norm=draw(st.sampled_from(["layernorm", "rmsnorm"])),
        norm_eps=draw(st.sampled_from([1e-5, 1e-6])),
        qk_norm=draw(st.booleans()),
        position=draw(st.sampled_from(["learned", "rope", "alibi", "none"])),
        attention_window=draw(st.sampled_from([None, None, 1, 3, 20])),
        rope_theta=draw(st.sampled_from([100.0, 10000.0, 500000.0])),
        activation=draw(st.sampled_from(["gelu", "gelu_tanh", "relu", "relu2", "swiglu"])),
        tie_embeddings=draw(st.booleans()),
    )


def parameters_by_hand(c: hb.GPTConfig) -> int:
    H, KV, D, W = c.n_head, c.n_kv_head or c.n_head, c.head_dim or c.d_model // c.n_head, c.d_model
    ff = c.d_ff or (math.ceil(W * 8 / 3 / 64) * 64 if c.activation == "swiglu" else 4 * W)
    ups = 2 if c.activation == "swiglu" else 1
    norm = W + (W if c.norm == "layernorm" and c.bias else 0)
    matrices = W * H * D + 2 * W * KV * D + H * D * W + ups * W * ff + ff * W
    biases = (H * D + 2 * KV * D if (c.bias if c.qkv_bias is None else c.qkv_bias) else 0) + (
        W + ups * ff + W if c.bias else 0
    )
    outer = c.vocab_size * W * (1 if c.tie_embeddings else 2) + (c.context_length * W if c.position == "learned" else 0)
    return outer + c.n_layer * (matrices + biases + 2 * norm) + norm


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(configs(), st.integers(0, 10), st.data())
def test_any_model(tmp_path_factory: pytest.TempPathFactory, c: hb.GPTConfig, seed: int, data: st.DataObject) -> None:
    torch.manual_seed(seed)
    model = hb.GPT(c).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    T, B = c.context_length, data.draw(st.integers(1, 3))
    ids, targets = some_ids(model, B, T, seed=seed), some_ids(model, B, T, seed=seed + 1)

    assert model.parameter_count() == parameters_by_hand(c)
    position = c.context_length * c.d_model if c.position == "learned" else 0
    assert model.parameter_count(embeddings=False) == parameters_by_hand(c) - c.vocab_size * c.d_model - position

    with torch.no_grad():
        logits = model(ids)
        cut = data.draw(st.integers(0, T - 1))
        cache = model.new_cache(B)
        pieces = [model(piece, cache=cache) for piece in ids.split([cut] * (cut > 0) + [1] * (T - cut), dim=1)]
        torch.testing.assert_close(torch.cat(pieces, 1), logits, atol=1e-5, rtol=1e-5)
        with hb.use_kernels("reference"), FlopCounterMode(display=False) as counter:
            torch.testing.assert_close(model(ids), logits, atol=2e-5, rtol=1e-4)
        # The reference multiplies every query with every key; the model counts those that a query sees.
        every = 4 * c.n_layer * c.n_head * c.head_size * T
        pairs = sum(min(t + 1, c.attention_window or T) for t in range(T))
        seen = 4 * c.n_layer * c.n_head * c.head_size * pairs // T
        assert counter.get_total_flops() / (B * T) == model.flops_per_token(T) - seen + every

    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    again = hb.GPT.from_pretrained(folder).eval()
    assert again.config == c
    with torch.no_grad():
        assert torch.equal(again(ids), logits)

    losses = []
    for implementation in ("reference", "torch"):
        with hb.use_kernels(implementation):
            loss = model(ids, targets)
            losses.append((loss.detach(), *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)))
    for a, b in zip(*losses, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3)


def test_flops_of_the_context_by_default() -> None:
    model = build()
    assert model.flops_per_token() == model.flops_per_token(24) > model.flops_per_token(1)
    matrices = 12 * 32 * 32 * 2
    assert model.flops_per_token(1) == 2 * (matrices + 31 * 32) + 4 * 2 * 32


@pytest.mark.parametrize(
    ("n_head", "slopes"),
    [
        (1, [2**-8]),
        (8, [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]),
        (6, [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]),
        (16, [2 ** (-i / 2) for i in range(1, 17)]),
    ],
)
def test_slopes_of_alibi(n_head: int, slopes: list[float]) -> None:
    """As the paper's authors have them: https://github.com/ofirpress/attention_with_linear_biases."""
    torch.testing.assert_close(alibi_slopes(n_head), torch.tensor(slopes))


def test_how_far_a_window_lets_see() -> None:
    """window - 1 tokens back in each layer, and not one more."""
    model = build(attention_window=3, position="none", n_layer=2).eval()
    ids = some_ids(model, 1, 12)
    other = ids.clone()
    other[0, 4] = (other[0, 4] + 1) % model.config.vocab_size
    with torch.no_grad():
        changed = (model(ids) != model(other)).any(-1)[0]
    assert changed.tolist() == [4 <= t <= 4 + 2 * 2 for t in range(12)]


@pytest.mark.skipif("TRITON_INTERPRET" not in os.environ, reason="without a GPU, kernels need the interpreter")
def test_documents_are_looked_for_once() -> None:
    """By one sort for all layers, and on the way back not again; loss and gradients are the same bits as if each layer
    did it."""

    class Sorts(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += function._schema.name == "aten::sort"
            return function(*args, **(kwargs or {}))

    model = build(n_layer=2, d_model=16, n_head=1)
    ids, documents = some_ids(model, 2, 7), torch.tensor([[0] * 5 + [1] * 2, [3, 4, 3, 4, 4, 3, 4]])

    def run() -> tuple[int, list[Tensor]]:
        with Sorts() as sorts:
            loss = model(ids, ids, document_ids=documents)
            grads = torch.autograd.grad(loss, list(model.parameters()))
        return sorts.count, [loss.detach(), *grads]

    graphs: list[str] = []
    with use_kernels(attention="fused"):
        count, shared = run()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ops, "documents", lambda ids: ids)
            each, alone = run()
        compiled = torch.compile(
            model, fullgraph=True, backend=lambda graph, inputs: graphs.append(graph.code) or graph
        )
        with torch.no_grad():
            assert torch.equal(compiled(ids, ids, document_ids=documents), shared[0])
    assert (count, each, graphs[0].count(".sort(")) == (1, 2, 1)
    assert all(map(torch.equal, shared, alone))
    with use_kernels(attention="torch"):
        count, other = run()
    assert count == 0
    for a, b in zip(shared, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("position", ["rope", "alibi", "none"])
def test_documents_do_not_see_each_other(position: str) -> None:
    """Texts side by side in a row have the loss that each has alone, and the gradients are the sums."""
    model = build(position=position)
    ids, targets = some_ids(model, 1, 12), some_ids(model, 1, 12, seed=1)
    at = [(0, 5), (5, 6), (6, 12)]
    documents = torch.tensor([[0] * 5 + [1] + [2] * 6])
    loss = model(ids, targets, document_ids=documents, reduction="sum")
    alone = sum(model(ids[:, a:b], targets[:, a:b], reduction="sum") for a, b in at)
    torch.testing.assert_close(loss, alone)
    for a, b in zip(*(torch.autograd.grad(x, list(model.parameters())) for x in (loss, alone)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert (loss - model(ids, targets, reduction="sum")).abs() > 1e-3
    with pytest.raises(ConfigError, match=r"document_ids .* cache .* one of them"):
        model(ids, document_ids=documents, cache=model.new_cache())
