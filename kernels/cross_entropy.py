r"""Cross-entropy of predictions, and its gradient in the same pass over the logits.

    L = log Z - x_t,    Z = sum_j exp(x_j),    ∂L/∂x_j = p_j - [j = t],    p_j = exp(x_j) / Z

and with what large models train with besides (label smoothing ε, z-loss ζ, soft-cap c; see `reference.cross_entropy`),
where x̄ is the mean of the row and V its length:

    L = (1 - ε) (log Z - x_t) + ε (log Z - x̄) + ζ log²Z
    ∂L/∂x_j = p_j (1 + 2 ζ log Z) - (1 - ε) [j = t] - ε / V,    times 1 - (x_j / c)² where x_j is c tanh(.. / c)

A sum or a mean has the same gradient, up to one factor, whatever is done with it. So where a gradient is wanted it is
written while the logits are at hand: 2 V bytes read and 2 V written a row in bf16, the least that is possible, about
12 V operations. A row that fits into registers is read once. A longer one is read twice, the second time from the L2
cache: see `softmax` for how, and why backwards. With reduction="none" each row has a factor of its own, which only
backward knows: then forward reads the logits, and backward reads them and writes the gradient.

**The factor.** The mean's 1 / count is multiplied in at once; a kernel counts the targets that count before, and the
number stays on the GPU. (In fp16 a small share of a small number would be 0, so there it comes at the end.) What
arrives in backward, g, is 1 as a rule. A kernel multiplies the gradient by g in place; each of its programs looks at g
first, and if there is nothing to do it ends: no memory is moved, and nobody waits for the GPU to tell. So the first
backward hands its buffer out, multiplied. Should the graph be kept for a second one, that computes the gradient anew
from the logits. With ``inplace`` there are no logits any more, and so no second time.

An id that is neither ``ignore_index`` nor one of 0 ... V - 1 reads nothing; its loss and its gradient are nan.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import library
from .functions import LOG2E, tanh
from .softmax import TABLE, long_tile, tile


@triton.jit
def count_targets(Targets, Counts, n_rows, ignore_index, BLOCK: tl.constexpr):
    """How many targets count, in as many parts as there are programs."""
    count = tl.zeros((BLOCK,), tl.int32)
    for start in range(tl.program_id(0) * BLOCK, n_rows, tl.num_programs(0) * BLOCK):
        row = start + tl.arange(0, BLOCK)
        count += (tl.load(Targets + row, mask=row < n_rows, other=ignore_index) != ignore_index).to(tl.int32)
    tl.store(Counts + tl.program_id(0), tl.sum(count, axis=0))


@triton.jit
def counted(Counts, PARTS: tl.constexpr):
    """The sum of what `count_targets` counted."""
    return tl.sum(tl.load(Counts + tl.arange(0, PARTS)), axis=0).to(tl.float32)


@triton.jit
def logits_of(X, seen, other, softcap, CAPPED: tl.constexpr, POLICY: tl.constexpr):
    """Logits in fp32, soft-capped if they are to be; ``other`` where none is seen."""
    x = tl.load(X, mask=seen, other=other, eviction_policy=POLICY).to(tl.float32)
    return tl.where(seen, softcap * tanh(x * (1 / softcap)), other) if CAPPED else x


@triton.jit
def losses_of(
    m, l, x_t, away, counts, Counts, n_cols, smoothing, z_loss,
    SMOOTHED: tl.constexpr, MEAN: tl.constexpr, SHARED: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """The losses of rows with the largest logit m, l = sum of exp(x - m) and away = sum of x - x_t; log Z; and what the
    gradient is multiplied by. Numbers are subtracted first, as far as possible: all logits of a row may be large."""
    log_z = m + tl.log(l)
    loss = tl.log(l) + (m - x_t)
    if SMOOTHED:
        loss -= smoothing * (away / n_cols)
    loss += tl.where(z_loss == 0.0, 0.0, z_loss * log_z * log_z)
    loss = tl.where(counts, loss, 0.0)
    share = 1.0
    if MEAN:
        count = counted(Counts, PARTS)
        loss = tl.div_rn(loss, tl.where(counts, count, count))
        if SHARED:
            share = 1 / tl.maximum(count, 1.0)
    return loss, log_z, share


@triton.jit
def slope(p, x, log_z, share, n_cols, smoothing, z_loss, softcap, CAPPED: tl.constexpr, TARGET: tl.constexpr):
    """``share`` of the gradient by logits x with probabilities p, which are the target's or others."""
    if TARGET:  # where p is nearly 1 it cancels, so that nothing may be rounded before
        d = share * ((p - smoothing / n_cols - (1 - smoothing)) + p * (2 * z_loss * log_z))
    else:
        d = p * (share * (1 + 2 * z_loss * log_z)) - smoothing / n_cols * share
    if CAPPED:
        y = x * (1 / softcap)
        return d * ((1 - y) * (1 + y))
    else:
        return d


