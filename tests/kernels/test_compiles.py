"""Every kernel, compiled ahead of time for GPUs that are not here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hornbook.benchmarks import aot

from .operations import OPERATIONS

pytestmark = pytest.mark.slow
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "aot"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """All kernels, shape classes, number formats and targets."""
    return aot.compile_all()


def name(row: dict[str, Any]) -> str:
    return f"{row['kernel']}, {row['shape']}, {row['dtype']}, sm_{row['target']}"


def head_dim(row: dict[str, Any]) -> int:
    return int(row["shape"].split()[1].rstrip(","))


def test_everything_compiles(rows: list[dict[str, Any]]) -> None:
    assert not [f"{name(r)}: {r['error']}" for r in rows if "error" in r]
    assert {r["target"] for r in rows} == set(aot.TARGETS)
    with_gradients = {operation.name for operation in OPERATIONS}
    assert {r["operation"] for r in rows} == with_gradients | {"sample_logits"}


def test_shared_memory_fits(rows: list[dict[str, Any]]) -> None:
    assert not [f"{name(r)}: {r['shared']} bytes" for r in rows if r["shared"] > aot.TARGETS[r["target"]]]


def may_spill(row: dict[str, Any]) -> bool:
    """The exceptions: wide heads, and fp32, whose products of matrices run without tensor cores."""
    return row["operation"] == "attention" and (row["dtype"] == "fp32" or head_dim(row) > 128)


def test_no_spills(rows: list[dict[str, Any]]) -> None:
    assert not [f"{name(r)}: {r['spilled']} bytes" for r in rows if r["spilled"] and not may_spill(r)]


def test_products_of_matrices_run_on_tensor_cores(rows: list[dict[str, Any]]) -> None:
    products = [r for r in rows if r["operation"] == "attention" and r["kernel"] != "attention_delta"]
    assert products
    for row in products:
        if row["dtype"] == "fp32":
            assert not row["tensor_core"], f"{name(row)}: fp32 is promised in full, tensor cores would cut it to tf32"
        else:
            assert row["tensor_core"], name(row)


# The exceptions: sums over rows, which are read column by column, and of which one row is written.
SUMS = ("layer_norm_dparameters", "pointwise_bias")


def test_rows_are_read_and_written_in_wide_pieces(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["operation"] not in ("attention", "sample_logits") and row["kernel"] not in SUMS:
            assert row["wide_loads"], name(row)
            assert row["wide_stores"], name(row)


def test_logits_are_read_in_wide_pieces(rows: list[dict[str, Any]]) -> None:
    """In the pass over the whole row. What is read again lies far apart, and what is written is a number a row."""
    for row in rows:
        if row["operation"] == "sample_logits":
            assert row["wide_loads"] >= 8, name(row)


def test_the_committed_table_is_of_these_kernels(rows: list[dict[str, Any]]) -> None:
    """benchmarks/results/aot lists what is compiled here; remake it by python -m hornbook.benchmarks.aot --out."""
    committed = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    assert committed
    mine = {name(r) for r in rows}
    for table in committed:
        assert {name(r) for r in table} == mine
