r"""The last matrix of a language model and its loss, without ever holding the (N, V) logits.

    L = cross_entropy(x Wᵀ, targets)
    dx = D W,    dW = Dᵀ x,    D = ∂L/∂(x Wᵀ)

For a chunk of rows at a time: logits = x Wᵀ by cuBLAS, the kernel of `cross_entropy`, which writes D over them, and the
two products with D. The gradient of a mean or a sum is the same, up to one factor g, whatever is done with the loss
(as Liger-Kernel has it, https://arxiv.org/abs/2410.10989), so it is made in the forward pass, and backward multiplies.
The (V, d) sum over chunks is kept in fp32: cuBLAS adds each product to it. Backward rounds it, once, to W's format.

At the floor these are three products of matrices, 6 N V d operations. On top come, for each chunk, its logits written,
read, written and read twice (10 bytes a logit), which is little if d is large, and 8 V d bytes to add to dW: so few and
large chunks are faster. What may be held besides the gradients and one fp32 dW is a tenth of the logits. But dW in W's
format exists only in backward, when the logits of the last chunk are gone: its memory, which d rows of logits fill,
is theirs until then.

With reduction="none" each row has its own g, which only backward knows: that makes the logits again: four products.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import cross_entropy, library
from .cross_entropy import HOW, PARTS, Options, counted


@triton.jit
def scaled_copy(X, Y, G, Counts, n, DIVIDED: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    """Y = g X (by the count, where DIVIDED), rounded once."""
    g = tl.load(G).to(tl.float32)
    if DIVIDED:
        g = g / tl.maximum(counted(Counts, PARTS), 1.0)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(X + at, mask=at < n, other=0.0).to(tl.float32)
    tl.store(Y + at, (x * g).to(Y.dtype.element_ty), mask=at < n)


BLOCK, WARPS = 4096, 8
# The share of the logits that a chunk may be, and how many logits are too few to make chunks of.
SHARE, FEW = 10, 1 << 16


def chunk_rows(N: int, V: int, d: int) -> int:
    """How many rows of logits are held at once; as large a part as another, and as a rule a multiple of 128.

    Args:
        d: columns of W where its gradient is wanted, else 0.
    """
    most = max(1, N // SHARE + d, FEW // V)
    most -= most % 128 if most >= 128 else 0
    rows = library.cdiv(N, library.cdiv(N, most))
    return min(N, most, library.cdiv(rows, 128) * 128) if most >= 128 else rows


def _chunks(
    x: Tensor, weight: Tensor, targets: Tensor, counts: Tensor, losses: Tensor | None, wants_x: bool, wants_w: bool,
    options: Options, g: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Everything there is to do for a chunk of rows, one after the other.

    Args:
        losses: (N,), written; none on the way back, where ``g``, (N,), is given.

    Returns:
        dx, and the fp32 sum of dW; (0,) for what is not wanted.
    """
    N, (V, d) = len(x), weight.shape
    dx, dw = _empty(x, weight, wants_x, wants_w)
    if not N:
        return dx, dw.zero_()
    W = weight.to(x.dtype)
    rows = chunk_rows(N, V, d if wants_w else 0)
    buffer = x.new_empty(rows, V)
    for start in range(0, N, rows):
        part = slice(start, start + rows)
        x_, t = x[part], targets[part]
        logits = buffer[: len(x_)]
        torch.mm(x_, W.T, out=logits)
        gradient = logits if wants_x or wants_w else None
        row_losses, row_g = (None if of_all is None else of_all[part] for of_all in (losses, g))
        cross_entropy.losses_into(row_losses, gradient, logits, t, counts, options, row_g)
        if wants_x:
            torch.mm(logits, W, out=dx[part])
        if wants_w:
            _add_product(dw, logits.T, x_, first=start == 0)
    return dx, dw


def _add_product(total: Tensor, a: Tensor, b: Tensor, first: bool) -> None:
    """total += a b, where the first time there is nothing yet; total is fp32, whatever a and b are."""
    if not a.is_cuda or a.dtype == torch.float32:
        total.addmm_(a.float(), b.float(), beta=0 if first else 1)
    elif first:
        torch.mm(a, b, out_dtype=torch.float32, out=total)
    else:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)


def _empty(x: Tensor, weight: Tensor, wants_x: bool, wants_w: bool) -> tuple[Tensor, Tensor]:
    """Memory for dx, and for the fp32 sum of dW; (0,) for what is not wanted."""
    dx = torch.empty_like(x) if wants_x else x.new_empty(0)
    return dx, weight.new_empty(weight.shape if wants_w else 0, dtype=torch.float32)


