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
from hornbook.ops import use_kernels
from hornbook.positions import alibi_slopes
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

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
    "transformer-of-2017": {
        "norm_position": "post",
        "position": "sinusoidal",
        "activation": "relu",
        "padded_vocab_size": 40,
    },
    "llama3-long": LLAMA
    | {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
        "rope_theta": 50.0,
        "logit_softcap": 5.0,
        "tie_embeddings": False,
        "padded_vocab_size": 32,
    },
    "linear-long": {"position": "rope", "rope_scaling": {"rope_type": "linear", "factor": 3}, "logit_softcap": 2},
    "alibi": LLAMA | {"position": "alibi", "attention_window": 5, "norm_position": "post"},
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

    def speed(j: int) -> float:
        """As Meta's own code has it, https://github.com/meta-llama/llama-models (apply_scaling)."""
        speed, how = c.rope_theta ** (-2 * j / c.head_size), c.rope_scaling
        if how is None:
            return speed
        if how["rope_type"] == "linear":
            return speed / how["factor"]
        length, low, high = (
            how[name] for name in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
        )
        wave = 2 * math.pi / speed
        if wave < length / high:
            return speed
        if wave > length / low:
            return speed / how["factor"]
        smooth = (length / wave - low) / (high - low)
        return (1 - smooth) * speed / how["factor"] + smooth * speed

    def turn(x: Tensor, position: int) -> Tensor:
        D, y = len(x), x.clone()
        for j in range(D // 2):
            angle = position * speed(j)
            a, b = x[j], x[j + D // 2]
            y[j], y[j + D // 2] = a * math.cos(angle) - b * math.sin(angle), a * math.sin(angle) + b * math.cos(angle)
        return y

    x = w["embed.weight"][ids]
    if c.position == "learned":
        x = x + w["position.weight"][: len(ids)]
    if c.position == "sinusoidal":
        x = x * c.d_model**0.5
        for p in range(len(ids)):
            for channel in range(c.d_model):
                angle = p / 10000 ** (2 * (channel // 2) / c.d_model)
                x[p, channel] += math.cos(angle) if channel % 2 else math.sin(angle)
    post = c.norm_position == "post"
    for n in range(c.n_layer):
        at = f"blocks.{n}."
        h = x if post else norm(x, at + "attn_norm")
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
                near = range(max(0, i + 1 - (c.attention_window or 24)), i + 1)
                scores = torch.stack([heads["q"][i][head] @ heads["k"][j][kv] for j in near]) / c.head_size**0.5
                if c.position == "alibi":  # of four heads
                    scores = scores - torch.tensor([4.0 ** -(head + 1) * (i - j) for j in near])
                out.append(sum(p * heads["v"][j][kv] for j, p in zip(near, scores.softmax(0), strict=True)))
            rows.append(torch.cat(out))  # type: ignore[arg-type]
        x = x + linear(torch.stack(rows), at + "attn.o_proj")
        if post:
            x = norm(x, at + "attn_norm")
        h = x if post else norm(x, at + "mlp_norm")
        up = linear(h, at + "mlp.up_proj")
        if c.activation == "swiglu":
            up = F.silu(linear(h, at + "mlp.gate_proj")) * up
        else:
            bend = {"relu": F.relu, "relu2": lambda t: F.relu(t) ** 2, "gelu": F.gelu}
            up = bend.get(c.activation, lambda t: F.gelu(t, approximate="tanh"))(up)
        x = x + linear(up, at + "mlp.down_proj")
        if post:
            x = norm(x, at + "mlp_norm")
    x = x if post else norm(x, "norm")
    logits = (x @ w["embed.weight" if c.tie_embeddings else "lm_head.weight"].T)[:, : c.vocab_size]
    return logits if c.logit_softcap is None else c.logit_softcap * (logits / c.logit_softcap).tanh()


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


@pytest.mark.parametrize("family", ["gpt2", "llama", "transformer-of-2017"])
def test_initialisation(family: str) -> None:
    torch.manual_seed(0)
    fields = dict(FAMILIES[family], n_layer=8, d_model=128, vocab_size=500, context_length=300)
    fields |= {"padded_vocab_size": 512} if "padded_vocab_size" in fields else {}
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
            if name == "embed.weight":
                assert (p[500:] == 0).all()
                p = p[:500]
            residual = model.norm is not None and name.endswith(("o_proj.weight", "down_proj.weight"))
            kind = "residual" if residual else "position" if name == "position.weight" else "matrix"
            std = {"residual": 0.02 / math.sqrt(16), "position": 0.01, "matrix": 0.02}[kind]
            # the standard deviation of n draws is off by a factor of about 1 ± 1 / sqrt(2n); five of these are allowed
            assert abs(float(p.detach().std()) / std - 1) < 5 / math.sqrt(2 * p.numel()), name
            assert abs(float(p.detach().mean())) < 5 * std / math.sqrt(p.numel()), name
        seen.add(kind)
    kinds = {"gpt2": {"position", "bias", "residual"}, "llama": {"residual"}, "transformer-of-2017": {"bias"}}
    assert seen == {"matrix", "norm"} | kinds[family]
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
