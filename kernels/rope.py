r"""Rotary position embedding (Su et al., 2021, https://arxiv.org/abs/2104.09864).

    y_a = a cos θ - b sin θ,    y_b = a sin θ + b cos θ

for each pair (a, b) of channels of a head, with θ = position × the pair's speed. The gradient is the upstream gradient
turned back, by -θ.

x is read once and y written once: in bf16 4 bytes a number, and three operations. The cosines and sines are the same
for all heads of a token: a program reads those of its tokens once, and then goes through their heads. They are small,
and stay in the L2 cache: in fp32, for a batch of 16 with 12 heads and no positions, they are 0.5 % of all bytes.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import library


@triton.jit
def turn(
    X, Cos, Sin, Positions, Y, n_tokens, T, H, P, stride_b, stride_t, stride_h, SIGN,
    D: tl.constexpr, INTERLEAVED: tl.constexpr, HAS_POSITIONS: tl.constexpr,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """TOKENS tokens, HEADS heads at a time, up to PAIRS pairs of channels. y has no gaps."""
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    there = token < n_tokens
    position = (token % T).to(tl.int64)
    if HAS_POSITIONS:
        position = tl.load(Positions + token, mask=there, other=0).to(tl.int64)
    known = there & (position >= 0) & (position < P)  # what has no cosine becomes nan

    pair = tl.program_id(1) * PAIRS + tl.arange(0, PAIRS)
    angle = position[:, None] * (D // 2) + pair[None, :]
    has_angle = known[:, None] & (pair < D // 2)[None, :]
    cos = tl.load(Cos + angle, mask=has_angle, other=float("nan")).to(tl.float32)[:, None, :]
    sin = tl.load(Sin + angle, mask=has_angle, other=float("nan")).to(tl.float32)[:, None, :] * SIGN

    from_token = ((token // T).to(tl.int64) * stride_b + (token % T).to(tl.int64) * stride_t)[:, None, None]
    to_token = (token.to(tl.int64) * H * D)[:, None, None]
    for first in range(0, H, HEADS):
        head = (first + tl.arange(0, HEADS))[None, :, None]
        from_head = X + from_token + head.to(tl.int64) * stride_h
        to_head = Y + to_token + head * D
        inside = there[:, None, None] & (head < H)
        if INTERLEAVED:
            channel = (tl.program_id(1) * 2 * PAIRS + tl.arange(0, 2 * PAIRS))[None, None, :]
            inside = inside & (channel < D)
            x = tl.load(from_head + channel, mask=inside, other=0.0).to(tl.float32)
            a, b = tl.split(tl.reshape(x, (TOKENS, HEADS, PAIRS, 2)))
            y = tl.reshape(tl.join(a * cos - b * sin, a * sin + b * cos), (TOKENS, HEADS, 2 * PAIRS))
            tl.store(to_head + channel, y.to(Y.dtype.element_ty), mask=inside)
        else:
            channel = pair[None, None, :]
            inside = inside & (channel < D // 2)
            a = tl.load(from_head + channel, mask=inside, other=0.0).to(tl.float32)
            b = tl.load(from_head + channel + D // 2, mask=inside, other=0.0).to(tl.float32)
            tl.store(to_head + channel, (a * cos - b * sin).to(Y.dtype.element_ty), mask=inside)
            tl.store(to_head + channel + D // 2, (a * sin + b * cos).to(Y.dtype.element_ty), mask=inside)


@triton.jit
def rope_forward(
    X, Cos, Sin, Positions, Y, n_tokens, T, H, P, stride_b, stride_t, stride_h,
    D: tl.constexpr, INTERLEAVED: tl.constexpr, HAS_POSITIONS: tl.constexpr,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    turn(
        X, Cos, Sin, Positions, Y, n_tokens, T, H, P, stride_b, stride_t, stride_h, 1.0,
        D, INTERLEAVED, HAS_POSITIONS, TOKENS, HEADS, PAIRS,
    )  # fmt: skip


@triton.jit
def rope_backward(
    DY, Cos, Sin, Positions, DX, n_tokens, T, H, P, stride_b, stride_t, stride_h,
    D: tl.constexpr, INTERLEAVED: tl.constexpr, HAS_POSITIONS: tl.constexpr,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    turn(
        DY, Cos, Sin, Positions, DX, n_tokens, T, H, P, stride_b, stride_t, stride_h, -1.0,
        D, INTERLEAVED, HAS_POSITIONS, TOKENS, HEADS, PAIRS,
    )  # fmt: skip


# Bytes of a tile's numbers a, and of its numbers b: of each, 4 warps read 16 bytes a thread.
TILE = 2048


def tile(H: int, D: int, size: int) -> tuple[int, int, int]:
    """(TOKENS, HEADS, PAIRS) for numbers of ``size`` bytes: as many heads at a time as divide theirs, so that what is
    read lies side by side."""
    most = TILE // size
    pairs = min(most, library.power_of_2(D // 2))
    heads = min(most // pairs, H & -H)  # the largest power of two in H
    return most // pairs // heads, heads, pairs


def _turn(kernel: Any, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None, interleaved: bool) -> Tensor:
    y = x.new_empty(x.shape)
    if x.numel() == 0:
        return y
    x = x if x.stride(-1) == 1 else x.contiguous()
    B, T, H, D = x.shape
    tokens, heads, pairs = tile(H, D, x.element_size())
    grid = (library.cdiv(B * T, tokens), library.cdiv(D // 2, pairs))
    library.launch(
        kernel, grid, x, cos, sin, cos if positions is None else positions, y, B * T, T, H, len(cos), *x.stride()[:3],
        D=D, INTERLEAVED=interleaved, HAS_POSITIONS=positions is not None, TOKENS=tokens, HEADS=heads, PAIRS=pairs,
    )  # fmt: skip
    return y


def _forward(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None, interleaved: bool) -> Tensor:
    return _turn(rope_forward, x, cos, sin, positions, interleaved)


def _backward(dy: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None, interleaved: bool) -> Tensor:
    return _turn(rope_backward, dy, cos, sin, positions, interleaved)


_rope = library.operator(
    "rope(Tensor x, Tensor cos, Tensor sin, Tensor? positions, bool interleaved) -> Tensor",
    _forward, lambda x, *_: x.new_empty(x.shape),
)  # fmt: skip
_rope_backward = library.operator(
    "rope_backward(Tensor dy, Tensor cos, Tensor sin, Tensor? positions, bool interleaved) -> Tensor",
    _backward, lambda dy, *_: dy.new_empty(dy.shape),
)  # fmt: skip


class _RoPE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None, interleaved: bool) -> Tensor:
        ctx.save_for_backward(cos, sin, positions)
        ctx.interleaved = interleaved
        return _rope(x, cos, sin, positions, interleaved)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return _rope_backward(dy, *ctx.saved_tensors, ctx.interleaved), None, None, None, None


def refusal(
    x: Tensor, cos: Tensor, sin: Tensor, *, positions: Tensor | None = None, interleaved: bool = False
) -> str | None:
    """Why the kernel does not take this call, or None if it does."""
    if x.dim() != 4 or x.shape[3] % 2:
        return f"x has shape {tuple(x.shape)}, but (B, T, H, D) with an even D is needed"
    B, T, _, D = x.shape
    if B * T > (1 << 31) - TILE:
        return f"x has {B * T} tokens, but the kernel counts them in 32 bits"
    if cos.dim() != 2 or cos.shape != sin.shape or cos.shape[1] != D // 2:
        return f"cos and sin have shapes {tuple(cos.shape)} and {tuple(sin.shape)}, but (P, {D // 2}) is needed"
    if positions is None:
        if len(cos) != T:
            return f"cos and sin have {len(cos)} positions, but x has {T} tokens, and no positions are given"
    elif positions.shape != (B, T) or positions.dtype == torch.bool or positions.is_floating_point():
        return f"positions are {tuple(positions.shape)} of {positions.dtype}, but whole numbers ({B}, {T}) are needed"
    elif positions.device != x.device:
        return f"positions are on {positions.device}, but x is on {x.device}"
    if torch.is_grad_enabled() and (cos.requires_grad or sin.requires_grad):
        return "the kernel has no gradient of cos and sin: give them without requires_grad"
    return library.tensors_refused(x, cos, sin)


def rope(x: Tensor, cos: Tensor, sin: Tensor, *, positions: Tensor | None = None, interleaved: bool = False) -> Tensor:
    """Turn each pair of channels of every head by its position's angle, in one pass over memory; see `reference.rope`.

    Args:
        x: (B, T, H, D), D even; fp32, fp16 or bf16. Nothing is copied where the last dimension has no gaps, as in a
            view of queries, keys and values in one tensor.
        cos, sin: (P, D/2), of any of these dtypes; P = T without ``positions``. They want no gradient.
        positions: (B, T), whole numbers below P; others, also negative ones, give nan. 0 ... T - 1 for every row if not
            given.
        interleaved: a pair is the channels (2j, 2j + 1), otherwise (j, j + D/2).

    Returns:
        The shape and dtype of x; computed in fp32.

    Raises:
        UnsupportedError: for other dtypes and shapes, and where a gradient of cos or sin is wanted.
    """
    library.require(refusal(x, cos, sin, positions=positions, interleaved=interleaved))
    positions = None if positions is None else positions.contiguous()
    return _RoPE.apply(x, cos.contiguous(), sin.contiguous(), positions, interleaved)
