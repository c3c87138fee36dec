"""Odd calls: whoever computes, the same comes out, or the same error."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hornbook import ops
from hornbook.errors import ConfigError
from hornbook.ops import use_kernels
from torch import Tensor

# Where there is a GPU, tests/kernels asks the kernels there.
IMPLEMENTATIONS = ("reference", "torch", *(["fused"] if os.environ.get("TRITON_INTERPRET") else []))
each_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
Q = torch.zeros(1, 2, 2, 16)
X, ROW, IDS = torch.zeros(2, 4), torch.zeros(2), torch.zeros(2, dtype=torch.int64)


@each_implementation
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.cross_entropy(X, IDS, reduction="avg"), "reduction is one of 'mean', 'sum', 'none', not 'avg'"),
        (lambda: ops.linear_cross_entropy(X, X, IDS, reduction="avg"), "reduction is one of 'mean', 'sum', 'none'"),
        (lambda: ops.cross_entropy(X, IDS, softcap=0.0), r"softcap is a number above 0, or None, not 0\.0"),
        (lambda: ops.linear_cross_entropy(X, X, IDS, softcap=-3.0), r"softcap is a number above 0, or None, not -3\.0"),
        (lambda: ops.linear_cross_entropy(X, X, IDS, label_smoothing=2.0), "label_smoothing is a share, from 0 to 1"),
        (lambda: ops.sample_logits(X, ROW, temperature=-1.0), "temperature must be a number of at least 0, not -1"),
        (
            lambda: ops.sample_logits(X, ROW, temperature=math.nan),
            "temperature must be a number of at least 0",
        ),
        (lambda: ops.sample_logits(X, ROW, top_k=-1), r"top_k must be at least 0 \(which means all\), not -1"),
        (lambda: ops.sample_logits(X, ROW, top_p=0.0), r"top_p must be above 0 and at most 1, not 0\.0"),
        (lambda: ops.sample_logits(X, ROW, min_p=2.0), r"min_p must be from 0 to 1, not 2\.0"),
        (lambda: ops.gelu(X, torch.zeros(2, 4)), r"bias has shape \(2, 4\), but \(4,\) is needed"),
        (lambda: ops.gelu(X, approximate="tan"), "did you mean 'tanh'"),
        (lambda: ops.relu2(X, torch.zeros(1)), r"bias has shape \(1,\), but \(4,\) is needed"),
        (lambda: ops.add_norm(X, X[:1]), r"residual has shape \(1, 4\), but \(2, 4\) is needed"),
        (lambda: ops.add_norm(X, X, norm="layernorm"), "did you mean 'layer_norm'"),
        (lambda: ops.attention(Q, Q, Q, window=0), "window is how many keys are seen .* not 0"),
        (lambda: ops.attention(Q, Q, Q, window=2.5), r"window is how many keys are seen .* not 2\.5"),
        (lambda: ops.attention(Q, Q, Q, softcap=-1.0), r"softcap is a number above 0, or None, not -1\.0"),
        (lambda: ops.attention(Q, Q, Q, alibi_slopes=torch.ones(3)), r"alibi_slopes has shape \(3,\), but .* 2 heads"),
        (
            lambda: ops.attention(Q, Q, Q, alibi_slopes=torch.ones(2, requires_grad=True)),
            "alibi_slopes are constants: they get no gradient",
        ),
        (lambda: ops.attention(Q, Q[:, :1], Q[:, :1], document_ids=IDS[None]), "but there are 2 queries"),
        (lambda: ops.attention(Q, Q, Q, document_ids=IDS), r"document_ids has shape \(2,\), but \(1, 2\) is needed"),
        (
            lambda: ops.attention(Q, Q, Q, document_ids=torch.ones(1, 2)),
            "document_ids holds int64 .* not float32",
        ),
        (lambda: ops.attention(Q[0], Q[0], Q[0], document_ids=IDS, cu_seqlens=IDS), "give one of them"),
        (lambda: ops.documents(IDS), r"document_ids is \(B, T\), of int64 or int32 numbers, not \(2,\) of int64"),
        (lambda: ops.documents(X), r"document_ids is \(B, T\), of int64 or int32 .* of float32"),
        (
            lambda: ops.attention(Q, Q, Q, document_ids=ops.documents(IDS[None].repeat(2, 1))),
            r"document_ids has shape \(2, 2\), but \(1, 2\) is needed",
        ),
        (lambda: ops.attention(Q, Q, Q, cu_seqlens=IDS), r"with cu_seqlens q is \(total, H, D\)"),
        (
            lambda: ops.attention(Q[0], Q[0], Q[0], cu_seqlens=IDS),
            "begins with 0, never falls, and ends",
        ),
        (lambda: ops.swiglu(X, X[:, :1]), r"up has shape \(2, 1\), but \(2, 4\) is needed"),
    ],
)
def test_what_nobody_takes(implementation: str, call: Callable[[], Tensor], message: str) -> None:
    with use_kernels(implementation), pytest.raises(ConfigError, match=message):
        call()


@each_implementation
@pytest.mark.parametrize("how", [{}, {"temperature": 0.0}, {"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.1}], ids=str)
def test_what_is_no_number_is_not_drawn(implementation: str, how: dict[str, Any]) -> None:
    nan, inf = math.nan, math.inf
    rows = torch.tensor(
        [
            [nan, 1.0, nan, nan],
            [-inf, -inf, 0.5, -inf],
            [3.0, inf, nan, -inf],
            [-inf, -inf, -inf, -inf],
            [nan, nan, nan, nan],
        ]
    )
    with use_kernels(implementation):
        for u in (0.0, 0.4, 0.999):
            assert ops.sample_logits(rows, torch.full((5,), u), **how).tolist() == [1, 2, 1, 0, 0]
        two = ops.sample_logits(torch.tensor([[inf, 7.0, inf]] * 2), torch.tensor([0.2, 0.8]), **how)
    assert two.tolist() == ([0, 0] if how.get("temperature") == 0 else [0, 2])


@each_implementation
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_targets_that_all_do_not_count_move_nothing(implementation: str, reduction: str) -> None:
    """A row of padding alone: the mean of nothing is nan, but its gradient must not spoil those of other rows."""
    x, w = (torch.randn(n, 4, generator=torch.Generator().manual_seed(n)).requires_grad_() for n in (3, 7))
    with use_kernels(implementation):
        for loss in (
            ops.linear_cross_entropy(x, w, torch.full((3,), -100), reduction=reduction),
            ops.cross_entropy(x, torch.full((3,), -100), reduction=reduction),
        ):
            assert loss.isnan().all() if reduction == "mean" else (loss == 0).all()
            loss.sum().backward()
    assert not x.grad.any()  # type: ignore[union-attr]
    assert not w.grad.any()  # type: ignore[union-attr]


@each_implementation
def test_targets_may_be_int32(implementation: str) -> None:
    x, w = (torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (3, 4))
    t = torch.tensor([2, -100, 0])
    with use_kernels(implementation):
        for reduction in ("mean", "none"):
            for loss in (lambda t, r=reduction: ops.cross_entropy(x, t, reduction=r),
                         lambda t, r=reduction: ops.linear_cross_entropy(x, w, t, reduction=r)):  # fmt: skip
                assert torch.equal(loss(t), loss(t.int()))


@each_implementation
def test_the_first_tensor_says_the_format(implementation: str) -> None:
    x, y = (torch.randn(3, 8, generator=torch.Generator().manual_seed(n)) for n in (1, 2))
    with use_kernels(implementation):
        assert ops.swiglu(x.bfloat16(), y).dtype == torch.bfloat16
        assert ops.gelu(x.bfloat16(), y[0]).dtype == torch.bfloat16
        normed, h = ops.add_norm(x, y.bfloat16())
        assert (normed.dtype, h.dtype) == (torch.float32, torch.bfloat16)
        want = torch.nn.functional.layer_norm(h.float(), (8,))
        torch.testing.assert_close(normed, want, rtol=1e-5, atol=1e-5)  # not rounded to bf16 on the way
        normed, h = ops.add_norm(x.bfloat16(), y)
    assert (normed.dtype, h.dtype) == (torch.bfloat16, torch.float32)


def test_the_share_of_a_target_is_not_rounded() -> None:
    """1 / 700 is 0.1 % off in bf16, and so would all gradients of a mean be."""
    x = torch.randn(700, 64, generator=torch.Generator().manual_seed(1)).bfloat16().requires_grad_()
    w = (torch.randn(512, 64, generator=torch.Generator().manual_seed(2)) / 8).bfloat16()
    with use_kernels("torch"):
        mean, total = (
            torch.autograd.grad(ops.linear_cross_entropy(x, w, torch.arange(700) % 512, reduction=how), x)[0].double()
            for how in ("mean", "sum")
        )
    assert abs(float(700 * (mean * total).sum() / (total * total).sum()) - 1) < 3e-4


# Lists and numbers in place of tensors: each argument of each operation that is one.

ROWS = [[0.0, 1.0], [1.0, 0.0]]
CACHED = torch.zeros(1, 4, 2, 16)
LENGTHS = torch.ones(1, dtype=torch.int32)
GIVEN: dict[str, tuple[Any, ...]] = {
    "add_norm": (X, X),
    "attention": (Q, Q, Q),
    "cross_entropy": (X, IDS),
    "decode_attention": (Q, CACHED, CACHED, LENGTHS),
    "documents": (IDS[None],),
    "gelu": (X,),
    "layer_norm": (X,),
    "linear_cross_entropy": (X, X, IDS),
    "relu2": (X,),
    "rms_norm": (X,),
    "rope": (Q, torch.ones(2, 8), torch.ones(2, 8)),
    "sample_logits": (X, ROW),
    "softmax": (X,),
    "swiglu": (X, X),
}
OTHERS = {
    "attention": ("alibi_slopes", "document_ids"),
    "decode_attention": ("block_table", "alibi_slopes"),
    "gelu": ("bias",),
    "layer_norm": ("weight", "bias"),
    "rope": ("positions",),
}


def test_every_operation_is_asked() -> None:
    assert set(GIVEN) == {*ops.OPERATIONS, "documents"}


@each_implementation
@pytest.mark.parametrize("op", GIVEN)
def test_what_is_no_tensor_is_named(op: str, implementation: str) -> None:
    function = getattr(ops, op)
    names = list(inspect.signature(function).parameters)
    with use_kernels(implementation), torch.no_grad():
        function(*GIVEN[op])
        for value in (ROWS, 2.5, (1, 2)):
            for at in range(len(GIVEN[op])):
                with pytest.raises(ConfigError, match=rf"^{op}: {names[at]} is a tensor, not {type(value).__name__};"):
                    function(*GIVEN[op][:at], value, *GIVEN[op][at + 1 :])
            for name in OTHERS.get(op, ()):
                with pytest.raises(ConfigError, match=rf"^{op}: {name} is a tensor, not {type(value).__name__};"):
                    function(*GIVEN[op], **{name: value})
        with pytest.raises(ConfigError, match=rf"^{op}: {names[0]} is a tensor, not NoneType;"):
            function(None, *GIVEN[op][1:])
        with pytest.raises(ConfigError, match="cu_seqlens is a tensor, not list"):
            ops.attention(Q[0], Q[0], Q[0], cu_seqlens=[0, 2])  # type: ignore[arg-type]


def test_other_errors_are_left_as_they_are() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'approx'"):
        ops.gelu(X, approx="tanh")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        ops.cross_entropy(X)  # type: ignore[call-arg]
    assert ops.gelu.__doc__ is None
    assert ops.documents.__name__ == "documents"
