"""Which optimizer changes which parameter."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from .errors import ConfigError

Name = Literal["adamw", "muon"]


def build(
    model: nn.Module,
    name: Name,
    *,
    learning_rate: float,
    muon_learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float],
) -> list[torch.optim.Optimizer]:
    """The optimizers of a model. Each group remembers its peak rate as ``group["peak"]``.

    "adamw" (Loshchilov and Hutter, https://arxiv.org/abs/1711.05101) takes every parameter; weights decay, while
    norms and biases do not. "muon" (Jordan, https://kellerjordan.github.io/posts/muon) takes the matrices inside
    the blocks, whose update it makes orthogonal; embeddings, norms and biases stay with AdamW.
    """
    if name not in ("adamw", "muon"):
        raise ConfigError(f"there is no optimizer {name!r}; known: adamw, muon")
    matrices, embeddings, vectors = [], [], []
    for full_name, p in model.named_parameters():
        if p.requires_grad:
            (vectors if p.dim() < 2 else matrices if full_name.startswith("blocks.") else embeddings).append(p)
    to_adamw = embeddings if name == "muon" else embeddings + matrices
    groups = [{"params": to_adamw, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    fused = all(p.device.type in ("cpu", "cuda") for p in model.parameters())
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=fused)]
    if name == "muon" and matrices:
        optimizers.append(torch.optim.Muon(matrices, lr=muon_learning_rate, weight_decay=weight_decay, momentum=0.95))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def set_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Set every group's rate to ``factor`` of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