def _forward(x: Tensor, weight: Tensor, targets: Tensor, *how: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *rest, wants_x, wants_w = how
    options = Options(*rest)
    counts = cross_entropy.count(targets, options)
    losses = x.new_empty(len(x), dtype=torch.float32)
    gradients = _chunks(x, weight, targets, counts, losses, wants_x, wants_w, options)
    return cross_entropy.reduced(losses, options.reduction), counts, *gradients


def _backward(x: Tensor, weight: Tensor, targets: Tensor, g: Tensor, *how: Any) -> tuple[Tensor, Tensor]:
    *rest, wants_x, wants_w = how
    options = Options(*rest)
    counts = cross_entropy.count(targets, options)  # of nothing: with "none" nobody asks
    return _chunks(x, weight, targets, counts, None, wants_x, wants_w, options, g)


def _scaled(t: Tensor, g: Tensor, counts: Tensor, divided: bool, dtype: torch.dtype) -> Tensor:
    y = torch.empty_like(t, dtype=dtype)
    grid = (library.cdiv(t.numel(), BLOCK),)
    library.launch(
        scaled_copy, grid, t, y, g, counts, t.numel(), DIVIDED=divided, PARTS=PARTS, BLOCK=BLOCK, num_warps=WARPS
    )
    return y


def _fake(
    x: Tensor, weight: Tensor, targets: Tensor, ignore_index: int, reduction: str, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss = x.new_empty(x.shape[:1] if reduction == "none" else (), dtype=torch.float32)
    counts = targets.new_empty(PARTS if reduction == "mean" else 0, dtype=torch.int32)
    return loss, counts, *_empty(x, weight, *rest[-2:])


_linear_cross_entropy = library.operator(
    "linear_cross_entropy(Tensor x, Tensor weight, Tensor targets, " + HOW + ", bool wants_x, bool wants_w)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _forward,
    _fake,
)
_linear_cross_entropy_backward = library.operator(
    "linear_cross_entropy_backward(Tensor x, Tensor weight, Tensor targets, Tensor g, " + HOW + ", "
    "bool wants_x, bool wants_w) -> (Tensor, Tensor)",
    _backward,
    lambda x, weight, targets, g, *how: _empty(x, weight, *how[-2:]),
)
_linear_cross_entropy_scaled = library.operator(
    "linear_cross_entropy_scaled(Tensor t, Tensor g, Tensor counts, bool divided, ScalarType dtype) -> Tensor",
    _scaled,
    lambda t, g, counts, divided, dtype: torch.empty_like(t, dtype=dtype),
)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, options: Options, wants_x: bool, wants_w: bool
    ) -> Tensor:
        loss, *made = _linear_cross_entropy(x, weight, targets, *options, wants_x, wants_w)
        ctx.save_for_backward(*((x, weight, targets) if options.reduction == "none" else made))
        ctx.options, ctx.weight_dtype = options, weight.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        wants = ctx.needs_input_grad[:2]
        if ctx.options.reduction == "none":
            dx, dw = _linear_cross_entropy_backward(*ctx.saved_tensors, g, *ctx.options, *wants)
            dw = dw.to(ctx.weight_dtype)
        else:
            counts, dx, dw = ctx.saved_tensors
            divided = cross_entropy.is_left(dx.dtype, counts)
            if wants[0]:
                dx = _linear_cross_entropy_scaled(dx, g, counts, divided, dx.dtype)
            if wants[1]:
                dw = _linear_cross_entropy_scaled(dw, g, counts, divided, ctx.weight_dtype)
        return dx if wants[0] else None, dw if wants[1] else None, None, None, None, None


def refusal(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> str | None:
    """Why the kernel does not take this call, or None if it does."""
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1]:
        return f"x is (N, d) and weight (V, d), but here they are {tuple(x.shape)} and {tuple(weight.shape)}"
    if not weight.shape[0]:
        return "the vocabulary is empty"
    options = Options(ignore_index, reduction, label_smoothing, z_loss, softcap)
    return library.tensors_refused(x, weight) or cross_entropy.rows_refused(targets, (x.shape[0], x.device), options)


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> Tensor:
    """cross_entropy(x weightᵀ, targets), chunk by chunk; see `reference.linear_cross_entropy`.

    Args:
        x: (N, d), fp32, fp16 or bf16.
        weight: (V, d), of any of these dtypes; used in x's, so that another one costs a copy.
        targets: (N,) ids, int64 or int32; see `cross_entropy` for those that are none.
        ignore_index, reduction, label_smoothing, z_loss, softcap: as in the reference.

    Returns:
        The loss in fp32.

    Raises:
        UnsupportedError: for other dtypes, shapes and options.
    """
    options = Options(ignore_index, reduction, float(label_smoothing), float(z_loss), softcap)
    library.require(refusal(x, weight, targets, **options._asdict()))
    now = torch.is_grad_enabled() and reduction != "none"
    wants = (now and x.requires_grad, now and weight.requires_grad)
    return _LinearCrossEntropy.apply(x.contiguous(), weight.contiguous(), targets.contiguous(), options, *wants)
