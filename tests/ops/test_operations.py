"""Each operation: the reference against its formula in float64, PyTorch's version against the reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hornbook import native, ops
from hornbook.ops import use_kernels
from torch import Tensor

F64, F32, BF16 = torch.float64, torch.float32, torch.bfloat16
IMPLEMENTATIONS = ("reference", "torch")
TOLERANCE = {F32: 2e-6, BF16: 2e-2}  # of the largest value; bf16 has 8 bits, and some results are sums of many


def randn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64) * scale


def ids(n: int, below: int, seed: int = 0) -> Tensor:
    return torch.randint(below, (n,), generator=torch.Generator().manual_seed(seed))


# The formulas, written a second time and differently: loops and float64.


def formula_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True, scale: float | None = None) -> Tensor:
    (B, T_q, H, D), (T_k, H_kv) = q.shape, k.shape[1:3]
    scale = D**-0.5 if scale is None else scale
    rows = []
    for h in range(H):
        kv = h * H_kv // H
        for i in range(T_q):
            seen = max(0, i + T_k - T_q + 1) if causal else T_k
            w = torch.exp(torch.einsum("bd,btd->bt", q[:, i, h], k[:, :seen, kv]) * scale)
            y = torch.einsum("bt,btd->bd", w, v[:, :seen, kv])
            rows.append(y / w.sum(-1, keepdim=True) if seen else torch.zeros_like(q[:, i, h]))
    y = torch.stack(rows, dim=1).view(B, H, T_q, D).transpose(1, 2) if rows else torch.zeros_like(q)
    return y + 0 * (q.sum() + k.sum() + v.sum())  # a gradient, if only of zeros, where a size is 0


def formula_softmax(x: Tensor, *, scale: float = 1.0, causal: bool = False) -> Tensor:
    e = torch.exp(x * scale)
    if causal:
        T_q, T_k = x.shape[-2:]
        i, j = torch.arange(T_q)[:, None], torch.arange(T_k)
        e = e * (j <= i + T_k - T_q)
    total = e.sum(-1, keepdim=True)
    return e / torch.where(total == 0, 1.0, total)


def formula_layer_norm(x: Tensor, w: Tensor | None = None, b: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    mean, mean2 = x.mean(-1, keepdim=True), (x * x).mean(-1, keepdim=True)
    y = (x - mean) / (mean2 - mean**2 + eps).sqrt()
    return y * (1 if w is None else w) + (0 if b is None else b)


def formula_rms_norm(x: Tensor, w: Tensor | None = None, b: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    y = x / ((x * x).sum(-1, keepdim=True) / x.shape[-1] + eps).sqrt()
    return y * (1 if w is None else w) + (0 if b is None else b)


def formula_add_norm(
    x: Tensor,
    residual: Tensor,
    w: Tensor | None = None,
    b: Tensor | None = None,
    eps: float = 1e-5,
    *,
    norm: str = "layer_norm",
) -> tuple[Tensor, Tensor]:
    formula = formula_layer_norm if norm == "layer_norm" else formula_rms_norm
    return formula(x + residual, w, b, eps), x + residual


def formula_gelu(x: Tensor, bias: Tensor | None = None, *, approximate: str = "none") -> Tensor:
    x = x if bias is None else x + bias
    if approximate == "none":
        return x * torch.distributions.Normal(0.0, 1.0).cdf(x)
    u = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
    return x * torch.sigmoid(2 * u)  # (1 + tanh u) / 2 is the sigmoid of 2u


def formula_relu2(x: Tensor, bias: Tensor | None = None) -> Tensor:
    x = x if bias is None else x + bias
    return torch.where(x > 0, x * x, 0.0)


def formula_swiglu(gate: Tensor, up: Tensor | None = None) -> Tensor:
    half = gate.shape[-1] // 2
    gate, up = (gate[..., :half], gate[..., half:]) if up is None else (gate, up)
    return gate / (1 + torch.exp(-gate)) * up


def formula_rope(
    x: Tensor, cos: Tensor, sin: Tensor, *, positions: Tensor | None = None, interleaved: bool = False
) -> Tensor:
    half = x.shape[-1] // 2
    angle = torch.complex(cos, sin) if positions is None else torch.complex(cos, sin)[positions]
    a, b = (x[..., ::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    turned = torch.complex(a, b) * angle[..., None, :]
    y = torch.empty_like(x)
    at = (slice(0, None, 2), slice(1, None, 2)) if interleaved else (slice(0, half), slice(half, None))
    y[..., at[0]], y[..., at[1]] = turned.real, turned.imag
    return y


def formula_cross_entropy(
    x: Tensor,
    t: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    inplace: bool = False,
) -> Tensor:
    if softcap is not None:
        x = softcap * (1 - 2 / (1 + torch.exp(2 * x / softcap)))
    losses = []
    for n in range(len(t)):
        z = torch.exp(x[n]).sum()
        share = torch.full_like(x[n], label_smoothing / x.shape[1])
        share[t[n].clamp_min(0)] += 1 - label_smoothing
        loss = -(share * torch.log(torch.exp(x[n]) / z)).sum() + z_loss * torch.log(z) ** 2
        losses.append(loss if t[n] != ignore_index else 0 * x[n].sum())
    each = torch.stack(losses) if losses else x.sum(-1)
    if reduction == "none":
        return each
    return each.sum() / (1 if reduction == "sum" else (t != ignore_index).sum())


def formula_sample_logits(
    x: Tensor, u: Tensor, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> Tensor:
    """By sorting, and a loop over tokens."""
    drawn = []
    for row, chance in zip(x.tolist(), u.tolist(), strict=True):
        if temperature == 0:
            drawn.append(row.index(max(row)))
            continue
        weights = [math.exp((v - max(row)) / temperature) for v in row]
        kth = sorted(row, reverse=True)[min(top_k or len(row), len(row)) - 1]
        stay = [v >= kth for v in row]
        total = sum(w for w, s in zip(weights, stay, strict=True) if s)
        if top_p < 1:
            enough, reached = 0.0, max(row)
            for w, v in sorted(((w, v) for w, v, s in zip(weights, row, stay, strict=True) if s), reverse=True):
                if enough >= top_p * total:
                    break
                enough, reached = enough + w, v
            stay = [s and v >= reached for v, s in zip(row, stay, strict=True)]
        stay = [s and w >= min_p for w, s in zip(weights, stay, strict=True)]
        total, below = sum(w for w, s in zip(weights, stay, strict=True) if s), 0.0
        above = []
        for token, (w, s) in enumerate(zip(weights, stay, strict=True)):
            below += w * s
            above += [token] if s and below > chance * total else []
        drawn.append(above[0])
    return torch.tensor(drawn, dtype=torch.int64)


def formula_decode_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    *,
    block_table: Tensor | None = None,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
) -> Tensor:
    """A query, a head and a key at a time."""
    (_, T_q, H, D), H_kv = q.shape, k.shape[2]
    y = torch.zeros_like(q)
    for b, length in enumerate(lengths.tolist()):
        for t in range(T_q):
            place = length - T_q + t
            first = 0 if window is None else place - window + 1
            for h in range(H):
                total = 0.0
                for j in range(max(0, first), place + 1):
                    row, at = (b, j) if block_table is None else (int(block_table[b, j // k.shape[1]]), j % k.shape[1])
                    if row < 0:
                        continue
                    s = (q[b, t, h] @ k[row, at, h * H_kv // H]) * (D**-0.5 if scale is None else scale)
                    s = s if softcap is None else softcap * (1 - 2 / (1 + math.exp(2 * s / softcap)))
                    if alibi_slopes is not None:
                        s = s - alibi_slopes.expand(len(q), H)[b, h] * (place - j)
                    total += math.exp(s)
                    y[b, t, h] += math.exp(s) * v[row, at, h * H_kv // H]
                y[b, t, h] /= total or 1.0
    return y


def formula_linear_cross_entropy(x: Tensor, w: Tensor, t: Tensor, **options: Any) -> Tensor:
    return formula_cross_entropy(torch.einsum("nd,vd->nv", x, w), t, **options)


def angles(T: int, half: int) -> tuple[Tensor, Tensor]:
    a = torch.arange(T, dtype=F64)[:, None] * 100.0 ** -(torch.arange(half, dtype=F64) / half)
    return a.cos(), a.sin()


def qkv(B: int, T_q: int, T_k: int, H: int, H_kv: int, D: int) -> tuple[Tensor, ...]:
    return randn(B, T_q, H, D), randn(B, T_k, H_kv, D, seed=1), randn(B, T_k, H_kv, D, seed=2)


def some_ignored(n: int, V: int) -> Tensor:
    return ids(n, V).masked_fill(torch.arange(n) % 3 == 1, -100)


Case = tuple[str, str, tuple[Any, ...], dict[str, Any]]
CASES: list[Case] = []
SHAPES = {  # B, T_q, T_k, H, H_kv, D
    "square": (2, 7, 7, 2, 2, 8),
    "one": (1, 1, 1, 1, 1, 1),
    "last-query": (2, 1, 9, 4, 2, 4),
    "chunk": (1, 3, 8, 2, 1, 6),
    "blind-rows": (2, 6, 4, 2, 2, 4),
    "blind-rows-gqa": (1, 5, 2, 4, 2, 4),
    "gqa": (2, 5, 5, 6, 2, 4),
    "gqa3": (1, 4, 4, 6, 3, 4),
    "mqa": (1, 5, 5, 5, 1, 3),
    "no-keys": (1, 3, 0, 2, 2, 4),
    "no-queries": (1, 0, 3, 2, 2, 4),
    "long": (1, 65, 65, 1, 1, 4),
}
for name, shape in SHAPES.items():
    CASES += [("attention", f"{name}-{causal=}", qkv(*shape), {"causal": causal}) for causal in (True, False)]
CASES += [("attention", "scale", qkv(1, 4, 6, 2, 2, 4), {"scale": 0.3})]
for name, shape in {"rows": (3, 7), "one": (1, 1), "width1": (4, 1), "deep": (2, 3, 2, 5), "empty": (0, 5)}.items():
    CASES += [("softmax", name, (randn(*shape),), {}), ("softmax", name + "-scale", (randn(*shape),), {"scale": -2.5})]
for T_q, T_k in ((4, 4), (2, 5), (5, 2), (1, 1), (3, 1)):
    CASES += [
        ("softmax", f"causal-{T_q}x{T_k}-{s}", (randn(2, T_q, T_k),), {"causal": True, "scale": s}) for s in (1.0, -0.5)
    ]
ROWS = {"rows": (3, 7), "width1": (4, 1), "deep": (2, 3, 2, 5), "empty": (0, 5), "wide": (2, 333)}
for op in ("layer_norm", "rms_norm"):
    for name, shape in ROWS.items():
        x, w, b = randn(*shape) + 0.5, randn(shape[-1], seed=1), randn(shape[-1], seed=2)
        how = {"eps": 0.1} if name == "width1" else {}  # x - mean is 0, so that a small eps only magnifies rounding
        CASES += [(op, name, (x, w, b), how), (op, name + "-plain", (x,), {"eps": 0.1})]
        CASES += [(op, name + "-weight", (x, w), how), (op, name + "-bias", (x, None, b), how)]
for name, shape in {"one": (1,), "odd": (3, 5, 7), "empty": (0, 4)}.items():
    x = randn(*shape, scale=3)
    CASES += [("gelu", name, (x,), {}), ("gelu", name + "-tanh", (x,), {"approximate": "tanh"})]
    CASES += [("relu2", name, (x,), {}), ("swiglu", name, (x, randn(*shape, seed=1)), {})]
    bias = randn(shape[-1], seed=2)
    CASES += [("gelu", name + "-bias", (x, bias), {}), ("relu2", name + "-bias", (x, bias), {})]
    CASES += [("swiglu", name + "-halves", (randn(*shape[:-1], 2 * shape[-1], seed=3),), {})]
for name, (T, H, D) in {"one": (1, 1, 2), "odd": (5, 3, 6), "wide": (9, 2, 64), "empty": (0, 2, 4)}.items():
    for interleaved in (False, True):
        how = {"interleaved": interleaved}
        CASES += [("rope", f"{name}-{interleaved}", (randn(2, T, H, D), *angles(T, D // 2)), how)]
        placed = how | {"positions": ids(2 * T, 9).view(2, T)}
        CASES += [("rope", f"{name}-placed-{interleaved}", (randn(2, T, H, D), *angles(9, D // 2)), placed)]
for reduction in ("mean", "sum", "none"):
    how = {"reduction": reduction}
    for name, (N, d, V) in {"odd": (7, 5, 11), "one": (1, 1, 1), "width1": (3, 4, 1), "dim1": (3, 1, 5)}.items():
        x, w = randn(N, d), randn(V, d, seed=1)
        for kind, t in (("all", ids(N, V)), ("some", some_ignored(N, V)), ("zero", ids(N, V))):
            options = how | ({"ignore_index": 0} if kind == "zero" and V > 1 else {})
            CASES += [("cross_entropy", f"{name}-{kind}-{reduction}", (x @ w.T, t), options)]
            CASES += [("linear_cross_entropy", f"{name}-{kind}-{reduction}", (x, w, t), options)]
    if reduction != "mean":
        none = torch.full((4,), -100)
        CASES += [("cross_entropy", f"ignored-{reduction}", (randn(4, 5), none), how)]
        CASES += [("linear_cross_entropy", f"ignored-{reduction}", (randn(4, 3), randn(5, 3), none), how)]
        CASES += [("cross_entropy", f"empty-{reduction}", (randn(0, 5), ids(0, 5)), how)]
        CASES += [("linear_cross_entropy", f"empty-{reduction}", (randn(0, 3), randn(5, 3), ids(0, 5)), how)]

    for name, extra in {
        "smoothed": {"label_smoothing": 0.1},
        "z": {"z_loss": 0.3},
        "capped": {"softcap": 1.5},
        "all": {"label_smoothing": 0.2, "z_loss": 0.1, "softcap": 3.0},
    }.items():
        x, w, t = randn(7, 5), randn(11, 5, seed=1), some_ignored(7, 11)
        CASES += [("cross_entropy", f"{name}-{reduction}", (x @ w.T, t), how | extra)]
        CASES += [("linear_cross_entropy", f"{name}-{reduction}", (x, w, t), how | extra)]
CASES += [("cross_entropy", "inplace", (randn(7, 5), ids(7, 5)), {"inplace": True})]
for norm in ("layer_norm", "rms_norm"):
    for name, shape in ROWS.items():
        x, h, w, b = randn(*shape) + 0.5, randn(*shape, seed=3), randn(shape[-1], seed=1), randn(shape[-1], seed=2)
        how = {"norm": norm} | ({"eps": 0.1} if name == "width1" else {})
        CASES += [("add_norm", f"{norm}-{name}", (x, h, w, b), how)]
        CASES += [("add_norm", f"{norm}-{name}-plain", (x, h), how | {"eps": 0.1})]
for name, how in {
    "plain": {},
    "sharp": {"temperature": 0.3},
    "first": {"temperature": 0.0},
    "top_k": {"top_k": 3},
    "top_p": {"top_p": 0.6},
    "min_p": {"min_p": 0.2},
    "all": {"temperature": 1.3, "top_k": 7, "top_p": 0.8, "min_p": 0.05},
}.items():
    x, u = randn(40, 13, scale=2.0), torch.rand(40, generator=torch.Generator().manual_seed(4)) * 0.99
    CASES += [("sample_logits", name, (x, u), how), ("sample_logits", name + "-ties", (x.round(), u), how)]

for name, (T_q, lengths, how) in {
    "plain": (1, (7, 3), {}),
    "even": (1, (6, 6), {}),
    "several": (3, (7, 2), {}),
    "none": (2, (0, 5), {}),
    "window": (3, (7, 4), {"window": 2}),
    "capped": (2, (7, 4), {"softcap": 1.5, "scale": 0.7}),
    "alibi": (2, (7, 7), {"alibi_slopes": randn(4, seed=7)}),
    "each": (2, (7, 4), {"alibi_slopes": randn(2, 4, seed=7), "window": 4, "softcap": 2.0}),
}.items():
    q, k, v = qkv(2, T_q, 8, 4, 2, 5)
    CASES += [("decode_attention", name, (q, k, v, torch.tensor(lengths)), how)]
    table = torch.tensor([[3, 0, 5], [1, 4, -1]], dtype=torch.int32)
    pages = [t.flatten(0, 1)[:15].unflatten(0, (5, 3)).repeat(2, 1, 1, 1)[:7] for t in (k, v)]
    CASES += [("decode_attention", name + "-pages", (q, *pages, torch.tensor(lengths)), how | {"block_table": table})]

PARAMETERS = pytest.mark.parametrize(
    ("op", "args", "options"), [pytest.param(c[0], c[2], c[3], id=f"{c[0]}-{c[1]}") for c in CASES]
)


WITHOUT_GRADIENTS = ("decode_attention", "sample_logits")


def is_constant(op: str, i: int) -> bool:
    return (op == "rope" and i > 0) or op in WITHOUT_GRADIENTS  # angles are no parameters


def run(f: Callable[..., Any], op: str, args: tuple[Any, ...], options: dict[str, Any], dtype: torch.dtype):
    """The result (or results), and the gradient by every floating-point argument for fixed gradients of the results."""
    inputs = [a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
    leaves = [a for i, a in enumerate(inputs) if isinstance(a, Tensor) and a.dtype == dtype and not is_constant(op, i)]
    for leaf in leaves:
        leaf.requires_grad_()
    made = f(*inputs, **options)
    ys = made if isinstance(made, tuple) else (made,)
    dys = [randn(*y.shape, seed=9 + n).to(y.dtype) for n, y in enumerate(ys)]
    return [*(y.detach() for y in ys), *(torch.autograd.grad(ys, leaves, dys) if leaves else ())]


def check(got: list[Tensor], want: list[Tensor], tolerance: float) -> None:
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        if b.numel():
            largest = max(1.0, float(b.abs().max()))
            torch.testing.assert_close(a.to(F64), b.to(F64), rtol=0, atol=tolerance * largest)


@PARAMETERS
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_float64_is_the_formula(implementation: str, op: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    want = run(globals()[f"formula_{op}"], op, args, options, F64)
    with use_kernels(implementation):
        check(run(getattr(ops, op), op, args, options, F64), want, 1e-11)


@PARAMETERS
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_torch_is_the_reference(dtype: torch.dtype, op: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    args = tuple(a.to(dtype).to(F64) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)
    exact = run(globals()[f"formula_{op}"], op, args, options, F64)
    for implementation in IMPLEMENTATIONS:
        with use_kernels(implementation):
            got = run(getattr(ops, op), op, args, options, dtype)
        loss = op.endswith("cross_entropy")
        result = torch.int64 if op == "sample_logits" else torch.promote_types(dtype, F32) if loss else dtype
        assert got[0].dtype == result
        assert all(g.dtype == dtype for g in got[1:])
        check(got, exact, TOLERANCE[dtype])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("causal", [True, False])
def test_queries_that_see_nothing(implementation: str, causal: bool) -> None:
    q, k, v = (t.float().requires_grad_() for t in qkv(2, 6, 4, 4, 2, 8))
    with use_kernels(implementation):
        y = ops.attention(q, k, v, causal=causal)
        p = ops.softmax(torch.zeros(6, 4), causal=causal)
    grads = torch.autograd.grad(y.sum(), (q, k, v))
    assert all(g.isfinite().all() for g in (y, p, *grads))
    assert bool((y[:, :2] == 0).all()) == causal
    assert bool((p[:2] == 0).all()) == causal
    assert (y[:, 2:] != 0).all()
    assert (grads[0][:, :2] == 0).all() or not causal


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_large_numbers_stay_finite(implementation: str) -> None:
    big = torch.tensor([[1e4, -1e4, 0.0], [3e38, -3e38, 3e38]])
    with use_kernels(implementation):
        torch.testing.assert_close(ops.softmax(big), torch.tensor([[1.0, 0, 0], [0.5, 0, 0.5]]))
        torch.testing.assert_close(ops.gelu(big[0]), torch.tensor([1e4, 0.0, 0.0]))
        loss = ops.cross_entropy(big[:1], torch.tensor([1]))
        torch.testing.assert_close(loss, torch.tensor(2e4))
        far = ops.layer_norm(torch.tensor([[1e4 - 1, 1e4, 1e4 + 1]]))
        torch.testing.assert_close(far, torch.tensor([[-1.2247, 0.0, 1.2247]]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("op", ["cross_entropy", "linear_cross_entropy"])
def test_the_mean_of_nothing_is_nan(implementation: str, op: str) -> None:
    args = (torch.ones(3, 4), torch.ones(5, 4)) if op.startswith("linear") else (torch.ones(3, 5),)
    with use_kernels(implementation):
        assert getattr(ops, op)(*args, torch.full((3,), -100)).isnan()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_logits_may_be_bf16_but_losses_are_not(implementation: str) -> None:
    """A model computes in bf16 and keeps its weights in fp32; the loss is fp32, gradients have the weights' type."""
    x, w = randn(6, 4).to(BF16).requires_grad_(), randn(9, 4, seed=1).float().requires_grad_()
    with use_kernels(implementation):
        loss = ops.linear_cross_entropy(x, w, ids(6, 9))
        y = ops.layer_norm(x, w[0], w[1]), ops.rms_norm(x, w[0], w[1])
    exact = formula_linear_cross_entropy(x.to(F64), w.to(F64), ids(6, 9))
    assert loss.dtype == F32
    assert [t.dtype for t in (*y, *torch.autograd.grad(loss, (x, w)))] == [BF16, BF16, BF16, F32]
    assert float((loss.detach() - exact.detach()).abs()) < 0.02


