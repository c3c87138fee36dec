"""What operations hold in memory on the way."""

from __future__ import annotations

from typing import Any

import hornbook as hb
import pytest
import torch
from hornbook import ops
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Largest(TorchDispatchMode):
    """The most numbers that any tensor made meanwhile has, forward and backward."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for t in tree_leaves(made):
            if isinstance(t, torch.Tensor):
                self.numbers = max(self.numbers, t.untyped_storage().nbytes() // t.element_size())
        return made


N, V, D = 512, 32_768, 16
BLOCK = 1 << 22  # what `native` holds at once


def test_a_model_never_holds_the_logits_it_is_trained_on() -> None:
    model = hb.GPT(hb.GPTConfig(vocab_size=V, context_length=N, n_layer=1, n_head=2, d_model=D))
    ids = torch.randint(V, (1, N))
    with hb.use_kernels("torch"), Largest() as largest:
        model(ids, ids).backward()
    assert BLOCK // 2 < largest.numbers <= BLOCK < N * V // 3


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 1e-4, "softcap": 30.0}])
def test_no_block_of_logits_is_larger_than_said(options: dict[str, Any]) -> None:
    x, w = torch.randn(N, D, requires_grad=True), torch.randn(V, D, requires_grad=True)
    with hb.use_kernels("torch"), Largest() as largest:
        ops.linear_cross_entropy(x, w, torch.randint(V, (N,)), **options).backward()
    assert largest.numbers <= BLOCK
    with hb.use_kernels("reference"), Largest() as largest:  # which does hold them: so it would be noticed
        ops.linear_cross_entropy(x, w, torch.randint(V, (N,)), **options).backward()
    assert largest.numbers == N * V
