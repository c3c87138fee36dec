"""Cross-entropy of next-token predictions."""

from __future__ import annotations

import torch
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor, *, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    """-log softmax(logits)[target], in nats.

    Args:
        logits: (N, V).
        targets: (N,) ids; those equal to ``ignore_index`` count for nothing.
        reduction: "mean" over the targets that count (nan if there are none), "sum", or "none" for (N,).
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_z = torch.logsumexp(logits, dim=-1)  # (N,)
    counts = targets != ignore_index
    picked = logits.gather(-1, targets.masked_fill(~counts, 0)[:, None])[:, 0]
    loss = (log_z - picked).masked_fill(~counts, 0.0)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / counts.sum()
