"""What operations hold in memory on the way."""

from __future__ import annotations

from typing import Any

import hornbook as hb
import pytest
import torch
from hornbook import native, ops
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak(TorchDispatchMode):
    """The most bytes that tensors made meanwhile hold at a time, forward and backward, and the most that one holds."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.largest = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        had = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        made = func(*args, **(kwargs or {}))
        self._alive = {key: held for key, held in self._alive.items() if not held[0].expired()}
        for t in tree_leaves(made):
            if isinstance(t, Tensor) and (storage := t.untyped_storage())._cdata not in had:
                self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        sizes = [size for _, size in self._alive.values()]
        self.bytes, self.largest = max(self.bytes, sum(sizes)), max(self.largest, *sizes, 0)
        return made


N, V, D = 4096, 32_768, 16
LOGITS = N * V * 4  # bytes
BLOCK = 1 << 24  # what `native` holds at once


def held(implementation: str, **options: Any) -> Peak:
    """On the way through the loss and back, the gradients counted, too."""
    x, w = torch.randn(N, D, requires_grad=True), torch.randn(V, D, requires_grad=True)
    with hb.use_kernels(implementation), Peak() as peak:
        ops.linear_cross_entropy(x, w, torch.randint(V, (N,)), **options).backward()
    return peak


def test_a_model_never_holds_the_logits_it_is_trained_on() -> None:
    model = hb.GPT(hb.GPTConfig(vocab_size=V, context_length=N // 4, n_layer=1, n_head=2, d_model=D))
    ids = torch.randint(V, (4, N // 4))
    with hb.use_kernels("torch"), Peak() as peak:
        model(ids, ids).backward()
    assert peak.bytes < LOGITS / 4
    assert BLOCK // 2 < peak.largest <= BLOCK


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 1e-4, "softcap": 30.0}])
def test_few_logits_are_held(options: dict[str, Any]) -> None:
    peak = held("torch", **options)
    assert peak.bytes < LOGITS / 4
    assert peak.largest <= BLOCK
    with torch.no_grad(), hb.use_kernels("torch"), Peak() as peak:
        ops.linear_cross_entropy(torch.randn(N, D), torch.randn(V, D), torch.randint(V, (N,)), **options)
    assert peak.bytes < LOGITS / 4
    assert peak.largest <= BLOCK


def test_whoever_holds_them_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once, or block by block but each until there is a gradient."""
    peak = held("reference")
    assert peak.bytes > 2 * LOGITS
    assert peak.largest == LOGITS

    def naive(x: Tensor, weight: Tensor, targets: Tensor, **options: Any) -> Tensor:
        blocks = zip(x.split(128), targets.split(128), strict=True)
        return torch.stack([native.cross_entropy(b @ weight.T, t, reduction="sum") for b, t in blocks]).sum() / N

    monkeypatch.setattr(native, "linear_cross_entropy", naive)
    assert held("torch").bytes > LOGITS
