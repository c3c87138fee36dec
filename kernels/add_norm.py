r"""The step between two sub-layers: add to the residual stream, and normalise what comes out.

    h = residual + x,    y = norm(h),    the norm being `layer_norm` or `rms_norm`
    dresidual = dx = dh + (the gradient of h by way of y)

As two operations that is five passes over memory; here x and the residual are read and h and y written once, 8 N bytes
a row in bf16, the least that is possible. Backward reads h, dy and dh and writes one gradient, which is that of x and
of the residual (two if they differ in dtype); it is shared with the other norms (`norms_backward`).

h is rounded to the residual's dtype before it is normalised: y is the norm of what is stored.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import library, norms, norms_backward


@triton.jit
def add_norm_rows(
    X, Residual, W, B, Y, H, Statistics, n_rows, n_cols, eps, RMS: tl.constexpr,
    HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """ROWS rows of up to BLOCK PIECES columns, each held whole."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # (ROWS, 1)
    x = norms.read(X, row, n_rows, n_cols, BLOCK, PIECES)  # PIECES of (ROWS, BLOCK)
    residual = norms.read(Residual, row, n_rows, n_cols, BLOCK, PIECES)
    h = ()
    for k in tl.static_range(PIECES):
        rounded = (residual[k].to(tl.float32) + x[k].to(tl.float32)).to(H.dtype.element_ty)
        norms.write(H, rounded, k, row, n_rows, n_cols, BLOCK, PIECES)
        h += (rounded.to(tl.float32),)
    if not RMS:
        mean = norms.total(h, PIECES) / n_cols
        h = norms.centred(h, mean, n_cols, BLOCK, PIECES)
        tl.store(Statistics + n_rows + row, mean, mask=row < n_rows)
    r = 1 / tl.sqrt(norms.total_of_squares(h, PIECES) / n_cols + eps)
    for k in tl.static_range(PIECES):
        y = norms.scaled(h[k] * r, k, W, B, n_cols, HAS_WEIGHT, HAS_BIAS, ROWS, BLOCK, PIECES)
        norms.write(Y, y, k, row, n_rows, n_cols, BLOCK, PIECES)
    tl.store(Statistics + row, r, mask=row < n_rows)


def _forward(
    x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, rms: bool
) -> tuple[Tensor, Tensor, Tensor]:
    y, h, statistics = _fake(x, residual, weight, bias, eps, rms)
    n_rows, n_cols = norms.size(x)
    if x.numel() == 0:
        return y, h, statistics
    if (tile := norms.tile(n_cols)) is None:
        norms.launch_long_row(x, residual, weight, bias, y, h, statistics, eps, rms)
    else:
        library.launch(
            add_norm_rows, (library.cdiv(n_rows, tile.rows),),
            x, residual, x if weight is None else weight, x if bias is None else bias, y, h, statistics,
            n_rows, n_cols, eps, RMS=rms, HAS_WEIGHT=weight is not None, HAS_BIAS=bias is not None,
            **tile.constants(n_cols), num_warps=tile.warps,
        )  # fmt: skip
    return y, h, statistics


def _fake(
    x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, rms: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(residual), norms.statistics_for(x, rms)


_add_norm = library.operator(
    "add_norm(Tensor x, Tensor residual, Tensor? weight, Tensor? bias, float eps, bool rms) "
    "-> (Tensor, Tensor, Tensor)",
    _forward, _fake,
)  # fmt: skip


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, rms: bool
    ) -> tuple[Tensor, Tensor]:
        y, h, statistics = _add_norm(x, residual, weight, bias, eps, rms)
        ctx.save_for_backward(h, weight, bias, statistics)
        ctx.set_materialize_grads(False)  # no zeros in the place of gradients that are not there
        ctx.x_dtype, ctx.rms = x.dtype, rms
        return y, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dh: Tensor | None) -> tuple[Tensor | None, ...]:
        wants_x, wants_residual, wants_weight, wants_bias = ctx.needs_input_grad[:4]
        dw = db = None
        if dy is None:  # only h was used: a plain sum
            dx, dresidual = None if dh is None else dh.to(ctx.x_dtype), dh
        else:
            h, *others = ctx.saved_tensors
            one = h.dtype == ctx.x_dtype  # one gradient is that of both
            wants = [wants_x or (one and wants_residual), wants_residual and not one, wants_weight, wants_bias]
            dx, dresidual, dw, db = norms_backward.norm_backward(dy, dh, h, *others, ctx.rms, wants)
            dresidual = dx if one else dresidual
        found = zip((dx, dresidual, dw, db), ctx.needs_input_grad[:4], strict=True)
        return *(d if wanted else None for d, wanted in found), None, None


def refusal(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    norm: str = "layer_norm",
) -> str | None:
    """Why the kernel does not take this call, or None if it does."""
    if norm not in ("layer_norm", "rms_norm"):
        return f"norm is 'layer_norm' or 'rms_norm', not {norm!r}"
    if x.shape != residual.shape:
        return f"x has shape {tuple(x.shape)}, but the residual has {tuple(residual.shape)}"
    return norms.refusal(x, weight, bias) or library.tensors_refused(x, residual)


def add_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    norm: str = "layer_norm",
) -> tuple[Tensor, Tensor]:
    """The norm of residual + x, and residual + x itself; see `reference.add_norm`.

    Args:
        x, residual: (..., N), each fp32, fp16 or bf16.
        weight, bias: (N,), of any of these dtypes, or none.
        norm: "layer_norm" or "rms_norm".

    Returns:
        The norm, with x's dtype, and the sum, with residual's; the statistics are computed in fp32.

    Raises:
        UnsupportedError: for other dtypes and shapes.
    """
    library.require(refusal(x, residual, weight, bias, eps, norm=norm))
    weight, bias = (None if t is None else t.contiguous() for t in (weight, bias))
    return _AddNorm.apply(x.contiguous(), residual.contiguous(), weight, bias, float(eps), norm == "rms_norm")