def strided(t: Tensor) -> Tensor:
    """The same values, in memory neither dense nor in order."""
    wide = torch.full((*t.shape[:-1], 2 * t.shape[-1] + 1), math.nan, dtype=t.dtype)
    wide[..., 1::2] = t
    return wide[..., 1::2].transpose(0, -1).contiguous().transpose(0, -1) if t.dim() > 1 else wide[..., 1::2]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("op", ops.OPERATIONS)
def test_memory_layout_does_not_matter(implementation: str, op: str) -> None:
    _, _, args, options = next(c for c in CASES if c[0] == op and c[2][0].numel() > 10)
    laid_out = tuple(strided(a) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)
    with use_kernels(implementation):
        f = getattr(ops, op)
        check(run(f, op, laid_out, options, F64), run(f, op, args, options, F64), 1e-12)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("op", [op for op in ops.OPERATIONS if op not in WITHOUT_GRADIENTS])
def test_gradcheck(implementation: str, op: str) -> None:
    _, _, args, options = next(c for c in CASES if c[0] == op and 6 < c[2][0].numel() < 300)
    inputs = tuple(
        a.clone().requires_grad_(not is_constant(op, i)) if isinstance(a, Tensor) and a.is_floating_point() else a
        for i, a in enumerate(args)
    )
    with use_kernels(implementation):
        assert torch.autograd.gradcheck(lambda *a: getattr(ops, op)(*a, **options), inputs)


