"""Every kernel through the harness: on the CPU in Triton's interpreter, on CUDA where there is a GPU."""

from __future__ import annotations

import pytest
import torch

from . import harness
from .harness import DTYPES, Case, Operation
from .operations import OPERATIONS

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
CASES = [(operation, case) for operation in OPERATIONS for case in operation.cases]

pytestmark = pytest.mark.parametrize("device", DEVICES)
each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=str)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


@pytest.fixture(autouse=True)
def _the_device_runs_kernels(device: str) -> None:
    from hornbook.kernels import interpreter

    if device == "cpu" and not interpreter.is_on():
        pytest.skip("kernels run on the GPU here, and the interpreter is off")


@each_dtype
@pytest.mark.parametrize(("operation", "case"), CASES, ids=str)
def test_accuracy(operation: Operation, case: Case, dtype: torch.dtype, device: str) -> None:
    if case.gpu_only and device == "cpu":
        pytest.skip("too much for the interpreter")
    harness.check_accuracy(operation, case, dtype, device)


@each_operation
@each_dtype
def test_it_is_repeatable(operation: Operation, dtype: torch.dtype, device: str) -> None:
    harness.check_repeatable(operation, dtype, device)


@each_operation
@each_dtype
def test_inputs_may_have_gaps(operation: Operation, dtype: torch.dtype, device: str) -> None:
    harness.check_strided(operation, dtype, device)


@each_operation
@each_dtype
def test_inputs_want_gradients_one_by_one(operation: Operation, dtype: torch.dtype, device: str) -> None:
    harness.check_one_by_one(operation, dtype, device)


@each_dtype
@pytest.mark.parametrize(("operation", "case"), [(o, c) for o in OPERATIONS for c in o.empty], ids=str)
def test_inputs_may_be_empty(operation: Operation, case: Case, dtype: torch.dtype, device: str) -> None:
    harness.check_empty(operation, case, dtype, device)


@each_operation
def test_pytorch_knows_the_operators(operation: Operation, device: str) -> None:
    harness.check_registered(operation, torch.float32, device)


@each_operation
def test_it_compiles_without_a_break(operation: Operation, device: str) -> None:
    harness.check_compiled(operation, torch.float32, device)


@each_operation
def test_it_exports(operation: Operation, device: str) -> None:
    harness.check_exported(operation, torch.float32, device)


@each_operation
def test_it_can_be_checkpointed(operation: Operation, device: str) -> None:
    harness.check_checkpointed(operation, torch.float32, device)


def test_heads_may_lie_far_apart(device: str) -> None:
    """Further than 32 bits can count numbers: the last heads are where a product of ints would have wrapped around."""
    from hornbook.kernels.attention import attention
    from hornbook.reference.attention import attention as reference

    stride, H = 1 << 25, 66
    memory = torch.empty(H * stride, dtype=torch.float16, device=device)  # 4 GB, of which few pages are touched
    far = memory.as_strided((1, 3, H, 16), (0, 16, stride, 1))
    near = torch.randn(1, 3, H, 16).to(far)
    far.copy_(near)
    torch.testing.assert_close(attention(far, far, far), reference(near, near, near), atol=2e-3, rtol=2e-3)
