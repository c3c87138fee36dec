"""Kernels that read and write through tensor descriptors: what they are given, in the interpreter and compiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
import triton
import triton.language as tl
from hornbook.kernels import interpreter, library
from torch import Tensor

from .harness import within_bounds

if interpreter.is_on():
    interpreter.switch_on()
DEVICE = "cpu" if interpreter.is_on() else "cuda"
ROWS, COLUMNS = 16, 32


@triton.jit
def double(X, Y, h, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Y = 2 X of head h, block by block; X and Y are (B, T, H, D)."""
    block, b = tl.program_id(0), tl.program_id(1)
    x = X.load([b, block * ROWS, h, 0]).reshape((ROWS, COLUMNS))
    Y.store([b, block * ROWS, h, 0], (x * 2).reshape((1, ROWS, 1, COLUMNS)))


@triton.jit
def shifted(X, Y, Out, by, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The block that begins ``by`` rows and 8 columns beside X's, as the kernel sees it; and X, by a pointer."""
    i, j = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    tl.store(Out + i[:, None] * COLUMNS + j[None, :], X.load([by, 8]))
    Y.store([by, 8], tl.full((ROWS, COLUMNS), 3.0, tl.float32).to(Y.dtype))


def call(x: Tensor, y: Tensor, head: int) -> None:
    block = (1, ROWS, 1, COLUMNS)
    grid = (library.cdiv(x.shape[1], ROWS), x.shape[0])
    library.launch(
        double, grid, library.descriptor(x, block), library.descriptor(y, block), head, ROWS=ROWS, COLUMNS=COLUMNS
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 15, 16, 37])
def test_a_view_is_read_and_written_in_place(dtype: torch.dtype, length: int) -> None:
    wide = torch.randn(2, length, 3, 5, 32, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)
    x, y = wide[:, :, 1], torch.full_like(wide[:, :, 0], float("nan"))
    with within_bounds():
        call(x, y, 3)
    assert torch.equal(y[:, :, 3], x[:, :, 3] * 2)
    assert y[:, :, [0, 1, 2, 4]].isnan().all(), "other heads were written"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("by", [-20, -3, 0, 30, 37])
def test_beyond_the_ends_are_zeros(dtype: torch.dtype, by: int) -> None:
    x = (torch.randn(37, 32, generator=torch.Generator().manual_seed(1)) + 5).to(DEVICE, dtype)
    y, out = torch.zeros_like(x), torch.full((ROWS, COLUMNS), float("nan"), device=DEVICE, dtype=dtype)
    block = (ROWS, COLUMNS)
    with within_bounds():
        library.launch(
            shifted, (1,), library.descriptor(x, block), library.descriptor(y, block), out, by, ROWS=ROWS,
            COLUMNS=COLUMNS,
        )  # fmt: skip
    padded = torch.nn.functional.pad(x.float(), (0, 32, 32, 64))
    assert torch.equal(out.float(), padded[32 + by : 48 + by, 8:40])
    assert y.sum().item() == 3 * 24 * max(0, min(37, by + 16) - max(0, by))


@pytest.mark.skipif(not interpreter.is_on(), reason="bounds are seen in the interpreter only")
def test_a_descriptor_beyond_its_tensor_is_noticed() -> None:
    from triton.tools.tensor_descriptor import TensorDescriptor

    memory = torch.zeros(64, 32)
    x, y = memory[:20], torch.zeros(20, 32)
    block = (ROWS, COLUMNS)
    for wrong, what in (((x, y), "loads"), ((y, x), "stores")):
        long = [TensorDescriptor(t, [40 if t is x else 20, 32], [32, 1], list(block)) for t in wrong]
        with pytest.raises((AssertionError, triton.runtime.errors.InterpreterError), match=what), within_bounds():
            library.launch(shifted, (1,), *long, torch.empty(block), 16, ROWS=ROWS, COLUMNS=COLUMNS)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda t: t[:0], "empty"),
        (lambda t: t.flatten()[1:33].view(4, 8), "16 bytes"),
        (lambda t: t[:, ::2], "stride of 2"),
        (lambda t: t.T, "last axis"),
        (lambda t: t.flatten()[:68].view(4, 17)[:, :16], "multiples of 16 bytes"),
        (lambda t: t[:1].expand(8, 32), "not 0"),
        (lambda t: t.view(1, 1, 1, 1, 64, 32), "axes"),
    ],
)
def test_what_cannot_be_described(make, reason: str) -> None:
    t = make(torch.zeros(64, 32, dtype=torch.float16))
    assert reason in (library.descriptor_refused(t) or "")
    with pytest.raises(library.UnsupportedError, match=reason):
        library.descriptor(t, (16,) * t.dim())


def test_the_stride_of_a_single_row_does_not_count() -> None:
    x = torch.randn(1, 40, 1, 32).as_strided((1, 40, 1, 32), (7, 32, 3, 1)).to(DEVICE)
    assert library.descriptor_refused(x) is None
    y = torch.empty_like(x)
    call(x, y, 0)
    assert torch.equal(y, x * 2)


COMPILE = """
import json, torch
from hornbook.benchmarks import aot
from hornbook.kernels import library
from tests.kernels.test_descriptors import call
found = {}
x = torch.empty(2, 64, 4, 32, dtype=torch.bfloat16)
with library.recording() as recorded:
    call(x, torch.empty_like(x), 2)
for target in aot.TARGETS:
    ptx = aot.build(recorded[0], target).asm["ptx"]
    found[target] = {name: ptx.count(name) for name in ("cp.async.bulk.tensor", "ld.global", "st.global")}
print(json.dumps({"types": aot.arguments(recorded[0])[0], "found": found}))
"""


@pytest.mark.slow
def test_they_compile_to_tma_where_there_is_one_and_to_loads_elsewhere() -> None:
    environment = {name: value for name, value in os.environ.items() if name != interpreter.VARIABLE}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=True)
    made = json.loads(done.stdout)
    assert made["types"]["X"] == "tensordesc<bf16[1,16,1,32]>"
    for target, counts in made["found"].items():
        tma = counts.pop("cp.async.bulk.tensor")
        assert tma == 2 if target == "90" else not tma and all(counts.values()), (target, tma, counts)
