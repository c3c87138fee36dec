r"""SwiGLU (Shazeer, 2020, https://arxiv.org/abs/2002.05202).

    y = g σ(g) u,    σ(g) = 1 / (1 + exp(-g))
    dg = dy u σ(g) (1 + g σ(-g)),    du = dy g σ(g)

Gate g and up u are two tensors, or the halves of each row of one. Rows may lie apart, so that halves are read where
they are, and their gradients written where they belong. Forward reads two numbers and writes one, backward reads three
and writes two: in bf16 6 and 10 bytes an output, and about 10 and 20 operations. Memory is the limit; as in `pointwise`
a thread has 16 numbers of every tensor, and two tensors without gaps are one row each, whatever their shape.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import library
from .pointwise import tile, tile_of


@triton.jit
def swiglu_forward(Gate, Up, Y, n_rows, n_cols, gate_stride, up_stride, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row, col = tile_of(tl.program_id(0), n_cols, ROWS, BLOCK)
    inside = (row < n_rows)[:, None] & (col < n_cols)[None, :]
    row, col = row[:, None], col[None, :]
    g = tl.load(Gate + row * gate_stride + col, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(Up + row * up_stride + col, mask=inside, other=0.0).to(tl.float32)
    y = g / (1.0 + tl.exp2(-1.4426950408889634 * g)) * u
    tl.store(Y + row * n_cols + col, y.to(Y.dtype.element_ty), mask=inside)


@triton.jit
def swiglu_backward(
    Gate, Up, DY, DGate, DUp, n_rows, n_cols, gate_stride, up_stride, d_stride,
    WANTS_GATE: tl.constexpr, WANTS_UP: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, col = tile_of(tl.program_id(0), n_cols, ROWS, BLOCK)
    inside = (row < n_rows)[:, None] & (col < n_cols)[None, :]
    row, col = row[:, None], col[None, :]
    g = tl.load(Gate + row * gate_stride + col, mask=inside, other=0.0).to(tl.float32)
    dy = tl.load(DY + row * n_cols + col, mask=inside, other=0.0).to(tl.float32)
    e = tl.exp2(-1.4426950408889634 * tl.abs(g))  # exp(-|g|), no larger than 1
    r = 1.0 / (1.0 + e)  # σ(|g|); σ(-|g|) is e r, which is exact where 1 - r is not
    s = tl.where(g < 0.0, e * r, r)
    at = row * d_stride + col
    if WANTS_GATE:
        u = tl.load(Up + row * up_stride + col, mask=inside, other=0.0).to(tl.float32)
        tl.store(DGate + at, (dy * u * (s + g * (e * r * r))).to(DGate.dtype.element_ty), mask=inside)
    if WANTS_UP:
        tl.store(DUp + at, (dy * g * s).to(DUp.dtype.element_ty), mask=inside)


def halves(gate: Tensor, up: Tensor | None) -> tuple[Tensor, Tensor]:
    """Gate and up, not empty, as rows (n_rows, n_cols) whose numbers lie side by side; the rows need not. Two tensors
    without gaps are one row."""
    if up is None:
        gate, up = in_rows(gate).chunk(2, dim=-1)
        return gate, up
    if gate.is_contiguous() and up.is_contiguous():
        return gate.view(1, -1), up.view(1, -1)
    return in_rows(gate), in_rows(up)


def in_rows(t: Tensor) -> Tensor:
    """As (n_rows, n_cols), with the numbers of a row side by side; copied if need be."""
    return (t if t.stride(-1) == 1 else t.contiguous()).reshape(-1, t.shape[-1])


def _forward(gate: Tensor, up: Tensor | None) -> Tensor:
    y = _fake_forward(gate, up)
    if y.numel() == 0:
        return y
    g, u = halves(gate, up)
    rows, block = tile(*g.shape)
    grid = (library.cdiv(g.shape[0], rows) * library.cdiv(g.shape[1], block),)
    library.launch(swiglu_forward, grid, g, u, y, *g.shape, g.stride(0), u.stride(0), ROWS=rows, BLOCK=block)
    return y


def _backward(gate: Tensor, up: Tensor | None, dy: Tensor, wants_gate: bool, wants_up: bool) -> tuple[Tensor, Tensor]:
    dgate, dup = _fake_backward(gate, up, dy, wants_gate, wants_up)
    if dy.numel() == 0:
        return dgate, dup
    g, u = halves(gate, up)
    dg, du = (dgate, dup) if up is not None else dgate.chunk(2, dim=-1)
    rows, block = tile(*g.shape)
    grid = (library.cdiv(g.shape[0], rows) * library.cdiv(g.shape[1], block),)
    library.launch(
        swiglu_backward, grid, g, u, dy.contiguous(), dg, du, *g.shape, g.stride(0), u.stride(0),
        g.shape[1] * (2 if up is None else 1),
        WANTS_GATE=wants_gate, WANTS_UP=wants_up, ROWS=rows, BLOCK=block,
    )  # fmt: skip
    return dgate, dup


def _fake_forward(gate: Tensor, up: Tensor | None) -> Tensor:
    return gate.new_empty(gate.shape if up is not None else (*gate.shape[:-1], gate.shape[-1] // 2))


def _fake_backward(
    gate: Tensor, up: Tensor | None, dy: Tensor, wants_gate: bool, wants_up: bool
) -> tuple[Tensor, Tensor]:
    dup = gate.new_empty(0) if up is None else up.new_empty(up.shape if wants_up else 0)
    return gate.new_empty(gate.shape if wants_gate else 0), dup


_swiglu = library.operator("swiglu(Tensor gate, Tensor? up) -> Tensor", _forward, _fake_forward)
# What is not wanted comes out without numbers. Without ``up`` both halves are wanted, and are one tensor, the first.
_swiglu_backward = library.operator(
    "swiglu_backward(Tensor gate, Tensor? up, Tensor dy, bool wants_gate, bool wants_up) -> (Tensor, Tensor)",
    _backward, _fake_backward,
)  # fmt: skip


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor | None) -> Tensor:
        ctx.save_for_backward(gate, up)
        return _swiglu(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        wants_gate, wants_up = ctx.needs_input_grad
        dgate, dup = _swiglu_backward(gate, up, dy, wants_gate, wants_up or up is None)
        return dgate if wants_gate else None, dup if wants_up else None


def refusal(gate: Tensor, up: Tensor | None = None) -> str | None:
    """Why the kernel does not take this call, or None if it does."""
    if up is None and (gate.dim() < 1 or gate.shape[-1] % 2):
        return f"gate has shape {tuple(gate.shape)}: without up its last dimension is two halves"
    if up is not None and up.shape != gate.shape:
        return f"gate has shape {tuple(gate.shape)} and up {tuple(up.shape)}, but they must be the same"
    return library.tensors_refused(gate, up)


def swiglu(gate: Tensor, up: Tensor | None = None) -> Tensor:
    """silu(gate) · up, in one pass over memory; see `reference.swiglu`.

    Args:
        gate, up: (..., N) each; or, without ``up``, (..., 2N) with the gate in the first half and ``up`` in the second;
            fp32, fp16 or bf16. Nothing is copied where the last dimension has no gaps and the rows are evenly spaced.

    Returns:
        (..., N) in gate's dtype; computed in fp32.

    Raises:
        UnsupportedError: for other dtypes and shapes.
    """
    library.require(refusal(gate, up))
    return _SwiGLU.apply(gate, up)
