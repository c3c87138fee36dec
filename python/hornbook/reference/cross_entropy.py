"""Cross-entropy of next-token predictions, with what large models train with besides.

label smoothing   some of the target's share goes to all ids alike (Szegedy et al., 2016,
                  https://arxiv.org/abs/1512.00567)
z-loss            z_loss · log²Z keeps the logits' scale from drifting (Chowdhery et al., 2022,
                  https://arxiv.org/abs/2204.02311)
soft-cap          cap · tanh(logits / cap) in the place of logits (Gemma Team, 2024, https://arxiv.org/abs/2408.00118)
"""

from __future__ import annotations

import torch
from torch import Tensor


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
    """-log softmax(logits)[target], in nats.

    Args:
        logits: (N, V).
        targets: (N,) ids; those equal to ``ignore_index`` count for nothing.
        reduction: "mean" over the targets that count (nan if there are none), "sum", or "none" for (N,).
        label_smoothing: ε: the loss is (1 - ε) · the target's + ε · the mean of all ids'.
        z_loss: added is z_loss · log²Z, where Z is the sum of the exponentials of a row.
        softcap: logits count as softcap · tanh(logits / softcap).
        inplace: the gradient may be written over the logits, which nobody may need afterwards. (The fused kernel does
            so; here nothing is overwritten.)

    Returns:
        fp32 or wider.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    log_z = torch.logsumexp(logits, dim=-1)  # (N,)
    counts = targets != ignore_index
    picked = logits.gather(-1, targets.masked_fill(~counts, 0)[:, None])[:, 0]
    loss = log_z - picked
    if label_smoothing:
        loss = (1 - label_smoothing) * loss + label_smoothing * (log_z - logits.mean(-1))
    if z_loss:
        loss = loss + z_loss * log_z**2
    loss = loss.masked_fill(~counts, 0.0)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / counts.sum()
