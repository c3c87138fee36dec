"""Keys and values of tokens already read, so that each new token costs one step and not a whole pass."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import ConfigError


class KVCache:
    """Room for ``max_length`` tokens of ``batch_size`` sequences in every layer.

    Attributes:
        length: tokens held so far, the same for every sequence.
    """

    def __init__(
        self,
        n_layer: int,
        batch_size: int,
        max_length: int,
        n_kv_head: int,
        head_dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (n_layer, batch_size, max_length, n_kv_head, head_dim)
        self.k = torch.zeros(shape, dtype=dtype, device=device)
        self.v = torch.zeros(shape, dtype=dtype, device=device)
        self.length = 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the keys and values of T new tokens, each (B, T, H_kv, D), in one layer.

        Returns:
            All keys and values of the layer so far, each (B, length + T, H_kv, D), without a copy.
        """
        end = self.length + k.shape[1]
        if end > self.k.shape[2]:
            raise ConfigError(
                f"the cache has room for {self.k.shape[2]} tokens, not {end}; make it with a larger max_length"
            )
        self.k[layer, :, self.length : end] = k
        self.v[layer, :, self.length : end] = v
        return self.k[layer, :, :end], self.v[layer, :, :end]

    def advance(self, T: int) -> None:
        """Count T tokens as held, once every layer has appended them."""
        self.length += T

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""
        self.length = min(self.length, length)

    def select(self, rows: Tensor) -> None:
        """Keep the sequences ``rows`` (B',), in that order; one may be taken several times, as beams do."""
        self.k = self.k[:, rows]
        self.v = self.v[:, rows]
