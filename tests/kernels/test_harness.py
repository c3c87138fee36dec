"""The harness itself: mistakes that are planted into the kernels' source must not get through it."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import hornbook.kernels
import pytest
import torch
from hornbook.kernels import interpreter

from . import harness
from .harness import Operation
from .operations import (
    ADD_NORM,
    ATTENTION,
    CROSS_ENTROPY,
    GELU,
    LAYER_NORM,
    LINEAR_CROSS_ENTROPY,
    OPERATIONS,
    RELU2,
    RMS_NORM,
    ROPE,
    SOFTMAX,
    SWIGLU,
)

DEVICE = "cpu" if interpreter.is_on() else "cuda"
pytestmark = pytest.mark.once  # it is the harness that is tested, and not what runs the kernels


def with_cases(*names: str) -> Operation:
    """Attention with those of its cases only whose names have these parts: whoever plants a mistake need not wait."""
    found = [case for name in names for case in ATTENTION.cases if name in str(case) and not case.gpu_only]
    assert len(found) >= len(names)
    return dataclasses.replace(ATTENTION, cases=found)


WINDOWS = with_cases(*(f"q1x130x2x32,k1x130x1x32,v1x130x1x32,window={w},causal=True" for w in (20, 100)))
DOCUMENTS = with_cases("q1x65x1x32,k1x65x1x32,v1x65x1x32,document")
MIXED = with_cases("q1x150x2x32")
GROUPS = with_cases("q2x33x4x16")
TWO_PARTS = with_cases("q1x40x1x72")
CAPPED = with_cases("softcap=1.5")
WITH_LSE = with_cases("q1x70x64,k1x70x64")

# (operation, what the source says, what it is made to say)
PLANTS = {
    "a wrong mask": (ATTENTION, "seen & (j <= p)", "seen & (j < p)"),
    "a window one too wide": (WINDOWS, "j > p - window", "j >= p - window"),
    "keys that are said to be seen by all": (WINDOWS, "tl.minimum(T_k, first + 1)", "tl.minimum(T_k, last + 1)"),
    "documents that see each other": (DOCUMENTS, "seen & (start_p == start_j)", "seen"),
    "documents whose tokens are said not to mix": (MIXED, "tl.where(whole != 0, inner_end, 0)", "inner_end"),
    "a slope of scores that are not capped": (CAPPED, "1.0 - t * t", "1.0"),
    "a gradient of the log-sum-exp that is lost": (WITH_LSE, "HAS_DL=dl is not None", "HAS_DL=False"),
    "half of the channels": (TWO_PARTS, "dp = tl.dot(v2, tl.trans(do2), dp, input_precision=DOT)", "dp += 0.0"),
    "another key-value head": (GROUPS, "head(K, k_b, k_h, b, h // (H // H_kv))", "head(K, k_b, k_h, b, h % H_kv)"),
    "a missing scale": (SOFTMAX, "dx = scale * y * (dy", "dx = y * (dy"),
    "an unmasked tail": (
        LAYER_NORM,
        "c = tl.where(k * BLOCK + tl.arange(0, BLOCK)[None, :] < n_cols, c, 0.0)",
        "c += 0",
    ),
    "bf16 accumulation": (
        ATTENTION,
        "acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None], input_precision=DOT)",
        "acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None], input_precision=DOT).to(tl.bfloat16).to(tl.float32)",
    ),
    "a dropped gradient term": (LAYER_NORM, "(-r * mean_gx) + -r * mean_g)", "(-r * mean_gx))"),
    "no maximum": (SOFTMAX, "tl.exp2((x - m) * scale)", "tl.exp2(x * scale)"),
    "a scale below 0 that is not": (SOFTMAX, 'NEGATIVE": scale < 0', 'NEGATIVE": False'),
    "a variance that cancels": (
        LAYER_NORM,
        "norms.total_of_squares(x, PIECES) / n_cols + eps)",
        "norms.total_of_squares(norms.read(X, row, n_rows, n_cols, BLOCK, PIECES), PIECES) / n_cols - mean * mean"
        " + eps)",
    ),
    "a load without its mask": (
        SOFTMAX,
        "(row < n_rows) & readable(col, seen, n_cols, CAUSAL), NEGATIVE",
        "readable(col, seen, n_cols, CAUSAL), NEGATIVE",
    ),
    "targets that should be ignored": (
        CROSS_ENTROPY,
        "counts = (row < n_rows) & (t != ignore_index)",
        "counts = row < n_rows",
    ),
    "a mean of all targets": (
        CROSS_ENTROPY,
        "(tl.load(Targets + row, mask=row < n_rows, other=ignore_index) != ignore_index)",
        "(row < n_rows)",
    ),
    "a gradient of the sum": (CROSS_ENTROPY, "share = 1 / tl.maximum(count, 1.0)", "share = 1.0"),
    "a gradient without the z-loss": (CROSS_ENTROPY, "p * (share * (1 + 2 * z_loss * log_z))", "p * share"),
    "the slope of no soft-cap": (CROSS_ENTROPY, "d * ((1 - y) * (1 + y))", "d"),
    "a target's logit read when it is overwritten": (
        CROSS_ENTROPY,
        "p_t = tl.exp2((x_t - m) * LOG2E)",
        "p_t = tl.exp2((tl.load(D + row * stride_d + t, mask=known, other=0.0).to(tl.float32) - m) * LOG2E)",
    ),
    "an upstream gradient that is lost": (LINEAR_CROSS_ENTROPY, "(x * g).to(", "x.to("),
    "a count that fp16 is not divided by": (LINEAR_CROSS_ENTROPY, "    if DIVIDED:", "    if False:"),
    "a sum that begins with what was there": (LINEAR_CROSS_ENTROPY, "first=start == 0", "first=False"),
    "a store without its mask": (
        LAYER_NORM,
        "tl.store(Statistics + n_rows + row, mean, mask=row < n_rows)",
        "tl.store(Statistics + n_rows + row, mean)",
    ),
    "a mean over the block": (RMS_NORM, "PIECES) / n_cols + eps)", "PIECES) / (BLOCK * PIECES) + eps)"),
    "a missing eps": (RMS_NORM, "PIECES) / n_cols + eps)", "PIECES) / n_cols)"),
    "a part that is not added up": (RMS_NORM, "(part < parts) & ", "(part < parts - 1) & "),
    "a row too many": (RMS_NORM, "inside = row < n_rows\n", "inside = row <= n_rows\n"),
    "a sum in the wrong format": (ADD_NORM, "x[k].to(tl.float32)).to(H.", "x[k].to(tl.float32)).to(X."),
    "a gradient of the sum that is left out": (
        ADD_NORM,
        "dx += norms.read_piece(DH, k, row, n_rows, n_cols, BLOCK, PIECES).to(tl.float32)",
        "dx += 0.0",
    ),
    "a slope without its second term": (GELU, "normal_distribution(z) + z * density", "normal_distribution(z)"),
    "a tanh where erf was asked for": (GELU, '"none": (exact, exact_slope)', '"none": (tanh, tanh_slope)'),
    "an exponential that overflows": (GELU, "tl.exp2(-tl.abs(v))", "tl.exp2(-v)"),
    "a forgotten factor": (RELU2, "return 2.0 * rectified(z)", "return rectified(z)"),
    "a bias that is forgotten on the way back": (
        RELU2,
        "pointwise.backward(x, bias, dy,",
        "pointwise.backward(x, None if bias is None else bias * 0, dy,",
    ),
    "halves that are mixed up": (
        SWIGLU,
        "gate, up = in_rows(gate).chunk(2, dim=-1)",
        "up, gate = in_rows(gate).chunk(2, dim=-1)",
    ),
    "gradients of halves that lie too close": (SWIGLU, "(2 if up is None else 1)", "1"),
    "a gate that is taken for linear": (SWIGLU, "s + g * (e * r * r)", "s"),
    "a gradient that is turned on": (ROPE, "stride_h, -1.0,", "stride_h, 1.0,"),
    "another position's angle": (ROPE, "position = (token % T)", "position = (token % T + (token >= T))"),
    "pairs of the other kind": (ROPE, "INTERLEAVED=interleaved", "INTERLEAVED=not interleaved"),
    "angles in the format of x": (
        ROPE,
        'other=float("nan")).to(tl.float32)[:, None, :]\n',
        'other=float("nan")).to(tl.bfloat16).to(tl.float32)[:, None, :]\n',
    ),
}
# The same for what `check_strided` is to notice.
DENSE_ONLY = {
    "softmax": (SOFTMAX, "dy = dy.contiguous()", "dy = dy"),
    "layer_norm": (LAYER_NORM, "dy.contiguous()", "dy"),
    "add_norm": (ADD_NORM, "dh.contiguous()", "dh"),
    "attention": (ATTENTION, "do, o = do.contiguous(), o.contiguous()", "do, o = do, o.contiguous()"),
    "swiglu": (SWIGLU, "dy.contiguous()", "dy"),
    "rope": (
        ROPE,
        "_turn(rope_backward, dy,",
        "_turn(rope_backward, dy.as_strided(dy.shape, torch.empty(dy.shape).stride()),",
    ),
}


def changed(operation: Operation, before: str, after: str, folder: Path) -> Operation:
    """The operation with its kernels' source changed, registered with PyTorch under another name."""
    files = [*operation.files, operation.name]
    sources = [(Path(hornbook.kernels.__path__[0]) / f"{file}.py").read_text(encoding="utf-8") for file in files]
    assert any(before in s for s in sources), (
        f"{files} no longer say {before!r}: plant the mistake where it now belongs"
    )
    prefix = f"planted_{operation.name}_{abs(hash((before, after)))}_"
    with pytest.MonkeyPatch.context() as patch:
        for file, source in zip(files, sources, strict=True):
            source = re.sub(r'(library\.operator\(\s*f?")', rf"\1{prefix}", source.replace(before, after))
            (folder / f"{prefix}{file}.py").write_text(source, encoding="utf-8")
            module = load(folder / f"{prefix}{file}.py")
            patch.setattr(hornbook.kernels, file, module)  # which is what the next file imports, in the one way
            patch.setitem(sys.modules, f"hornbook.kernels.{file}", module)  # and in the other
    return dataclasses.replace(operation, fused=getattr(module, operation.name))


