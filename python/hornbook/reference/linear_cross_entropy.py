"""The last matrix of a language model and its loss, as one operation."""

from __future__ import annotations

from torch import Tensor

from .cross_entropy import cross_entropy


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
    """cross_entropy(x weightᵀ, targets), with the (N, V) logits in memory.

    Args:
        x: (N, d) hidden states.
        weight: (V, d), the vocabulary matrix; used in x's dtype.
        targets: (N,) ids; those equal to ``ignore_index`` count for nothing.
        reduction: "mean" over the targets that count, "sum", or "none" for (N,).
        label_smoothing, z_loss, softcap: as in `cross_entropy`.
    """
    logits = x @ weight.to(x.dtype).T
    return cross_entropy(
        logits, targets,
        ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing, z_loss=z_loss, softcap=softcap,
    )  # fmt: skip
