"""Every operation as PyTorch itself does it best: the implementation named ``torch``.

The signatures are those of `reference/`. Where PyTorch has no such operation it is composed of PyTorch's.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .reference.attention import distances, documents, visible
from .reference.sample_logits import sample_logits as reference_sample


def softmax(x: Tensor, *, scale: float = 1.0, causal: bool = False) -> Tensor:
    if causal:
        T_q, T_k = x.shape[-2:]
        visible = torch.ones(T_q, T_k, dtype=torch.bool, device=x.device).tril(T_k - T_q)
        y = F.softmax((x * scale).masked_fill(~visible, float("-inf")), dim=-1)
        return y if T_q <= T_k else y.masked_fill(~visible, 0.0)  # rows that see nothing came out as nan
    return F.softmax(x * scale, dim=-1)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    document_ids: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    return_lse: bool = False,
    deterministic: bool = True,
) -> Tensor | tuple[Tensor, Tensor]:
    if cu_seqlens is not None:
        options: dict[str, Any] = {"causal": causal, "window": window, "scale": scale, "softcap": softcap}
        options |= {"alibi_slopes": alibi_slopes, "return_lse": return_lse}
        return _one_by_one(q, k, v, cu_seqlens, options)
    if q.dim() == 3:  # one head
        q, k, v = (t.unsqueeze(2) for t in (q, k, v))
        y = attention(
            q, k, v, causal=causal, window=window, scale=scale, softcap=softcap, alibi_slopes=alibi_slopes,
            document_ids=document_ids, return_lse=return_lse,
        )  # fmt: skip
        return (y[0].squeeze(2), y[1].squeeze(1)) if isinstance(y, tuple) else y.squeeze(2)

    T_q, T_k = q.shape[1], k.shape[1]
    # Plain bools: what torch.compile makes of a comparison of lengths is none, and SDPA does not take it.
    square = True if T_q == T_k else False  # noqa: SIM210
    grouped = True if q.shape[2] != k.shape[2] else False  # noqa: SIM210
    if scale is not None and scale < 0:  # SDPA gives nan for it on a CPU
        q, scale = -q, -scale
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (B, H, T, D)
    mask = bias = None
    # SDPA's own causal mask is aligned to the first key, ours to the last.
    if window is not None or document_ids is not None or (causal and not square and T_q > 1):
        mask = visible(T_q, T_k, causal, window, document_ids, q.device)  # (B or 1, 1, T_q, T_k)
    if alibi_slopes is not None:
        slopes = alibi_slopes.to(torch.promote_types(q.dtype, torch.float32))[..., None, None]
        bias = -slopes * distances(T_q, T_k, q.device).abs()  # (H, T_q, T_k) or (B, H, T_q, T_k)
        bias = bias if bias.dim() == 4 else bias[None]
        mask = mask if mask is not None or not causal else visible(T_q, T_k, causal, None, None, q.device)
    if softcap is not None or return_lse:
        if mask is None and causal:
            mask = visible(T_q, T_k, causal, None, None, q.device)
        return _composed(q, k, v, mask, bias, scale, softcap, return_lse)
    if bias is not None:
        bias = bias.to(q.dtype) if mask is None else bias.to(q.dtype).masked_fill(~mask, -math.inf)
    y = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask if bias is None else bias, is_causal=causal and square and mask is None,
        scale=scale, enable_gqa=grouped,
    )  # fmt: skip
    if mask is not None and (T_q > T_k or not causal):
        y = y.masked_fill(~mask.any(-1, keepdim=True), 0.0)
    return y.transpose(1, 2)


def _composed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    scale: float | None,
    softcap: float | None,
    return_lse: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    """What SDPA does not do: of matmuls and a softmax. Scores are fp32, weights of the dtype of ``v``."""
    k, v = (t.repeat_interleave(q.shape[1] // max(1, t.shape[1]), dim=1) for t in (k, v))
    scores = (q.to(wide := torch.promote_types(q.dtype, torch.float32)) @ k.to(wide).transpose(-1, -2)) * (
        1 / math.sqrt(q.shape[-1]) if scale is None else scale
    )
    scores = _capped(scores, softcap)
    scores = scores if bias is None else scores + bias
    sees = None if mask is None else mask.any(-1, keepdim=True)
    if mask is not None and sees is not None:
        scores = scores.masked_fill(~mask, -math.inf).masked_fill(~sees, 0.0)
    y = (scores.softmax(dim=-1).to(v.dtype) @ v).transpose(1, 2)
    y = y if sees is None else y.masked_fill(~sees.transpose(1, 2), 0.0)
    if not return_lse:
        return y
    lse = scores.logsumexp(dim=-1)
    return y, lse if sees is None else lse.masked_fill(~sees[..., 0], -math.inf)


def _one_by_one(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, options: dict[str, Any]
) -> Tensor | tuple[Tensor, Tensor]:
    """Packed sequences, each for itself; where compiled, as documents of one sequence, since how many there are is not
    known then."""
    if torch.compiler.is_compiling():
        ids = documents(cu_seqlens, len(q))[None]
        y = attention(q[None], k[None], v[None], document_ids=ids, **options)
        return (y[0][0], y[1][0]) if isinstance(y, tuple) else y[0]
    at = cu_seqlens.tolist()
    found = [attention(q[None, a:b], k[None, a:b], v[None, a:b], **options) for a, b in pairwise(at)]
    if not found:
        lse = q.new_zeros(q.shape[1], 0, dtype=torch.promote_types(q.dtype, torch.float32))
        return (torch.zeros_like(q), lse) if options["return_lse"] else torch.zeros_like(q)
    if not options["return_lse"]:
        return torch.cat([y[0] for y in found])
    return torch.cat([y[0] for y, _ in found]), torch.cat([lse[0] for _, lse in found], dim=-1)


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], _like(weight, x), _like(bias, x), eps)


def rms_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    y = F.rms_norm(x, x.shape[-1:], _like(weight, x), eps)
    return y if bias is None else y + bias.to(x.dtype)


def add_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    norm: str = "layer_norm",
) -> tuple[Tensor, Tensor]:
    h = (residual + x).to(residual.dtype)
    normalise = layer_norm if norm == "layer_norm" else rms_norm
    return normalise(h.to(torch.promote_types(x.dtype, h.dtype)), weight, bias, eps).to(x.dtype), h


def gelu(x: Tensor, bias: Tensor | None = None, *, approximate: str = "none") -> Tensor:
    return F.gelu(_plus(x, bias), approximate=approximate)


def relu2(x: Tensor, bias: Tensor | None = None) -> Tensor:
    return _SquaredReLU.apply(_plus(x, bias))


def swiglu(gate: Tensor, up: Tensor | None = None) -> Tensor:
    if up is None:
        gate, up = gate.chunk(2, dim=-1)
    return F.silu(gate) * up.to(gate.dtype)


def rope(x: Tensor, cos: Tensor, sin: Tensor, *, positions: Tensor | None = None, interleaved: bool = False) -> Tensor:
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    cos, sin = cos.to(x.dtype).unsqueeze(-2), sin.to(x.dtype).unsqueeze(-2)
    a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, dim=-1)
    turned = a * cos - b * sin, torch.addcmul(b * cos, a, sin)
    return torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    inplace: bool = False,
) -> Tensor:
    logits = _capped(logits.to(torch.promote_types(logits.dtype, torch.float32)), softcap)
    loss = F.cross_entropy(
        logits, targets.long(), ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
    )
    if not z_loss:
        return loss
    counts = targets != ignore_index
    z = z_loss * (torch.logsumexp(logits, dim=-1) ** 2).masked_fill(~counts, 0.0)
    return loss + (z if reduction == "none" else z.sum() if reduction == "sum" else z.sum() / counts.sum())


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
    targets, extras = targets.long(), (label_smoothing, z_loss, softcap)
    if reduction == "none":
        W = weight.to(x.dtype)
        blocks = zip(*(t.split(_block_rows(weight)) for t in (x, targets)), strict=True)
        options: dict[str, Any] = {"label_smoothing": label_smoothing, "z_loss": z_loss, "softcap": softcap}
        options |= {"ignore_index": ignore_index, "reduction": "none"}
        return torch.cat([cross_entropy(b @ W.T, t, **options) for b, t in blocks])
    total = _SummedCrossEntropy.apply(x, weight, targets, ignore_index, extras, torch.is_grad_enabled())
    if reduction == "sum":
        return total
    count = (targets != ignore_index).sum()
    return torch.where(count > 0, total / count.clamp(min=1), torch.nan)  # whose gradient is 0, as nothing was asked


def sample_logits(
    logits: Tensor,
    uniform: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Tensor:
    return reference_sample(  # which is PyTorch at its best already
        logits, uniform, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
    )


class _SquaredReLU(torch.autograd.Function):
    """Autograd would take the slope of square() by a power function, several times slower than one product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        r = F.relu(x)
        ctx.save_for_backward(r)
        return r * r

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (r,) = ctx.saved_tensors
        return grad * r * 2


