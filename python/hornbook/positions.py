"""Where a token stands, as numbers: the tables of sinusoidal and rotary positions, and ALiBi's slopes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def sinusoids(length: int, width: int) -> Tensor:
    """(length, width): sin(p / 10000^(2i / width)) in channel 2i and the cosine of the same in channel 2i + 1, for
    position p (Vaswani et al., 2017, section 3.5, https://arxiv.org/abs/1706.03762)."""
    slow = 10000.0 ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(length, dtype=torch.float64)[:, None] / slow  # (length, width / 2, rounded up)
    table = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)
    return table[:, :width].to(torch.float32)


def alibi_slopes(n_head: int) -> Tensor:
    """(n_head,): by how much each head's scores fall with every token of distance (Press et al., 2021,
    https://arxiv.org/abs/2108.12409): 2^(-8/n), 2^(-16/n), ...; the heads beyond a power of two take every second slope
    of the next one."""
    power = 1 << (n_head.bit_length() - 1)
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    slopes += [2 ** (-8 * (i + 1) / (2 * power)) for i in range(0, 2 * (n_head - power), 2)]
    return torch.tensor(slopes)


def rope_angles(
    length: int, head_dim: int, theta: float, scaling: Mapping[str, Any] | None = None
) -> tuple[Tensor, Tensor]:
    """Cosine and sine, each (length, head_dim / 2), of position · `rope_speeds`."""
    speeds = rope_speeds(head_dim, theta, scaling)
    angles = torch.arange(length, dtype=torch.float32)[:, None] * speeds
    return angles.cos(), angles.sin()


def rope_speeds(head_dim: int, theta: float, scaling: Mapping[str, Any] | None = None) -> Tensor:
    """(head_dim / 2,), in radians per token: how fast rope turns the channel pair j, theta^(-2j / head_dim).

    A model that has learned to read up to some length reads further if the pairs turn more slowly. ``scaling`` says
    how (`GPTConfig.rope_scaling`):

        linear    all turn ``factor`` times more slowly: positions are squeezed into the length that was learned (Chen
                  et al., 2023, https://arxiv.org/abs/2306.15595)
        llama3    those that in the learned length turn ``high_freq_factor`` times or more stay, as they tell neighbours
                  apart; those that turn ``low_freq_factor`` times or less become ``factor`` times slower; in between
                  it goes over from one to the other (Llama 3.1; Grattafiori et al., 2024,
                  https://arxiv.org/abs/2407.21783)

    Computed in fp32, operation for operation as transformers does, so that its models have the same bits here.
    """
    speeds = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    if scaling is None:
        return speeds
    factor = scaling["factor"]
    if scaling["rope_type"] == "linear":
        return speeds / factor
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] / (2 * math.pi / speeds)
    stays = ((turns - low) / (high - low)).clamp(0, 1)  # the part of each speed that stays as it is
    return (1 - stays) * speeds / factor + stays * speeds
