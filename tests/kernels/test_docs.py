"""docs/kernels.md tells how to add a kernel: what it says is done here, word for word."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hornbook import native
from hornbook.kernels import interpreter
from hornbook.reference.relu2 import relu2 as reference_relu2

from . import harness
from .harness import WIDTHS, Case, Operation
from .test_harness import DEVICE, load

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"


def blocks() -> list[str]:
    return [textwrap.dedent(b) for b in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Operation:
    file, entry = blocks()
    # Under a name of its own, so that whoever adds the kernel of this page for good does not meet it here.
    path = tmp_path_factory.mktemp("toy") / "toy_relu2.py"
    path.write_text(re.sub(r'(library\.operator\(\s*")', r"\1toy_", file), encoding="utf-8")
    relu2: ModuleType = load(path)
    names = {"relu2": relu2, "reference_relu2": reference_relu2, "native": native}
    names |= {"Operation": Operation, "Case": Case, "WIDTHS": WIDTHS}
    exec(entry, names)
    operation = names["RELU2"]
    assert isinstance(operation, Operation)
    return operation


@pytest.mark.parametrize("dtype", harness.DTYPES, ids=str)
def test_the_toy_passes_all_that_a_kernel_must_pass(toy: Operation, dtype: torch.dtype) -> None:
    for case in toy.cases:
        harness.check_accuracy(toy, case, dtype, DEVICE)
    for case in toy.empty:
        harness.check_empty(toy, case, dtype, DEVICE)
    harness.check_repeatable(toy, dtype, DEVICE)
    harness.check_strided(toy, dtype, DEVICE)


def test_the_toy_is_an_operator(toy: Operation) -> None:
    harness.check_registered(toy, torch.float32, DEVICE)
    harness.check_compiled(toy, torch.float32, DEVICE)
    registered = dataclasses.replace(toy, name="toy_relu2")
    harness.check_exported(registered, torch.float32, DEVICE)
    harness.check_checkpointed(registered, torch.float32, DEVICE)


def test_the_page_names_what_there_is() -> None:
    from hornbook import ops

    page = PAGE.read_text(encoding="utf-8")
    for word in ops.IMPLEMENTATIONS:
        assert f"| `{word}` |" in page
    assert interpreter.VARIABLE == "TRITON_INTERPRET"
