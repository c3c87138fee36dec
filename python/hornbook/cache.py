"""Keys and values of tokens already read, so that each new token costs one step and not a whole pass.

Where a kernel reads the cache (`ops.decode_attention`), the GPU itself knows how much is in it (``lengths``), and where
the next tokens go. Then a step is the same launches at every position, without a word from the program in between, and
a CUDA graph can hold it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import ConfigError


class KVCache:
    """Room for ``max_length`` tokens of ``batch_size`` sequences in every layer.

    Attributes:
        length: tokens held so far, the same for every sequence.
        lengths: (B,), int32, the same on the device. (Whoever replays a CUDA graph of steps moves these, and not
            ``length``: count the steps, and see to it that there is room for them.)
        ends: (B,), ``lengths`` and the tokens that `places` was last asked for, which layers are putting in.
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
        self.lengths = torch.zeros(batch_size, dtype=torch.int32, device=device)
        self.ends = self.lengths
        self._rows = torch.arange(batch_size, device=device)[:, None]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the keys and values of T new tokens, each (B, T, H_kv, D), in one layer.

        Returns:
            All keys and values of the layer so far, each (B, length + T, H_kv, D), without a copy.
        """
        end = self._end(k.shape[1])
        self.k[layer, :, self.length : end] = k
        self.v[layer, :, self.length : end] = v
        return self.k[layer, :, :end], self.v[layer, :, :end]

    def places(self, T: int) -> Tensor:
        """(B, T): where the next T tokens of each sequence stand, as the device knows it."""
        self._end(T)
        self.ends = self.lengths + T
        return self.lengths[:, None] + torch.arange(T, device=self.lengths.device)

    def put(self, layer: int, k: Tensor, v: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """`append` at ``places``.

        Returns:
            All of the layer's room, each (B, max_length, H_kv, D), without a copy.
        """
        self.k[layer].index_put_((self._rows, places), k.to(self.k.dtype))
        self.v[layer].index_put_((self._rows, places), v.to(self.v.dtype))
        return self.k[layer], self.v[layer]

    def _end(self, T: int) -> int:
        """Of what is held with T tokens more, for which there must be room."""
        if (end := self.length + T) > self.k.shape[2]:
            raise ConfigError(
                f"the cache has room for {self.k.shape[2]} tokens, not {end}; make it with a larger max_length"
            )
        return end

    def advance(self, T: int) -> None:
        """Count T tokens as held, once every layer has them."""
        self.length += T
        self.lengths += T

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""
        self.length = min(self.length, length)
        self.lengths.clamp_(max=length)

    def select(self, rows: Tensor) -> None:
        """Keep the sequences ``rows`` (B',), in that order; one may be taken several times, as beams do."""
        self.k = self.k[:, rows]
        self.v = self.v[:, rows]
        self.lengths = self.ends = self.lengths[rows]
        self._rows = torch.arange(len(rows), device=self.lengths.device)[:, None]
