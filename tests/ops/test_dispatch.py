"""Who computes an operation, and how that is chosen."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator

import hornbook as hb
import pytest
import torch
from hornbook import native, ops
from hornbook.errors import ConfigError
from hornbook.ops import kernels_in_use, parse, use, use_kernels


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    with use_kernels("auto"):
        yield


def everywhere(implementation: str, **others: str) -> dict[str, str]:
    return dict.fromkeys(ops.OPERATIONS, implementation) | others


def test_public_names() -> None:
    assert hb.use_kernels is use_kernels
    assert hb.kernels_in_use is kernels_in_use


def test_every_operation_has_both() -> None:
    for op in ops.OPERATIONS:
        reference = getattr(importlib.import_module(f"hornbook.reference.{op}"), op)
        assert ops._function(op, "reference") is reference
        assert ops._function(op, "torch") is getattr(native, op)


def test_auto_runs_torch_here() -> None:
    use_kernels("auto")
    assert kernels_in_use() == everywhere("torch")


def test_a_plain_call_stays() -> None:
    use_kernels("reference")
    assert kernels_in_use() == everywhere("reference")
    use_kernels(attention="torch")
    assert kernels_in_use() == everywhere("reference", attention="torch")
    use_kernels("torch")  # for everything: what was chosen singly is forgotten
    assert kernels_in_use() == everywhere("torch")


def test_with_restores() -> None:
    use_kernels("torch", gelu="reference")
    before = kernels_in_use()
    with use_kernels("reference", attention="torch"):
        assert kernels_in_use() == everywhere("reference", attention="torch")
        with use_kernels(rope="torch"):
            assert kernels_in_use() == everywhere("reference", attention="torch", rope="torch")
        assert kernels_in_use() == everywhere("reference", attention="torch")
    assert kernels_in_use() == before


def fail() -> None:
    raise KeyError


def test_with_restores_after_an_error() -> None:
    use_kernels("torch")
    with pytest.raises(KeyError), use_kernels("reference"):
        fail()
    assert kernels_in_use() == everywhere("torch")


def test_the_choice_decides_who_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def spy(op: str, implementation: str) -> object:
        return lambda *a, **o: called.append((op, implementation))

    monkeypatch.setattr(ops, "_function", spy)
    with use_kernels("reference", gelu="torch"):
        ops.gelu(torch.ones(1))
        ops.relu2(torch.ones(1))
    ops.relu2(torch.ones(1))
    assert called == [("gelu", "torch"), ("relu2", "reference"), ("relu2", "torch")]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: use_kernels("torhc"), r"no implementation 'torhc'; did you mean 'torch'\?"),
        (lambda: use_kernels(attention="referense"), r"no implementation 'referense'; did you mean 'reference'\?"),
        (lambda: use_kernels(atention="torch"), r"no operation 'atention'; did you mean 'attention'\?"),
        (lambda: use_kernels("zzz"), "no implementation 'zzz'; known: auto, fused, reference, torch"),
        (lambda: use("reference,softmaxx=torch"), r"no operation 'softmaxx'; did you mean 'softmax'\?"),
        (lambda: parse("torch=attention"), "no operation 'torch'"),
        (lambda: parse("attention="), "no implementation ''"),
        (lambda: parse("attention:torch"), "no implementation 'attention:torch'"),
    ],
)
def test_unknown_names(call, message: str) -> None:
    use_kernels("reference", gelu="torch")
    with pytest.raises(ConfigError, match=message):
        call()
    assert kernels_in_use() == everywhere("reference", gelu="torch")


def test_fused_where_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(ops, "KERNELS", frozenset({"softmax"}))
    ops._say_once.cache_clear()
    with caplog.at_level("INFO", "hornbook"), use_kernels("fused"):
        assert kernels_in_use() == everywhere("torch", softmax="fused")
        kernels_in_use()
    lines = [r.getMessage() for r in caplog.records]
    assert len(lines) == len(set(lines)) == len(ops.OPERATIONS) - 1
    assert "gelu has no kernel" in " ".join(lines)
    with pytest.raises(ConfigError, match="gelu has no kernel"):
        use_kernels(gelu="fused")
    use_kernels(softmax="fused")  # it has one


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("reference", {"": "reference"}),
        ("torch,attention=reference", {"": "torch", "attention": "reference"}),
        (" torch , attention = reference ,", {"": "torch", "attention": "reference"}),
        ("rope=reference", {"rope": "reference"}),
        ("", {}),
    ],
)
def test_parse(text: str, choice: dict[str, str]) -> None:
    assert parse(text) == choice


def test_use_is_use_kernels_for_text() -> None:
    use("reference,attention=torch")
    assert kernels_in_use() == everywhere("reference", attention="torch")
    use("rope=torch")
    assert kernels_in_use() == everywhere("reference", attention="torch", rope="torch")


def test_environment() -> None:
    code = "import hornbook as hb; k = hb.kernels_in_use(); print(k['attention'], k['gelu'])"
    environment = {**os.environ, "HORNBOOK_KERNELS": "reference,gelu=torch"}
    output = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert output.stdout.split() == ["reference", "torch"]


def test_environment_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "_state", None)
    monkeypatch.setenv("HORNBOOK_KERNELS", "referense")
    with pytest.raises(ConfigError, match="did you mean 'reference'"):
        kernels_in_use()
    monkeypatch.setenv("HORNBOOK_KERNELS", "torch,rope=reference")
    assert kernels_in_use() == everywhere("torch", rope="reference")


def test_one_object_can_be_entered_twice() -> None:
    reference = use_kernels("reference")
    for _ in range(2):
        with reference:
            assert kernels_in_use()["gelu"] == "reference"
        assert kernels_in_use()["gelu"] == "torch"
