"""The interpreter's repair: bfloat16 as PyTorch rounds it, loops, and the switch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import triton
import triton.language as tl
from hornbook.kernels import interpreter

if interpreter.is_on():
    interpreter.switch_on()
pytestmark = pytest.mark.skipif(not interpreter.is_on(), reason="the interpreter is off: kernels run on the GPU")


@triton.jit
def arithmetic(X, Y, Sum, Difference, Product, Quotient, Less, Larger, Size, N: tl.constexpr):
    i = tl.arange(0, N)
    x, y = tl.load(X + i), tl.load(Y + i)
    tl.store(Sum + i, x + y)
    tl.store(Difference + i, x - y)
    tl.store(Product + i, x * y)
    tl.store(Quotient + i, x / y)
    tl.store(Less + i, (x < y).to(tl.int8))
    tl.store(Larger + i, tl.maximum(x, y))
    tl.store(Size + i, tl.abs(x))


def bf16(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)).bfloat16()


def test_bfloat16_arithmetic_is_pytorchs() -> None:
    x, y = bf16(4096, 0), bf16(4096, 1)
    outs = [torch.empty_like(x) for _ in range(4)]
    less, larger, size = torch.empty(4096, dtype=torch.int8), torch.empty_like(x), torch.empty_like(x)
    arithmetic[(1,)](x, y, *outs, less, larger, size, N=4096)
    for got, want in zip(outs, (x + y, x - y, x * y, x / y), strict=True):
        assert torch.equal(got, want)
    assert torch.equal(less, (x < y).to(torch.int8))
    assert torch.equal(larger, torch.maximum(x, y))
    assert torch.equal(size, x.abs())


@triton.jit
def conversions(X, ToBf16, Stored, Back, Half, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(X + i)
    b = x.to(tl.bfloat16)
    tl.store(ToBf16 + i, b)
    tl.store(Stored + i, x)  # rounded by the store
    tl.store(Back + i, b.to(tl.float32))
    tl.store(Half + i, b.to(tl.float16))


def test_rounding_is_to_nearest_even() -> None:
    """Ties, numbers around them, infinities, zeros, numbers too small to be normal."""
    bits = torch.tensor([0x3F80_8000, 0x3F81_8000, 0x3F80_8001, 0x3F80_7FFF, 0x0000_8000, 0x0001_8000, 0x7F7F_FFFF])
    special = torch.tensor([float("inf"), -float("inf"), 0.0, -0.0, 1e-40, -1e-40])
    x = torch.cat((bits.to(torch.int32).view(torch.float32), special, torch.randn(3)))
    x = torch.cat((x, -x))
    out, stored = (torch.empty(32, dtype=torch.bfloat16) for _ in range(2))
    back, half = torch.empty(32), torch.empty(32, dtype=torch.float16)
    conversions[(1,)](x, out, stored, back, half, N=32)
    want = x.bfloat16()
    assert torch.equal(out.view(torch.int16), want.view(torch.int16))
    assert torch.equal(stored.view(torch.int16), want.view(torch.int16))
    assert torch.equal(back, want.float())
    assert torch.equal(half, want.half())


def test_nan_stays_nan() -> None:
    x = torch.full((32,), float("nan"))
    out, stored, back, half = (torch.empty(32, dtype=t) for t in (torch.bfloat16, torch.bfloat16, None, torch.float16))
    conversions[(1,)](x, out, stored, back, half, N=32)
    assert all(t.isnan().all() for t in (out, stored, back, half))


@triton.jit
def reductions(X, Y, Dot, Sum, Most, Running, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(X + i[:, None] * N + i[None, :])
    y = tl.load(Y + i[:, None] * N + i[None, :])
    tl.store(Dot + i[:, None] * N + i[None, :], tl.dot(x, y))
    tl.store(Sum + i, tl.sum(x, axis=1))
    tl.store(Most + i, tl.max(x, axis=1))
    tl.store(Running + i[:, None] * N + i[None, :], tl.cumsum(x, axis=1))


def test_sums_and_products_of_bfloat16_are_kept_in_fp32() -> None:
    x, y = bf16(1024, 2).view(32, 32), bf16(1024, 3).view(32, 32)
    dot, total, most = torch.empty(32, 32), torch.empty(32, dtype=torch.bfloat16), torch.empty(32, dtype=torch.bfloat16)
    running = torch.empty(32, 32, dtype=torch.bfloat16)
    reductions[(1,)](x, y, dot, total, most, running, N=32)
    torch.testing.assert_close(dot.double(), x.double() @ y.double(), rtol=1e-5, atol=1e-5)
    assert torch.equal(most, x.amax(1))
    assert (total.double() - x.double().sum(1)).abs().max() <= 2**-8 * 16
    assert (running.double() - x.double().cumsum(1)).abs().max() <= 2**-8 * 16


@triton.jit
def count_to(N, Out):
    total = 0
    for i in range(N):
        total += i
    tl.store(Out, total)


def test_loops_whose_length_is_known_at_run_time() -> None:
    out = torch.zeros(1, dtype=torch.int32)
    count_to[(1,)](10, out)
    assert out.item() == 45


@triton.jit
def doubled(x):
    return x + x


@triton.jit
def four_times(X, Y, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(Y + i, doubled(doubled(tl.load(X + i))))


def test_triton_is_changed_once_a_launch_and_changed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many functions a kernel calls, and even if it ends with an error."""
    from triton.runtime import interpreter as triton_interpreter

    before, patched = tl.load, []
    patch = triton_interpreter._patch_builtin
    monkeypatch.setattr(triton_interpreter, "_patch_builtin", lambda p, *rest: (patched.append(p), patch(p, *rest)))
    x, y = torch.arange(4.0), torch.empty(4)
    for launch in (1, 2):
        four_times[(2,)](x, y, N=4)
        assert torch.equal(y, 4 * x)
        assert patched.count(tl) == launch
        assert tl.load is before
    with pytest.raises(Exception, match="power of 2"):
        four_times[(1,)](x, y, N=3)
    assert tl.load is before
    four_times[(1,)](x, y, N=4)
    assert patched.count(tl) == 4


def fresh(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in (interpreter.VARIABLE, "HORNBOOK_KERNELS")}
    return subprocess.run([sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True)


CALL = "import torch, hornbook as hb\nfrom hornbook import ops\n"


def test_asking_for_fused_switches_it_on() -> None:
    done = fresh(CALL + "hb.use_kernels('fused')\nprint(ops.softmax(torch.zeros(1, 4)).tolist())")
    assert done.stdout == "[[0.25, 0.25, 0.25, 0.25]]\n", done.stderr
    done = fresh(CALL + "print(ops.softmax(torch.zeros(1, 4)).tolist())", HORNBOOK_KERNELS="fused")
    assert done.stdout == "[[0.25, 0.25, 0.25, 0.25]]\n", done.stderr


def test_too_late_is_an_error_that_names_the_variable() -> None:
    done = fresh(CALL + "import triton\nhb.use_kernels('fused')")
    assert "TRITON_INTERPRET=1" in done.stderr
    assert "ConfigError" in done.stderr
    done = fresh("import torch\nfrom hornbook.kernels.softmax import softmax\nsoftmax(torch.zeros(1, 4))")
    assert "TRITON_INTERPRET=1" in done.stderr
    assert "RuntimeError" in done.stderr
