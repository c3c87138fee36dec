"""What is special about losses: gradients that are made in the forward pass, over the logits, and by chunks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hornbook.kernels import cross_entropy as losses
from hornbook.kernels import interpreter, library
from hornbook.kernels import linear_cross_entropy as linear
from hornbook.reference.cross_entropy import cross_entropy as reference
from torch import Tensor
from torch import library as operators
from torch.utils._python_dispatch import TorchDispatchMode

from . import harness

DEVICE = "cpu" if interpreter.is_on() else "cuda"
pytestmark = pytest.mark.skipif(
    not interpreter.is_on() and not torch.cuda.is_available(), reason="needs a GPU, or the interpreter"
)
each_width = pytest.mark.parametrize("width", [65, 40_000])  # held whole, and in chunks
each_dtype = pytest.mark.parametrize("dtype", harness.DTYPES, ids=lambda d: str(d).removeprefix("torch."))


def inputs(rows: int, width: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=random).to(dtype).to(DEVICE).requires_grad_()
    t = torch.randint(width, (rows,), generator=random)
    t[1] = -100
    return x, t.to(DEVICE)


def slope(x: Tensor, t: Tensor, g: float, **options: Any) -> Tensor:
    """The gradient of g times the loss, from the reference."""
    wide = x.detach().double().requires_grad_()
    (found,) = torch.autograd.grad(reference(wide, t, **options) * g, wide)
    return found.to(x.dtype)


def close(got: Tensor, want: Tensor) -> None:
    tolerance = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[got.dtype]
    assert (got - want).abs().max() <= tolerance * want.abs().max()


@each_dtype
@each_width
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_graph_that_is_kept_gives_the_gradient_again(reduction: str, width: int, dtype: torch.dtype) -> None:
    x, t = inputs(5, width, dtype)
    loss = losses.cross_entropy(x, t, reduction=reduction, label_smoothing=0.1, softcap=4.0).sum()
    want = slope(x, t, 1.0, reduction=reduction if reduction == "mean" else "sum", label_smoothing=0.1, softcap=4.0)
    for g in (2.0, 1.0, 0.5):
        (got,) = torch.autograd.grad(loss, x, torch.tensor(g, device=DEVICE), retain_graph=True)
        close(got, want * g)
        got.fill_(math.nan)  # it is the caller's


@each_width
def test_a_gradient_of_one_is_not_touched(width: int) -> None:
    x, t = inputs(5, width, torch.bfloat16)
    loss = losses.cross_entropy(x, t)
    (made,) = [s for s in loss.grad_fn.saved_tensors if s.shape == x.shape and s is not x]
    before = made.clone()
    with harness.launching("scale_in_place"):
        (got,) = torch.autograd.grad(loss, x)
    assert got.data_ptr() == made.data_ptr(), "the buffer that forward filled is handed out"
    assert torch.equal(got, before)


@each_dtype
@each_width
def test_the_gradient_may_be_written_over_the_logits(width: int, dtype: torch.dtype) -> None:
    leaf, t = inputs(5, width, dtype)
    want = slope(leaf, t, 0.5)
    logits = leaf * 1
    loss = losses.cross_entropy(logits, t, inplace=True)
    assert float(loss) == pytest.approx(float(reference(leaf.detach().double(), t)), rel=1e-5)
    (got,) = torch.autograd.grad(loss, logits, torch.tensor(0.5, device=DEVICE), retain_graph=True)
    close(got, want)
    assert got.data_ptr() == logits.data_ptr()
    with pytest.raises(RuntimeError, match="inplace"):
        torch.autograd.grad(loss, logits)


@each_width
def test_a_parameter_is_not_written_over(width: int) -> None:
    """No more than PyTorch's own operations in place do it."""
    leaf, t = inputs(5, width)
    before = leaf.detach().clone()
    for same in (leaf, leaf.view(5, width), leaf[:]):
        for reduction in ("mean", "sum"):
            with pytest.raises(library.UnsupportedError, match="over a leaf"):
                losses.cross_entropy(same, t, reduction=reduction, inplace=True)
    losses.cross_entropy(leaf, t, reduction="none", inplace=True).sum().backward()
    with torch.no_grad():
        losses.cross_entropy(leaf, t, inplace=True)
    losses.cross_entropy(leaf.detach(), t, inplace=True)
    assert torch.equal(leaf, before)