def test_gradients_of_one_input_only() -> None:
    x, w, t = randn(6, 4), randn(9, 4, seed=1), some_ignored(6, 9)
    for wants in ((True, False), (False, True)):
        leaves = [a.clone().requires_grad_(need) for a, need in zip((x, w), wants, strict=True)]
        loss = ops.linear_cross_entropy(*leaves, t)
        (grad,) = torch.autograd.grad(loss, [a for a in leaves if a.requires_grad])
        both = [a.clone().requires_grad_() for a in (x, w)]
        want = torch.autograd.grad(formula_linear_cross_entropy(*both, t), both)[wants.index(True)]
        torch.testing.assert_close(grad, want)


def test_second_derivatives_are_refused_where_they_would_be_wrong() -> None:
    x, w = randn(6, 4).requires_grad_(), randn(9, 4, seed=1).requires_grad_()
    for y in (native.relu2(x).sum(), native.linear_cross_entropy(x, w, ids(6, 9))):
        (grad,) = torch.autograd.grad(y, x, create_graph=True)
        with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
            grad.sum().backward()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_loss_by_blocks_is_the_loss_of_all(monkeypatch: pytest.MonkeyPatch, reduction: str) -> None:
    args = (randn(23, 5), randn(7, 5, seed=1), some_ignored(23, 7))
    options = {"reduction": reduction}
    want = run(formula_linear_cross_entropy, "linear_cross_entropy", args, options, F64)
    for rows in (1, 4, 23, 100):
        monkeypatch.setattr(native, "_block_rows", lambda weight, rows=rows: rows)
        check(run(native.linear_cross_entropy, "linear_cross_entropy", args, options, F64), want, 1e-12)


