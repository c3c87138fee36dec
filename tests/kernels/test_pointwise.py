"""What the operations on single numbers promise besides right numbers on the harness's shapes."""

from __future__ import annotations

import pytest
import torch
from hornbook.kernels import gelu, interpreter, library, pointwise, relu2, rope, swiglu
from hornbook.reference.rope import rope as reference_rope
from torch import Tensor

from . import harness
from .harness import Case
from .operations import GELU

DEVICE = "cpu" if interpreter.is_on() else "cuda"


@pytest.mark.parametrize("width", [16, 300])
def test_sums_over_more_rows_than_one_round_takes(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs go down a grid's height at a time: with few of them, some rounds, of which the last is not full."""
    monkeypatch.setattr(pointwise, "PROGRAMS", 4)
    rows, _ = pointwise.tile(1000, width, pointwise.SUMMED_TILE)
    case = Case({"x": (4 * rows + 3 * rows // 2, width), "bias": (width,)})
    for dtype in harness.DTYPES:
        harness.check_accuracy(GELU, case, dtype, DEVICE)


def test_sums_of_more_programs_than_are_read_at_once() -> None:
    rows = (max(pointwise.SUM_TILES) + 1) * pointwise.SUMMED_TILE // 16
    harness.check_accuracy(GELU, Case({"x": (rows, 5), "bias": (5,)}), torch.float32, DEVICE)


def test_the_sum_of_a_bias_is_of_what_was_not_rounded_yet() -> None:
    """Rounded to bf16 one by one, these rows would add up to 0.3 % less."""
    x = torch.full((4096, 16), 0.5, dtype=torch.bfloat16, device=DEVICE)
    bias = torch.full((16,), 0.25 + 2**-9, device=DEVICE, requires_grad=True)
    relu2.relu2(x, bias).sum().backward()
    assert bias.grad is not None
    torch.testing.assert_close(bias.grad.cpu(), torch.full((16,), 4096 * 2 * (0.75 + 2**-9)), rtol=1e-6, atol=0)


def test_only_what_is_wanted_is_computed() -> None:
    x = torch.randn(9, 20, device=DEVICE)
    for wants_x, wants_bias in ((True, False), (False, True), (True, True)):
        a, b = x.clone().requires_grad_(wants_x), torch.randn(20, device=DEVICE, requires_grad=wants_bias)
        before = library.launches["pointwise_bias"]
        gelu.gelu(a, b).sum().backward()
        assert library.launches["pointwise_bias"] - before == wants_bias
        assert (a.grad is None, b.grad is None) == (not wants_x, not wants_bias)


@pytest.mark.parametrize("options", [{}, {"approximate": "tanh"}])
def test_gelu_far_from_0(options: dict[str, str]) -> None:
    x = torch.tensor([-3e38, -1e20, -30.0, -0.0, 0.0, 1e-30, 30.0, 1e20, 3e38], device=DEVICE, requires_grad=True)
    y = gelu.gelu(x, **options)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(y.detach(), torch.where(x > 1, x.detach(), x.detach().clamp(0, 1) / 2))
    torch.testing.assert_close(x.grad, torch.tensor([0, 0, 0, 0.5, 0.5, 0.5, 1, 1, 1], device=DEVICE))


def test_swiglu_far_from_0() -> None:
    gate = torch.tensor([-3e38, -200.0, 0.0, 200.0, 3e38], device=DEVICE, requires_grad=True)
    up = torch.ones_like(gate, requires_grad=True)
    swiglu.swiglu(gate, up).sum().backward()
    assert gate.grad is not None
    assert up.grad is not None
    torch.testing.assert_close(gate.grad, torch.tensor([0, 0, 0.5, 1, 1], device=DEVICE))
    torch.testing.assert_close(up.grad, gate.detach().clamp_min(0))


def test_nan_stays_nan() -> None:
    x = torch.full((2, 4), float("nan"), device=DEVICE, requires_grad=True)
    cos = torch.ones(1, 2, device=DEVICE)
    calls = (relu2.relu2, gelu.gelu, lambda x: gelu.gelu(x, approximate="tanh"), swiglu.swiglu)
    for call in (*calls, lambda x: rope.rope(x.view(2, 1, 1, 4), cos, cos)):
        y = call(x)
        (dx,) = torch.autograd.grad(y.sum(), x)
        assert y.isnan().all()
        assert dx.isnan().all() or call not in calls  # a rotation's gradient does not see x


class _Allocations(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts what copies a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if function in (torch.ops.aten.clone.default, torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default):
            self.copies.append(str(function))
        return function(*args, **(kwargs or {}))


def test_views_of_one_tensor_are_not_copied() -> None:
    B, T, H, D = 2, 5, 3, 8
    qkv = torch.randn(B, T, 3 * H * D, device=DEVICE)
    q, k, _ = (t.view(B, T, H, D) for t in qkv.chunk(3, dim=-1))
    cos, sin = torch.randn(T, D // 2, device=DEVICE), torch.randn(T, D // 2, device=DEVICE)
    gate, up = torch.randn(B, T, 2 * D, device=DEVICE).chunk(2, dim=-1)
    with _Allocations() as counted:
        turned = [rope.rope(t, cos, sin) for t in (q, k)]
        y = swiglu.swiglu(gate, up)
    assert not counted.copies
    assert all(t.is_contiguous() for t in (*turned, y))
    for got, t in zip(turned, (q, k), strict=True):
        torch.testing.assert_close(got, reference_rope(t, cos, sin))
    torch.testing.assert_close(y, torch.nn.functional.silu(gate) * up)


@pytest.mark.parametrize("interleaved", [False, True])
def test_positions_that_are_not_there_are_nan(interleaved: bool) -> None:
    x = torch.randn(1, 5, 2, 6, device=DEVICE, requires_grad=True)
    cos, sin = torch.randn(4, 3, device=DEVICE), torch.randn(4, 3, device=DEVICE)
    positions = torch.tensor([[3, 4, -1, 1 << 40, 0]], device=DEVICE)
    with harness.within_bounds():
        y = rope.rope(x, cos, sin, positions=positions, interleaved=interleaved)
        (dx,) = torch.autograd.grad(y.sum(), x)
    for t in (y, dx):
        assert t[0, 1:4].isnan().all()
        assert t[0, ::4].isfinite().all()


def test_positions_of_any_whole_numbers() -> None:
    x, cos, sin = (torch.randn(shape, device=DEVICE) for shape in ((2, 3, 2, 6), (9, 3), (9, 3)))
    ids = torch.randint(9, (2, 3), device=DEVICE)
    want = rope.rope(x, cos, sin, positions=ids)
    for dtype in (torch.int32, torch.int16, torch.uint8):
        assert torch.equal(rope.rope(x, cos, sin, positions=ids.to(dtype)), want)


X, ANGLES = torch.zeros(2, 3, 4, 6), torch.zeros(3, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gelu.gelu(torch.zeros(3, 4), torch.zeros(3)), r"bias has shape \(3,\), but x has \(3, 4\)"),
        (lambda: relu2.relu2(torch.zeros(()), torch.zeros(())), "bias has shape"),
        (lambda: gelu.gelu(torch.zeros(3), approximate="erf"), "approximate is one of 'none', 'tanh', not 'erf'"),
        (lambda: gelu.gelu(torch.zeros(3, dtype=torch.float64)), "not float64"),
        (lambda: swiglu.swiglu(torch.zeros(2, 5)), "two halves"),
        (lambda: swiglu.swiglu(torch.zeros(())), "two halves"),
        (lambda: swiglu.swiglu(torch.zeros(2, 5), torch.zeros(2, 4)), "must be the same"),
        (lambda: rope.rope(X[0], ANGLES, ANGLES), r"\(B, T, H, D\) with an even D"),
        (lambda: rope.rope(X[..., :5], ANGLES, ANGLES), r"\(B, T, H, D\) with an even D"),
        (lambda: rope.rope(X, ANGLES, ANGLES[:, :2]), r"\(P, 3\) is needed"),
        (lambda: rope.rope(X, ANGLES[:2], ANGLES[:2]), "2 positions, but x has 3 tokens"),
        (lambda: rope.rope(X, ANGLES, ANGLES, positions=torch.zeros(2, 3)), "whole numbers"),
        (lambda: rope.rope(X, ANGLES, ANGLES, positions=torch.zeros(3, dtype=torch.int64)), "whole numbers"),
        (lambda: rope.rope(X, ANGLES.clone().requires_grad_(), ANGLES), "no gradient of cos and sin"),
    ],
)
def test_what_is_refused(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(library.UnsupportedError, match=message):
        call()


def test_without_gradients_angles_may_be_parameters() -> None:
    cos = ANGLES.to(DEVICE).clone().requires_grad_()
    with torch.no_grad():
        assert isinstance(rope.rope(X.to(DEVICE), cos, cos), Tensor)