def _block_rows(weight: Tensor) -> int:
    """How many rows of logits are held at once: 16 MB of them in fp32."""
    return max(1, (1 << 22) // weight.shape[0])


class _SummedCrossEntropy(torch.autograd.Function):
    """Logits a block of rows at a time, so that the whole (N, V) never exists.

    A sum has the same gradient, up to one factor, whatever is done with it, so the gradients are made in the
    forward pass while a block's logits are at hand (as Liger-Kernel does), and backward multiplies.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        targets: Tensor,
        ignore_index: int,
        extras: tuple[float, float, float | None],
        grad_enabled: bool,
    ) -> Tensor:
        smoothing, z_loss, softcap = extras
        needs_grad = grad_enabled and any(ctx.needs_input_grad)  # the latter is also true below no_grad
        wide = torch.promote_types(x.dtype, torch.float32)
        W, rows = weight.to(x.dtype), _block_rows(weight)
        dx = torch.empty_like(x) if needs_grad else None
        # Summed in fp32 at least: in bf16 the sum of many blocks would stop growing.
        dW = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, wide)) if needs_grad else None
        total = torch.zeros((), dtype=wide, device=x.device)
        for start in range(0, len(x), rows):
            x_, t = x[start : start + rows], targets[start : start + rows]
            counts = t != ignore_index
            t = t.masked_fill(~counts, 0)[:, None]
            logits = _capped((x_ @ W.T).to(wide), softcap)  # (rows, V)
            log_z = torch.logsumexp(logits, dim=-1, keepdim=True) if z_loss else None
            log_p = F.log_softmax(logits, dim=-1)
            loss = (smoothing - 1) * log_p.gather(-1, t)[:, 0]
            if smoothing:
                loss = loss - smoothing * log_p.mean(-1)
            if log_z is not None:
                loss = loss + z_loss * log_z[:, 0] ** 2
            total = total + loss.masked_fill(~counts, 0.0).sum()  # torch.compile of 2.11 gets += wrong
            if dx is not None and dW is not None:
                d = log_p.exp_()  # p, then p - 1 at the target: the gradient of the loss by the logits
                if log_z is not None:
                    d *= 1 + 2 * z_loss * log_z
                d.scatter_add_(-1, t, torch.full_like(t, smoothing - 1, dtype=wide))
                if smoothing:
                    d -= smoothing / len(weight)
                if softcap is not None:
                    d *= 1 - (logits / softcap) ** 2
                d = (d * counts[:, None]).to(x.dtype)
                torch.mm(d, W, out=dx[start : start + rows])
                dW += d.T @ x_
        if dx is not None and dW is not None:
            ctx.save_for_backward(dx, dW)
            ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dx, dW = ctx.saved_tensors
        # 1 / count in bf16 would make all of the gradient a little too large, or too small: rounded once, at the end.
        dx, dW = (dx.to(grad.dtype) * grad).to(dx.dtype), (dW * grad).to(ctx.weight_dtype)
        return dx, dW, None, None, None, None


def _capped(logits: Tensor, softcap: float | None) -> Tensor:
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def _plus(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias.to(x.dtype)


def _like(parameter: Tensor | None, x: Tensor) -> Tensor | None:
    return None if parameter is None else parameter.to(x.dtype)


def decode_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    lengths: Tensor,
    *,
    block_table: Tensor | None = None,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
) -> Tensor:
    options: dict[str, Any] = {"window": window, "scale": scale, "softcap": softcap}
    if lengths.is_cuda or torch.compiler.is_compiling() or block_table is not None:
        return _decode_all(q, k_cache, v_cache, lengths, block_table, options, alibi_slopes)
    ends = [
        min(max(n, 0), k_cache.shape[1]) for n in lengths.tolist()
    ]  # of no account on a CPU; a GPU would be waited for
    if len(set(ends)) == 1:
        keys = k_cache[:, : ends[0]], v_cache[:, : ends[0]]
        return attention(q, *keys, alibi_slopes=alibi_slopes, **options)  # type: ignore[return-value]
    y = torch.empty_like(q)
    for b, end in enumerate(ends):
        slopes = alibi_slopes if alibi_slopes is None or alibi_slopes.dim() == 1 else alibi_slopes[b]
        y[b] = attention(
            q[b : b + 1], k_cache[b : b + 1, :end], v_cache[b : b + 1, :end], alibi_slopes=slopes, **options
        )[0]
    return y


def _decode_all(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    block_table: Tensor | None,
    options: dict[str, Any],
    slopes: Tensor | None,
) -> Tensor:
    """All sequences at once, whatever their lengths, which nobody here knows."""
    B, T_q, H, _ = q.shape
    there = None
    if block_table is not None:
        pages = block_table.long()
        there = ((pages >= 0) & (pages < len(k))).repeat_interleave(k.shape[1], dim=1)  # (B, T)
        k, v = (_pages(t, pages) for t in (k, v))
    T, group = k.shape[1], H // k.shape[2]
    ends = lengths.clamp(0, T)[:, None]
    keys = torch.arange(T, device=q.device)
    valid = keys < ends if there is None else (keys < ends) & there  # (B, T)
    # Whatever lies beyond a length, nan perhaps, times a weight of 0 must be 0.
    k, v = (t.masked_fill(~valid[:, :, None, None], 0.0) for t in (k, v))
    # The heads that share keys become queries of one head: SDPA would repeat the keys for them.
    at = (ends - T_q + torch.arange(T_q, device=q.device)).repeat_interleave(group, dim=1)  # (B, T_q · group)
    behind = at[:, :, None] - keys
    seen = valid[:, None] & (behind >= 0)
    if options["window"] is not None:
        seen = seen & (behind < options["window"])
    rows = q.unflatten(2, (-1, group)).transpose(2, 3).flatten(1, 2).transpose(1, 2)  # (B, H_kv, T_q · group, D)
    mask, bias, scale, softcap = seen[:, None], None, options["scale"], options["softcap"]
    if slopes is not None:
        wide = slopes.to(torch.promote_types(q.dtype, torch.float32)).expand(B, H).unflatten(1, (-1, group))
        bias = -wide.repeat(1, 1, T_q)[..., None] * behind[:, None]  # (B, H_kv, T_q · group, T)
    k, v = k.transpose(1, 2), v.transpose(1, 2)
    if softcap is not None:
        y = _composed(rows, k, v, mask, bias, scale, softcap, return_lse=False)
    else:
        wanted = mask if bias is None else bias.to(q.dtype).masked_fill(~mask, -math.inf)
        y = F.scaled_dot_product_attention(rows, k, v, attn_mask=wanted, scale=scale)
        y = y.masked_fill(~mask.any(-1, keepdim=True), 0.0).transpose(1, 2)
    return y.unflatten(1, (T_q, group)).transpose(2, 3).flatten(2, 3)  # type: ignore[union-attr]


def _pages(cache: Tensor, pages: Tensor) -> Tensor:
    """(pages, page_size, H_kv, D) and (B, n) → (B, n · page_size, H_kv, D)."""
    if len(cache) == 0:
        return cache.new_zeros(len(pages), pages.shape[1] * cache.shape[1], *cache.shape[2:])
    return cache[pages.clamp(0, len(cache) - 1)].flatten(1, 2)
