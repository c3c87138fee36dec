"""docs/adding-a-kernel.md tells how to add a kernel: what it says is done here, word for word."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import pytest
import torch
from hornbook.kernels import interpreter

from . import harness
from .harness import Operation
from .test_harness import DEVICE, load

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-kernel.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Operation:
    """The page's three files, the first two as if they were where they belong."""
    reference, kernel, entry = blocks()
    kernel = re.sub(r'(library\.operator\(\s*")', r"\1toy_", kernel)  # PyTorch keeps names for good
    folder = tmp_path_factory.mktemp("toy")
    names = {"__package__": f"{__package__}.operations"}  # ..harness is the one beside this file
    with pytest.MonkeyPatch.context() as patch:
        for place, source in (("reference", reference), ("kernels", kernel)):
            path = folder / f"toy_{place}.py"
            path.write_text(source, encoding="utf-8")
            patch.setitem(sys.modules, f"hornbook.{place}.relu", load(path))
        exec(entry, names)
    operation = names["RELU"]
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
    registered = dataclasses.replace(toy, name="toy_relu")
    harness.check_exported(registered, torch.float32, DEVICE)
    harness.check_checkpointed(registered, torch.float32, DEVICE)


def test_the_page_names_what_there_is() -> None:
    from hornbook import ops

    page = PAGE.with_name("kernels.md").read_text(encoding="utf-8") + PAGE.read_text(encoding="utf-8")
    for word in ops.IMPLEMENTATIONS:
        assert f"| `{word}` |" in page
    root = PAGE.parents[1]
    files = re.findall(r"`((?:python/hornbook|kernels|tests/kernels|benchmarks)/[\w/.]+\.(?:py|md))`", page)
    assert len(files) > 5
    for file in files:
        there = root / file.replace("/relu.py", "/relu2.py")  # where the example's files would be, this one's are
        assert there.is_file(), file
    assert interpreter.VARIABLE == "TRITON_INTERPRET"
