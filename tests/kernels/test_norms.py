"""What is special about the norms: widths around the borders of their tables, and which gradients are made of what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hornbook.kernels import library, norms, norms_backward
from hornbook.kernels.add_norm import add_norm
from hornbook.kernels.layer_norm import layer_norm
from hornbook.kernels.rms_norm import rms_norm
from hornbook.reference.add_norm import add_norm as reference_add_norm
from hornbook.reference.layer_norm import layer_norm as reference_layer_norm
from hornbook.reference.rms_norm import rms_norm as reference_rms_norm

from . import harness
from .operations import LAYER_NORM
from .test_harness import DEVICE, changed

NORMS = {"layer_norm": (layer_norm, reference_layer_norm), "rms_norm": (rms_norm, reference_rms_norm)}


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.to(DEVICE, dtype).requires_grad_()


def gradients(f: Callable[..., Any], *inputs: torch.Tensor, **options: Any) -> list[torch.Tensor]:
    """The result and the gradients of what it is computed from."""
    y = f(*inputs, **options)
    return [y, *torch.autograd.grad(y, inputs, torch.ones_like(y).cumsum(-1).sin())]


def close(mine: list[torch.Tensor], want: list[torch.Tensor]) -> None:
    for a, b in zip(mine, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("width", [w + more for w in norms_backward.TABLE if w > 64 for more in (0, 1)])
def test_borders_of_the_tables(norm: str, width: int) -> None:
    mine, want = NORMS[norm]
    tensors = random(2, width), random(width, seed=1), random(width, seed=2)
    close(gradients(mine, *tensors), gradients(want, *tensors))


@pytest.mark.parametrize("dtype", harness.DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "width"), [(150, 65), (19, 700), (9, 9000), (19, 17_000)])
def test_a_program_has_more_rows_than_it_takes_at_once(
    rows: int, width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each kernel, with two programs in place of hundreds, so that few rows are enough."""
    for most, tile in norms_backward.TABLE.items():
        monkeypatch.setitem(norms_backward.TABLE, most, tile._replace(programs=2))
    monkeypatch.setattr(norms_backward, "LONG", norms_backward.LONG._replace(programs=2))
    case = harness.Case({"x": (rows, width), "weight": (width,), "bias": (width,)})
    harness.check_accuracy(LAYER_NORM, case, dtype, DEVICE)


def test_a_thread_has_room_for_its_pieces() -> None:
    for width, tile in (*norms.TABLE.items(), *norms_backward.TABLE.items()):
        assert 1 <= -(-width // tile.block) <= 4


def error_far_from_0(f: Callable[..., Any], width: int) -> float:
    """The largest one in the gradient of a weight, for rows whose mean, 128, is exact, so that only what is made of it
    is rounded."""
    x = torch.tensor([0.5, -0.5, 1.0, -1.0, 1.5, -1.5, 0.0, 0.0]).repeat(width // 8)
    x, weight = torch.stack((x, x.flip(0), x.roll(1))).to(DEVICE) + 128, torch.ones(width, device=DEVICE)
    (mine,), (want,) = (
        torch.autograd.grad(g(x.to(dtype), w := weight.to(dtype).requires_grad_()).sum(), w)
        for g, dtype in ((f, torch.float32), (reference_layer_norm, torch.float64))
    )
    return float((mine - want).abs().max())


def test_the_mean_is_subtracted_before_anything_is_multiplied(tmp_path: Path) -> None:
    before, after = "(x.to(tl.float32) - mean) * r", "x.to(tl.float32) * r + (-r * mean)"
    planted = changed(LAYER_NORM, before, after, tmp_path).fused
    for width in (64, 9000):  # rows held whole, and columns
        assert error_far_from_0(layer_norm, width) < 1e-6
        assert error_far_from_0(planted, width) > 1e-6


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("width", [65, 20_000])
def test_only_one_of_two_results_is_used(norm: str, width: int) -> None:
    x, residual, weight = random(3, width), random(3, width, seed=1), random(width, seed=2)
    for which in (0, 1):
        inputs = (x, residual, weight) if which == 0 else (x, residual)
        mine, want = (
            gradients(lambda *t, f=f, i=which: f(*t, *(weight,) * (3 - len(t)), norm=norm)[i], *inputs)
            for f in (add_norm, reference_add_norm)
        )
        close(mine, want)
    h = add_norm(x, residual, weight, norm=norm)[1]
    assert torch.autograd.grad(h.sum(), weight, allow_unused=True) == (None,)


def test_what_is_added_to_itself() -> None:
    x, weight = random(3, 65), random(65, seed=1)
    mine, want = (gradients(lambda x, w, f=f: f(x, x, w)[0], x, weight) for f in (add_norm, reference_add_norm))
    close(mine, want)


def test_a_stream_in_fp32_beside_bf16() -> None:
    """Each gradient has its tensor's dtype, and that of the stream is not rounded to the other's."""
    x, residual, weight = random(3, 65, dtype=torch.bfloat16), random(3, 65, seed=1), random(65, seed=2)
    y, h = add_norm(x, residual, weight)
    assert (y.dtype, h.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(h, residual + x)
    dy, dh = torch.ones_like(y), random(3, 65, seed=3)
    dx, dresidual = torch.autograd.grad((y, h), (x, residual), (dy, dh))
    assert (dx.dtype, dresidual.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(dx, dresidual.bfloat16())
    assert not torch.equal(dx.float(), dresidual)
    (dh_only,) = torch.autograd.grad(add_norm(x, residual, weight)[1], x, dh)
    assert torch.equal(dh_only, dh.bfloat16())


def test_only_what_is_wanted_is_computed() -> None:
    x, weight, bias = random(3, 65), random(65, seed=1), random(65, seed=2)
    for wanted, sums in (((x,), 0), ((x, weight), 1), ((bias,), 1), ((weight, bias), 1)):
        leaves = [t.detach().requires_grad_(any(t is w for w in wanted)) for t in (x, weight, bias)]
        library.launches.clear()
        layer_norm(*leaves).sum().backward()
        assert library.launches == {"layer_norm_rows": 1, "norm_backward_rows": 1} | (
            {"norm_sum_parts": 1} if sums else {}
        )
        assert [t.grad is not None for t in leaves] == [t.requires_grad for t in leaves]


def test_shapes_that_do_not_fit() -> None:
    x = torch.zeros(2, 8)
    for call, reason in (
        (lambda: add_norm(x, x[:, :4]), r"x has shape \(2, 8\), but the residual has \(2, 4\)"),
        (lambda: add_norm(x, x, x[0, :4]), r"weight has shape \(4,\), but rows have 8 columns"),
        (lambda: rms_norm(x, None, x[0, :4]), r"bias has shape \(4,\), but rows have 8 columns"),
        (lambda: add_norm(x, x, norm="batch_norm"), "norm is 'layer_norm' or 'rms_norm', not 'batch_norm'"),
        (lambda: add_norm(x, x.double()), "not float64"),
        (lambda: layer_norm(torch.zeros(())), "no dimension"),
    ):
        with pytest.raises(library.UnsupportedError, match=reason):
            call()