@triton.jit
def cross_entropy_rows(
    X, Targets, G, Loss, D, Counts, n_rows, n_cols, stride_x, stride_g, stride_d,
    ignore_index, smoothing, z_loss, softcap,
    CAPPED: tl.constexpr, SMOOTHED: tl.constexpr, MEAN: tl.constexpr, SHARED: tl.constexpr, GRADIENT: tl.constexpr,
    OWN: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROWS rows of up to BLOCK columns, each held whole: the losses, and if GRADIENT the gradient, of which 1 / count
    is a factor if SHARED; or, if OWN, the gradient alone, times each row's own g. D may be X."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # (ROWS,)
    col = tl.arange(0, BLOCK)[None, :]  # (1, BLOCK)
    t = tl.load(Targets + row, mask=row < n_rows, other=ignore_index)
    counts = (row < n_rows) & (t != ignore_index)
    known = counts & (t >= 0) & (t < n_cols)
    x_t = logits_of(X + row * stride_x + t, known, float("nan"), softcap, CAPPED, "")
    tl.debug_barrier()  # all threads know the target's logit before one may write over it
    seen = counts[:, None] & (col < n_cols)
    x = logits_of(X + row[:, None] * stride_x + col, seen, float("-inf"), softcap, CAPPED, "")
    m = tl.max(x, axis=1)
    m = tl.where(m == float("-inf"), 0.0, m)
    away = tl.sum(tl.where(seen, x - x_t[:, None], 0.0), axis=1) if SMOOTHED else m
    e = tl.exp2((x - m[:, None]) * LOG2E)
    l = tl.where(counts, tl.sum(e, axis=1), 1.0)
    loss, log_z, share = losses_of(
        m, l, x_t, away, counts, Counts, n_cols, smoothing, z_loss, SMOOTHED, MEAN, SHARED, PARTS
    )
    share = tl.where(counts, tl.where(known, share, float("nan")), 0.0)
    if OWN:
        share *= tl.load(G + row * stride_g, mask=row < n_rows, other=0.0).to(tl.float32)
    else:
        tl.store(Loss + row, loss, mask=row < n_rows)
    if GRADIENT:
        d = slope(
            e * (1 / l)[:, None], x, log_z[:, None], share[:, None], n_cols, smoothing, z_loss, softcap, CAPPED, False
        )
        d = tl.where(counts[:, None], d, 0.0).to(D.dtype.element_ty)
        tl.store(D + row[:, None] * stride_d + col, d, mask=(row < n_rows)[:, None] & (col < n_cols))
        p_t = tl.exp2((x_t - m) * LOG2E) * (1 / l)
        d_t = slope(p_t, x_t, log_z, share, n_cols, smoothing, z_loss, softcap, CAPPED, True)
        tl.debug_barrier()  # the other threads have written the row, and one number of it is written again
        tl.store(D + row * stride_d + t, d_t.to(D.dtype.element_ty), mask=known)


@triton.jit
def cross_entropy_long_row(
    X, Targets, G, Loss, D, Counts, n_rows, n_cols, stride_x, stride_g, stride_d,
    ignore_index, smoothing, z_loss, softcap,
    CAPPED: tl.constexpr, SMOOTHED: tl.constexpr, MEAN: tl.constexpr, SHARED: tl.constexpr, GRADIENT: tl.constexpr,
    OWN: tl.constexpr, PARTS: tl.constexpr, LANES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The same for rows of any length, in chunks of LANES times WIDE columns."""
    chunk = tl.arange(0, LANES)[:, None] * WIDE + tl.arange(0, WIDE)[None, :]
    last = tl.cdiv(n_cols, LANES * WIDE) * (LANES * WIDE) - LANES * WIDE
    for row in range(tl.program_id(0), n_rows, tl.num_programs(0)):
        x_row = X + tl.cast(row, tl.int64) * stride_x
        d_row = D + tl.cast(row, tl.int64) * stride_d
        t = tl.load(Targets + row)
        counts = t != ignore_index
        known = counts & (t >= 0) & (t < n_cols)
        x_t = logits_of(x_row + t, known, float("nan"), softcap, CAPPED, "")
        end = tl.where(counts, n_cols, 0)  # of what must be read
        ms = tl.full((LANES,), float("-inf"), tl.float32)
        ls = tl.zeros((LANES,), tl.float32)
        aways = tl.zeros((LANES,), tl.float32)
        for start in range(0, end, LANES * WIDE):
            col = start + chunk
            x = logits_of(x_row + col, col < end, float("-inf"), softcap, CAPPED, "evict_last")
            new = tl.maximum(ms, tl.max(x, axis=1))
            safe = tl.where(new == float("-inf"), 0.0, new)
            ls = ls * tl.exp2((ms - safe) * LOG2E) + tl.sum(tl.exp2((x - safe[:, None]) * LOG2E), axis=1)
            ms = new
            if SMOOTHED:
                aways += tl.sum(tl.where(col < end, x - x_t, 0.0), axis=1)
        m = tl.max(ms, axis=0)
        m = tl.where(m == float("-inf"), 0.0, m)
        l = tl.where(counts, tl.sum(ls * tl.exp2((ms - m) * LOG2E), axis=0), 1.0)
        loss, log_z, share = losses_of(
            m, l, x_t, tl.sum(aways, axis=0), counts, Counts, n_cols, smoothing, z_loss, SMOOTHED, MEAN, SHARED, PARTS
        )
        share = tl.where(counts & (known == 0), float("nan"), share)
        if OWN:
            share *= tl.load(G + tl.cast(row, tl.int64) * stride_g).to(tl.float32)
        else:
            tl.store(Loss + row, loss)
        if GRADIENT:
            for back in range(0, n_cols, LANES * WIDE):
                col = last - back + chunk
                x = logits_of(x_row + col, col < end, float("-inf"), softcap, CAPPED, "evict_first")
                p = tl.exp2((x - m) * LOG2E) * (1 / l)
                d = slope(p, x, log_z, share, n_cols, smoothing, z_loss, softcap, CAPPED, False)
                d = tl.where(col < end, d, 0.0).to(D.dtype.element_ty)
                tl.store(d_row + col, d, mask=col < n_cols, eviction_policy="evict_first")
            p_t = tl.exp2((x_t - m) * LOG2E) * (1 / l)
            d_t = slope(p_t, x_t, log_z, share, n_cols, smoothing, z_loss, softcap, CAPPED, True)
            tl.debug_barrier()
            tl.store(d_row + t, d_t.to(D.dtype.element_ty), mask=known)


@triton.jit
def scale_in_place(D, G, Counts, n, DIVIDED: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    """D times g (by the count, where DIVIDED), if that is not 1."""
    g = tl.load(G).to(tl.float32)
    if DIVIDED:
        g = g / tl.maximum(counted(Counts, PARTS), 1.0)
    if g != 1.0:
        for start in range(tl.program_id(0).to(tl.int64) * BLOCK, n, tl.num_programs(0) * BLOCK):
            at = start + tl.arange(0, BLOCK)
            d = tl.load(D + at, mask=at < n, other=0.0).to(tl.float32)
            tl.store(D + at, (d * g).to(D.dtype.element_ty), mask=at < n)


# Rows are held as in `softmax`, but the longest go in chunks where smoothing or a soft-cap need registers besides.
SMALLER_TABLE = {most: shape for most, shape in TABLE.items() if most <= 16384}
# Programs that count targets, or multiply a gradient (at most: they mostly only end), and how much each takes at once.
PARTS, PART = 32, 2048
SCALING, SCALED = 1024, 4096


class Options(NamedTuple):
    """How losses are made, in the order in which operators take it."""

    ignore_index: int
    reduction: str
    label_smoothing: float
    z_loss: float
    softcap: float | None


def is_left(dtype: torch.dtype, counts: Tensor) -> bool:
    """Whether a gradient that forward made has still to be divided by the count."""
    return dtype == torch.float16 and len(counts) > 0


def count(targets: Tensor, options: Options) -> Tensor:
    """(PARTS,) numbers whose sum is how many targets count; nothing where nobody asks."""
    if options.reduction != "mean":
        return targets.new_empty(0, dtype=torch.int32)
    counts = targets.new_empty(PARTS, dtype=torch.int32)
    library.launch(count_targets, (PARTS,), targets, counts, len(targets), options.ignore_index, BLOCK=PART)
    return counts


def losses_into(
    losses: Tensor | None, gradient: Tensor | None, logits: Tensor, targets: Tensor, counts: Tensor, options: Options,
    g: Tensor | None = None,
) -> None:  # fmt: skip
    """The losses of rows of logits, as they add up to the result, and the gradient, which may be the logits.

    Args:
        losses: (N,), written; none where ``g`` is given.
        gradient: (N, V), written; none if it is not wanted.
        counts: of all targets, of which these rows may be a part.
        g: what each row's gradient is multiplied by: (N,), or one number for all.
    """
    n_rows, n_cols = logits.shape
    index, reduction, smoothing, z_loss, softcap = options
    d = logits if gradient is None else gradient  # what is not there is the logits, and not touched
    flags = {
        "CAPPED": softcap is not None, "SMOOTHED": smoothing != 0, "MEAN": reduction == "mean", "OWN": g is not None,
        "SHARED": g is not None or logits.dtype != torch.float16, "GRADIENT": gradient is not None, "PARTS": PARTS,
    }  # fmt: skip
    tensors = (logits, targets, logits if g is None else g, logits if losses is None else losses, d, counts)
    strides = (logits.stride(0), g.stride(0) if g is not None and g.dim() else 0, d.stride(0))
    arguments = (*tensors, n_rows, n_cols, *strides, index, smoothing, z_loss, softcap or 1.0)
    if (shape := tile(SMALLER_TABLE if smoothing or softcap else TABLE, n_cols)) is not None:
        rows, block, warps = shape
        grid = (library.cdiv(n_rows, rows),)
        library.launch(cross_entropy_rows, grid, *arguments, **flags, ROWS=rows, BLOCK=block, num_warps=warps)
    else:
        programs, shape = long_tile(n_rows, n_cols, logits)
        library.launch(cross_entropy_long_row, (programs,), *arguments, **flags, **shape)


def reduced(losses: Tensor, reduction: str) -> Tensor:
    """What losses add up to. The mean of none is nan."""
    if reduction == "none":
        return losses
    return losses.sum() if len(losses) or reduction == "sum" else losses.new_full((), math.nan)


def _losses(logits: Tensor, targets: Tensor, gradient: Tensor | None, options: Options) -> tuple[Tensor, Tensor]:
    counts = count(targets, options)
    losses = logits.new_empty(len(logits), dtype=torch.float32)
    losses_into(losses, gradient, logits, targets, counts, options)
    return reduced(losses, options.reduction), counts


def _forward(logits: Tensor, targets: Tensor, *how: Any) -> tuple[Tensor, Tensor, Tensor]:
    *options, wants = how
    gradient = logits.new_empty(logits.shape if wants else 0)
    return *_losses(logits, targets, gradient if wants else None, Options(*options)), gradient


def _forward_in_place(logits: Tensor, targets: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    return _losses(logits, targets, logits, Options(*options))


def _backward(logits: Tensor, targets: Tensor, g: Tensor, counts: Tensor, *options: Any) -> Tensor:
    gradient = logits.new_empty(logits.shape)
    losses_into(None, gradient, logits, targets, counts, Options(*options), g)
    return gradient


def _scale(gradient: Tensor, g: Tensor, counts: Tensor) -> None:
    n, flags = gradient.numel(), {"DIVIDED": is_left(gradient.dtype, counts), "PARTS": PARTS, "BLOCK": SCALED}
    grid = (min(SCALING, library.cdiv(n, SCALED)),)
    library.launch(scale_in_place, grid, gradient, g, counts, n, **flags, num_warps=8)


def _fake_in_place(logits: Tensor, targets: Tensor, _: int, reduction: str, *rest: Any) -> tuple[Tensor, Tensor]:
    loss = logits.new_empty(logits.shape[:1] if reduction == "none" else (), dtype=torch.float32)
    return loss, targets.new_empty(PARTS if reduction == "mean" else 0, dtype=torch.int32)


HOW = "int ignore_index, str reduction, float label_smoothing, float z_loss, float? softcap"
_cross_entropy = library.operator(
    "cross_entropy(Tensor logits, Tensor targets, " + HOW + ", bool gradient) -> (Tensor, Tensor, Tensor)",
    _forward, lambda x, t, *how: (*_fake_in_place(x, t, *how), x.new_empty(x.shape if how[-1] else 0)),
)  # fmt: skip
_cross_entropy_ = library.operator(
    "cross_entropy_(Tensor(a!) logits, Tensor targets, " + HOW + ") -> (Tensor, Tensor)",
    _forward_in_place, _fake_in_place,
)  # fmt: skip
_cross_entropy_backward = library.operator(
    "cross_entropy_backward(Tensor logits, Tensor targets, Tensor g, Tensor counts, " + HOW + ") -> Tensor",
    _backward, lambda logits, *_: logits.new_empty(logits.shape),
)  # fmt: skip
_cross_entropy_scale_ = library.operator(
    "cross_entropy_scale_(Tensor(a!) gradient, Tensor g, Tensor counts) -> ()", _scale, lambda *_: None
)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, options: Options, wants: bool, in_place: bool) -> Tensor:
        if in_place:
            loss, *made = _cross_entropy_(logits, targets, *options)
            torch.autograd.graph.increment_version(logits)  # whoever needs them for a gradient gets an error
        else:
            loss, *made = _cross_entropy(logits, targets, *options, wants)
        ctx.save_for_backward(logits, targets, *made)
        ctx.options, ctx.in_place, ctx.handed_out = options, in_place, False
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        logits, targets, counts, *made = ctx.saved_tensors
        gradient = logits.detach() if ctx.in_place else made[0]
        # A compiled graph changes what it saved only if nobody can tell.
        again = ctx.handed_out and not torch.compiler.is_compiling()
        if again and ctx.in_place:
            raise RuntimeError(
                "cross_entropy: the gradient was written over the logits (inplace=True) and has been handed out, "
                "so there is no way back a second time: leave inplace out where a graph is kept"
            )
        if again or ctx.options.reduction == "none":
            gradient = _cross_entropy_backward(logits, targets, g, counts, *ctx.options)
        else:
            _cross_entropy_scale_(gradient, g, counts)
            if not torch.compiler.is_compiling():
                ctx.handed_out = True
                gradient = gradient.data  # whatever its new owner does to it, autograd need not know
        return gradient, None, None, None, None


def rows_refused(targets: Tensor, logits: tuple[int, torch.device], options: Options) -> str | None:
    """Why these cannot be the targets of so many rows on that device, or the options."""
    n_rows, device = logits
    _, reduction, label_smoothing, _, softcap = options
    if targets.dtype not in (torch.int64, torch.int32):
        return f"targets are ids, int64 or int32, not {str(targets.dtype).removeprefix('torch.')}"
    if targets.shape != (n_rows,):
        return f"targets has shape {tuple(targets.shape)}, but there are {n_rows} rows"
    if targets.device != device:
        return f"the tensors are on {device} and on {targets.device}, but must be on one device"
    if reduction not in ("mean", "sum", "none"):
        return f"reduction is 'mean', 'sum' or 'none', not {reduction!r}"
    if not 0 <= label_smoothing <= 1:
        return f"label_smoothing is a share, from 0 to 1, not {label_smoothing}"
    if softcap is not None and not 0 < softcap < math.inf:
        return f"softcap is a number above 0, not {softcap}"
    return None


def is_leaf(t: Tensor) -> bool:
    """Whether these numbers are a leaf that wants a gradient, or a part of one. What is traced is not written over."""
    wants = torch.is_grad_enabled() and t.requires_grad and not torch.compiler.is_compiling()
    return wants and (t.is_leaf or (t._base is not None and t._base.is_leaf))


def refused(logits: Tensor, targets: Tensor, options: Options, inplace: bool) -> str | None:
    """`refusal`, of options that have been put together."""
    if logits.dim() != 2 or not logits.shape[1]:
        return f"logits has shape {tuple(logits.shape)}, but (N, V) is needed, and V above 0"
    if inplace and options.reduction != "none" and is_leaf(logits):
        return "inplace would write the gradient over a leaf that wants one: over a parameter, not over predictions"
    return library.tensors_refused(logits) or rows_refused(targets, (logits.shape[0], logits.device), options)


def refusal(
    logits: Tensor, targets: Tensor, *, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0,
    z_loss: float = 0.0, softcap: float | None = None, inplace: bool = False,
) -> str | None:  # fmt: skip
    """Why the kernel does not take this call, or None if it does."""
    return refused(logits, targets, Options(ignore_index, reduction, label_smoothing, z_loss, softcap), inplace)


def cross_entropy(
    logits: Tensor, targets: Tensor, *, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0,
    z_loss: float = 0.0, softcap: float | None = None, inplace: bool = False,
) -> Tensor:  # fmt: skip
    """-log softmax(logits)[target], in nats; see `reference.cross_entropy`.

    Args:
        logits: (N, V), fp32, fp16 or bf16; rows may lie further apart than V.
        targets: (N,) ids, int64 or int32; those equal to ``ignore_index`` count for nothing. Of any other that is not
            in 0 ... V - 1 the loss is nan, and the gradient of its logits.
        reduction: "mean", "sum" or "none".
        label_smoothing, z_loss, softcap: as in the reference.
        inplace: write the gradient of a mean or a sum over the logits, which must not be used afterwards; the graph
            allows one backward. A leaf that wants a gradient, such as a parameter, is refused, as it would be lost.
            (Under torch.compile, which decides that by itself, and with "none" nothing is written over.)

    Returns:
        The loss in fp32.

    Raises:
        UnsupportedError: for other dtypes, shapes and options.
    """
    options = Options(ignore_index, reduction, float(label_smoothing), float(z_loss), softcap)
    library.require(refused(logits, targets, options, inplace))
    wants = reduction != "none" and torch.is_grad_enabled() and logits.requires_grad
    in_place = inplace and wants and not torch.compiler.is_compiling()
    if in_place or logits.stride(1) != 1 or logits.stride(0) < logits.shape[1]:
        logits = logits.contiguous()
    return _CrossEntropy.apply(logits, targets.contiguous(), options, wants, in_place)
