r"""Gaussian error linear unit (Hendrycks and Gimpel, 2016, https://arxiv.org/abs/1606.08415), with z = x + b.

    exact    y = z Φ(z),    dy/dz = Φ(z) + z φ(z),    Φ(z) = (1 + erf(z / √2)) / 2,    φ(z) = exp(-z²/2) / √(2π)
    tanh     y = z σ(v),    dy/dz = σ(v) + z σ(v) σ(-v) v',    v = √(8/π) (z + 0.044715 z³),    σ(v) = 1 / (1 + e⁻ᵛ)

The second is z (1 + tanh(v / 2)) / 2 in another form: (1 + tanh(v / 2)) / 2 = σ(v), and where the tanh comes close to
-1, the sum with 1 would lose digits that σ has.

In bf16 4 bytes a number forward and 6 backward, and about 20 to 30 operations, most of them for erf. Backward computes
all again from x. `pointwise` moves the numbers and sums up db.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import library, pointwise


@triton.jit
def normal_distribution(z):
    """Φ(z), from log2 Φ(-|z|), which is nearly a parabola."""
    a = tl.abs(z)
    p = tl.fma(a, -2.2758668e-06, 3.2967953e-05)
    p = tl.fma(a, p, -0.00015727845)
    p = tl.fma(a, p, -0.00020247977)
    p = tl.fma(a, p, 0.007142783)
    p = tl.fma(a, p, -0.052546438)
    p = tl.fma(a, p, -0.45919305)
    p = tl.fma(a, p, -1.151107)
    p = tl.fma(a, p, -0.99999994)
    below = tl.exp2(p)
    return tl.where(z > 0.0, 1.0 - below, below)


@triton.jit
def exact(z):
    return z * normal_distribution(z)


@triton.jit
def exact_slope(z):
    density = tl.exp2(tl.fma(z * z, -0.7213475204444817, -1.3257480647361592))  # the powers of 2, not of e
    return normal_distribution(z) + z * density


@triton.jit
def inner(z):
    """v / log 2, for powers of 2, and the slope of v by z. From |z| = 20 on σ is 0 or 1 whatever z² is, which therefore
    need not overflow."""
    z2 = tl.minimum(z * z, 400.0)
    return z * (2.302208198144325 + 0.1029432395800235 * z2), 1.5957691216057308 + 0.21406444881780076 * z2


@triton.jit
def tanh(z):
    v, _ = inner(z)
    return z / (1.0 + tl.exp2(-v))


@triton.jit
def tanh_slope(z):
    v, dv = inner(z)
    e = tl.exp2(-tl.abs(v))  # no larger than 1
    r = 1.0 / (1.0 + e)  # σ(|v|); σ(-|v|) is e r, which is exact where 1 - r is not
    return tl.where(v < 0.0, e * r, r) + z * (e * r * r) * dv


FORMS: dict[str, tuple[Any, Any]] = {"none": (exact, exact_slope), "tanh": (tanh, tanh_slope)}


def _forward(x: Tensor, bias: Tensor | None, approximate: str) -> Tensor:
    return pointwise.forward(x, bias, FORMS[approximate][0])


def _backward(
    x: Tensor, bias: Tensor | None, dy: Tensor, approximate: str, wants_x: bool, wants_bias: bool
) -> tuple[Tensor, Tensor]:
    return pointwise.backward(x, bias, dy, FORMS[approximate][1], wants_x, wants_bias)


_gelu = library.operator(
    "gelu(Tensor x, Tensor? bias, str approximate) -> Tensor",
    _forward, lambda x, bias, approximate: torch.empty_like(x),
)  # fmt: skip
_gelu_backward = library.operator(
    "gelu_backward(Tensor x, Tensor? bias, Tensor dy, str approximate, bool wants_x, bool wants_bias)"
    " -> (Tensor, Tensor)",
    _backward, pointwise.fake_backward,
)  # fmt: skip


class _GELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, approximate: str) -> Tensor:
        ctx.save_for_backward(x, bias)
        ctx.approximate = approximate
        return _gelu(x, bias, approximate)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, bias = ctx.saved_tensors
        wants_x, wants_bias, _ = ctx.needs_input_grad
        dx, db = _gelu_backward(x, bias, dy, ctx.approximate, wants_x, wants_bias)
        return dx if wants_x else None, db if wants_bias else None, None


def refusal(x: Tensor, bias: Tensor | None = None, *, approximate: str = "none") -> str | None:
    """Why the kernel does not take this call, or None if it does."""
    if approximate not in FORMS:
        return f"approximate is one of {', '.join(map(repr, FORMS))}, not {approximate!r}"
    return pointwise.refusal(x, bias)


def gelu(x: Tensor, bias: Tensor | None = None, *, approximate: str = "none") -> Tensor:
    """z · Φ(z) for z = x + bias, in one pass over memory; see `reference.gelu`.

    Args:
        x: (..., N), or any shape without a bias; fp32, fp16 or bf16.
        bias: (N,), of any of these dtypes, or none.
        approximate: "none" for the exact Φ, "tanh" for the formula that GPT-2 was trained with.

    Returns:
        The shape and dtype of x; computed in fp32.

    Raises:
        UnsupportedError: for other dtypes and shapes.
    """
    library.require(refusal(x, bias, approximate=approximate))
    return _GELU.apply(x.contiguous(), None if bias is None else bias.contiguous(), approximate)