def test_the_gradient_of_a_bf16_matrix_is_summed_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand blocks that all say the same: in bf16 the sum would stop growing at 256 of them."""
    monkeypatch.setattr(native, "_block_rows", lambda weight: 1)
    x, w = torch.ones(1000, 4, dtype=torch.bfloat16), torch.zeros(2, 4, dtype=torch.bfloat16, requires_grad=True)
    native.linear_cross_entropy(x, w, torch.zeros(1000, dtype=torch.int64), reduction="sum").backward()
    assert w.grad is not None
    torch.testing.assert_close(w.grad, torch.tensor([[-500.0], [500.0]], dtype=torch.bfloat16).expand(2, 4))


def test_without_gradients_none_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring a loss costs one product of matrices, not the three of training."""
    x, w, t = torch.randn(6, 4), torch.randn(9, 4, requires_grad=True), ids(6, 9)
    made = []
    zeros_like = torch.zeros_like
    monkeypatch.setattr(torch, "zeros_like", lambda *a, **o: made.append(a) or zeros_like(*a, **o))
    with torch.no_grad():
        quiet = native.linear_cross_entropy(x, w, t)
    assert not made
    torch.testing.assert_close(native.linear_cross_entropy(x, w, t).detach(), quiet)
    assert made


@pytest.mark.parametrize("op", ["relu2", "linear_cross_entropy"])
def test_our_own_gradients_survive_compilation(op: str) -> None:
    args = [randn(5, 4), randn(7, 4, seed=1), some_ignored(5, 7)][: 1 if op == "relu2" else 3]
    torch._dynamo.reset()
    compiled = torch.compile(getattr(native, op), backend="aot_eager", fullgraph=True)
    check(run(compiled, op, tuple(args), {}, F64), run(getattr(native, op), op, tuple(args), {}, F64), 1e-12)


def test_relu2_slope_at_zero() -> None:
    x = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    for implementation in IMPLEMENTATIONS:
        with use_kernels(implementation):
            (grad,) = torch.autograd.grad(ops.relu2(x).sum(), x)
        assert grad.tolist() == [0, 0, 4]


def test_rope_depends_on_distance_only() -> None:
    cos, sin = angles(20, 4)
    q, k = randn(8), randn(8, seed=1)

    def score(i: int, j: int) -> float:
        turn = [ops.rope(x.view(1, 1, 1, 8), cos[n : n + 1], sin[n : n + 1]) for x, n in ((q, i), (k, j))]
        return float((turn[0] * turn[1]).sum())

    assert math.isclose(score(3, 1), score(17, 15), rel_tol=1e-9)
    assert not math.isclose(score(3, 1), score(3, 2), rel_tol=1e-3)