def test_whoever_still_needs_the_logits_gets_an_error() -> None:
    leaf, t = inputs(5, 65)
    logits = leaf.exp()  # whose own gradient is made of its result
    loss = losses.cross_entropy(logits, t, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_compiled_the_gradient_is_the_same(reduction: str, inplace: bool) -> None:
    leaf, t = inputs(5, 65)
    want = slope(leaf, t, 2.0, reduction=reduction if reduction == "mean" else "sum")
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def call(leaf: Tensor, t: Tensor) -> Tensor:
        return losses.cross_entropy(leaf * 1, t, reduction=reduction, inplace=inplace).sum() * 2

    loss = call(leaf, t)
    for _ in range(2):
        (got,) = torch.autograd.grad(loss, leaf, retain_graph=True)
        close(got, want)


def test_the_operators_that_change_a_tensor_say_so() -> None:
    x, t = inputs(5, 65)
    x = x.detach()
    for reduction in ("mean", "sum", "none"):
        operators.opcheck(torch.ops.hornbook.cross_entropy_.default, (x, t, -100, reduction, 0.1, 0.0, None))
    counts = torch.full((losses.PARTS,), 2, dtype=torch.int32, device=DEVICE)
    for dtype in harness.DTYPES:
        g = torch.tensor(3.0, device=DEVICE)
        operators.opcheck(torch.ops.hornbook.cross_entropy_scale_.default, (x.to(dtype), g, counts))


@each_width
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_an_unknown_id_is_noticed(reduction: str, width: int) -> None:
    """Nothing outside of the logits is read for it."""
    x, t = inputs(5, width)
    for unknown in (width, -1, 2**40, -(2**40)):
        t[3] = unknown
        with harness.within_bounds():
            loss = losses.cross_entropy(x, t, reduction=reduction)
            (gradient,) = torch.autograd.grad(loss.sum(), x)
        rows = [False, False, False, True, False]
        assert loss.isnan().tolist() == (rows if reduction == "none" else True)
        assert gradient.isnan().all(1).tolist() == gradient.isnan().any(1).tolist() == rows


@each_width
def test_the_mean_of_nothing_is_nan_and_its_gradient_0(width: int) -> None:
    for dtype in harness.DTYPES:
        x, t = inputs(3, width, dtype)
        loss = losses.cross_entropy(x, torch.full_like(t, -100))
        assert loss.isnan()
        (got,) = torch.autograd.grad(loss, x)
        assert not got.any()


@each_width
def test_rows_may_lie_further_apart(width: int) -> None:
    x, t = inputs(5, width + 23)
    part = x[:, :width]
    t.clamp_(max=width - 1)
    tight = part.detach().contiguous().requires_grad_()
    for reduction in ("mean", "none"):
        a, b = (losses.cross_entropy(y, t, reduction=reduction).sum() for y in (part, tight))
        assert torch.equal(a, b)
        (wide,), (close_,) = torch.autograd.grad(a, x), torch.autograd.grad(b, tight)
        assert torch.equal(wide[:, :width], close_)
        assert not wide[:, width:].any()


def test_targets_may_be_int32() -> None:
    x, t = inputs(5, 65)
    assert torch.equal(losses.cross_entropy(x, t.int()), losses.cross_entropy(x, t))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reduction": "avg"}, "'avg'"),
        ({"label_smoothing": 1.5}, "from 0 to 1"),
        ({"softcap": 0.0}, "above 0"),
        ({"targets": torch.zeros(4, dtype=torch.int64)}, "5 rows"),
        ({"targets": torch.zeros(5)}, "float32"),
        ({"logits": torch.zeros(5, 0)}, "above 0"),
        ({"logits": torch.zeros(5)}, "V above 0"),
        ({"logits": torch.zeros(5, 7, dtype=torch.float64)}, "float64"),
    ],
)
def test_what_is_refused(change: dict[str, Any], words: str) -> None:
    call: dict[str, Any] = {"logits": torch.zeros(5, 7), "targets": torch.zeros(5, dtype=torch.int64)} | change
    with pytest.raises(library.UnsupportedError, match=words):
        losses.cross_entropy(**call)


class _Calls(TorchDispatchMode):
    """Notes the names of PyTorch's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def test_nobody_waits_for_the_gpu() -> None:
    """No number is copied to where Python could look at it."""
    x, t = inputs(20, 65)
    w = torch.randn(33, 65, device=DEVICE, requires_grad=True)
    with _Calls() as calls:
        losses.cross_entropy(x, t).backward()
        linear.linear_cross_entropy(x, w, t % 33).backward()
    assert any("cross_entropy" in name for name in calls.names)
    assert not [
        name for name in calls.names if "_local_scalar_dense" in name or "nonzero" in name or "_to_copy" in name
    ]


@pytest.mark.parametrize(
    ("N", "V", "d", "rows"),
    [
        (8192, 128256, 4096, 4096),  # two chunks, as dW's own memory lends itself
        (65536, 50304, 768, 7296),
        (65536, 50304, 0, 6016),
        (1000, 50304, 0, 100),
        (20, 33, 24, 20),
        (1, 1 << 20, 0, 1),
    ],
)
def test_chunks(N: int, V: int, d: int, rows: int) -> None:
    assert linear.chunk_rows(N, V, d) == rows


@pytest.mark.parametrize("d", [0, 1, 768, 4096])
def test_a_chunk_is_a_tenth_at_most(d: int) -> None:
    for N in (1, 2, 100, 1279, 1280, 8192, 10_007, 65_536):
        for V in (50_257, 128_256, 1 << 18):
            rows = linear.chunk_rows(N, V, d)
            assert 1 <= rows <= max(1, N // 10 + d, linear.FEW // V)
            assert rows % 128 == 0 or rows < 128 or rows == -(-N // -(-N // rows))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("wants", ["x", "w", "xw"])
def test_memory_beyond_the_gradients_is_a_tenth_of_the_logits(wants: str, dtype: torch.dtype) -> None:
    N, V, d = 8192, 50304, 768
    x = torch.randn(N, d, device="cuda", dtype=torch.bfloat16, requires_grad="x" in wants)
    w = torch.randn(V, d, device="cuda", dtype=dtype, requires_grad="w" in wants)
    t = torch.randint(V, (N,), device="cuda")
    linear.linear_cross_entropy(x, w, t).backward()
    x.grad = w.grad = None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    linear.linear_cross_entropy(x, w, t).backward()
    torch.cuda.synchronize()
    more = torch.cuda.max_memory_allocated() - before
    gradients = sum(p.numel() * p.element_size() for p in (x, w) if p.requires_grad)
    allowed = gradients + (w.numel() * 4 if w.requires_grad else 0) + 0.1 * N * V * 2
    if dtype == torch.float32 and "w" not in wants:
        allowed += w.numel() * 2  # the copy of W in x's format
    assert more <= allowed + (1 << 20)
