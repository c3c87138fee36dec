"""Drawing the next token: which tokens stay, what they weigh, and the draw itself."""

from __future__ import annotations

import torch
from torch import Tensor

from .softmax import softmax


def probabilities(
    logits: Tensor, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> Tensor:
    """What the next token is drawn from. In this order:

        temperature   p = softmax(logits / temperature); 0 leaves only the likeliest token (the first of equals)
        top-k         the k likeliest tokens stay, and those as likely as the last of them; 0 keeps all
        top-p         of these, the likeliest tokens stay whose probabilities first sum to p (Holtzman et al., 2020,
                      https://arxiv.org/abs/1904.09751), and those as likely as the last of them
        min-p         tokens stay that are at least min_p times as likely as the likeliest (Nguyen et al., 2024,
                      https://arxiv.org/abs/2407.01082)

    Args:
        logits: (B, V).

    A logit of nan is as good as -inf. +inf is as likely as any other +inf, and nothing else is drawn then. In a row in
    which nothing can be drawn, token 0 is.

    Returns:
        (B, V) in fp32 or wider, each row summing to 1.
    """
    x = logits.to(torch.promote_types(logits.dtype, torch.float32))
    x = x.masked_fill(x.isnan(), -torch.inf)
    top = x.amax(-1, keepdim=True)
    first = torch.arange(x.shape[-1], device=x.device) == 0
    x = torch.where(top.isinf(), torch.where((x == torch.inf) | ((top < 0) & first), 0.0, -torch.inf), x)
    if temperature == 0:
        return torch.zeros_like(x).scatter(-1, x.argmax(-1, keepdim=True), 1.0)
    if 0 < top_k < x.shape[-1]:
        x = x.masked_fill(x < x.topk(top_k).values[:, -1:], -torch.inf)
    scale = 1 / max(temperature, 1e-30)  # so that fp32 can hold the scaled logits
    if top_p < 1:
        ordered = x.sort(dim=-1, descending=True).values
        p = softmax(ordered, scale=scale)
        needed = (p.cumsum(-1) - p < top_p).sum(-1, keepdim=True)  # the likelier ones alone do not reach top_p
        x = x.masked_fill(x < ordered.gather(-1, needed - 1), -torch.inf)
    p = softmax(x, scale=scale)
    if min_p > 0:
        p = p * (p >= min_p * p.amax(-1, keepdim=True))
    return p / p.sum(-1, keepdim=True)


def sample_logits(
    logits: Tensor,
    uniform: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Tensor:
    """Draw a token for each row: the first one at which the probabilities, added up in the order of ids, are above the
    row's number from ``uniform``. The same numbers draw the same tokens, whoever computes.

    Args:
        logits: (B, V), V ≥ 1.
        uniform: (B,) fp32, at least 0 and below 1: ``torch.rand(B, generator=...)``.
        temperature, top_k, top_p, min_p: see `probabilities`.

    Returns:
        (B,) ids, int64.
    """
    p = probabilities(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    wide = torch.float32 if p.device.type == "mps" else torch.float64  # Apple's GPUs have nothing wider
    below = p.to(wide).cumsum(-1)
    # A sum that comes out a little below 1 must not draw what no token stands for: the last one that stayed is it then.
    last = p.shape[-1] - 1 - (p > 0).flip(-1).to(torch.int8).argmax(-1)
    return torch.minimum((below <= uniform.to(wide)[:, None] * below[:, -1:]).sum(-1), last)