def load(path: Path) -> ModuleType:
    """A file as a module of hornbook.kernels, so that its relative imports work."""
    spec = importlib.util.spec_from_file_location(f"hornbook.kernels.{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def is_caught(operation: Operation) -> bool:
    """Whether in one case at least, in any number format, the accuracy is not what is promised."""
    for case in operation.cases:
        size = max(max(shape, default=0) for shape in case.shapes.values())
        if size > 160 and DEVICE == "cpu":
            continue
        for dtype in harness.DTYPES:
            try:
                harness.check_accuracy(operation, case, dtype, DEVICE)
            except (AssertionError, interpreter_error()) as error:
                if "launched" not in str(error):  # a planted mistake is a kernel, too
                    return True
    return False


@pytest.mark.parametrize("plant", DENSE_ONLY)
def test_gradients_that_are_taken_to_be_dense(plant: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="differs for an upstream gradient"):
        harness.check_strided(changed(*DENSE_ONLY[plant], tmp_path), torch.float32, DEVICE)


def test_a_reference_in_the_place_of_one_gradient_is_noticed() -> None:
    """Only dq comes from our kernel."""

    def half_ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return ATTENTION.fused(q.detach(), k, v) + ATTENTION.reference(q, k.detach(), v.detach()) * 0

    fake = dataclasses.replace(ATTENTION, fused=half_ours, backward=("attention_backward_q", "no_such_kernel"))
    with pytest.raises(AssertionError, match="no_such_kernel was not launched"):
        harness.check_accuracy(fake, ATTENTION.typical, torch.float32, DEVICE)


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_mistake_is_caught(plant: str, tmp_path: Path) -> None:
    operation, before, after = PLANTS[plant]
    assert is_caught(changed(operation, before, after, tmp_path))


def test_planting_as_such_breaks_nothing(tmp_path: Path) -> None:
    for operation in {operation.name: operation for operation in OPERATIONS}.values():
        assert not is_caught(dataclasses.replace(operation, cases=[operation.typical]))
        first = "from __future__ import annotations"
        same = changed(operation, first, f"{first}  # the same", tmp_path)
        harness.check_accuracy(same, operation.typical, torch.float32, DEVICE)


def interpreter_error() -> type[Exception]:
    """What the interpreter makes of an exception inside a kernel."""
    from triton.runtime.errors import InterpreterError

    return InterpreterError


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_a_reference_is_not_taken_for_a_kernel(operation: Operation) -> None:
    fake = dataclasses.replace(operation, fused=operation.reference)
    for check in (harness.check_accuracy, harness.check_repeatable, harness.check_strided, harness.check_compiled):
        arguments = (operation.typical,) if check is harness.check_accuracy else ()
        with pytest.raises(AssertionError, match="was not launched"):
            check(fake, *arguments, torch.float32, DEVICE)  # type: ignore[operator]


def test_memory_that_was_not_written_is_noticed() -> None:
    def half_written(x: torch.Tensor, **_: object) -> torch.Tensor:
        y = SOFTMAX.fused(x.detach()) + 0 * x
        return torch.cat((y[:-1], torch.empty_like(y[-1:])))

    fake = dataclasses.replace(SOFTMAX, fused=half_written, backward=())
    with pytest.raises(AssertionError, match="not finite"):
        harness.check_accuracy(fake, harness.Case({"x": (3, 8)}), torch.float32, DEVICE)


def test_a_unit_in_the_last_place() -> None:
    assert harness.ulp(torch.float32, 1.0) == 2**-23
    assert harness.ulp(torch.bfloat16, 3.9) == 2**-6
    assert harness.ulp(torch.float16, 0.25) == 2**-12
