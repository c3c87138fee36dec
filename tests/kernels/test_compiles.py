"""Every kernel, compiled ahead of time for GPUs that are not here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import triton
from hornbook.benchmarks import aot
from hornbook.kernels import norms, norms_backward

from .operations import OPERATIONS

pytestmark = pytest.mark.slow
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "aot"


TARGETS = (90,) if triton.__version__.startswith("3.6.") else ()  # none named are all
MULTIPROCESSORS = 132  # of an H100 and H200
OUTCOME = (
    "warps", "stages", "registers", "spilled", "shared", "programs", "loads", "wide_loads", "bytes", "stores",
    "wide_stores", "tensor_core",
)  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """All kernels, shape classes, number formats and targets; with the oldest Triton, that of the machines that are
    measured on, those of sm_90. What compiles otherwise for other targets there, a newer one is asked."""
    return aot.compile_all(targets=TARGETS)


def name(row: dict[str, Any]) -> str:
    return ", ".join(filter(None, (row["kernel"], row["shape"], row["variant"], row["dtype"], f"sm_{row['target']}")))


def head_dim(row: dict[str, Any]) -> int:
    return int(row["shape"].split()[1].rstrip(","))


def test_everything_compiles(rows: list[dict[str, Any]]) -> None:
    assert not [f"{name(r)}: {r['error']}" for r in rows if "error" in r]
    assert {r["target"] for r in rows} == set(TARGETS or aot.TARGETS)
    with_gradients = {operation.name for operation in OPERATIONS}
    assert {r["operation"] for r in rows} == with_gradients | {"decode_attention", "sample_logits"}


def test_shared_memory_fits(rows: list[dict[str, Any]]) -> None:
    assert not [f"{name(r)}: {r['shared']} bytes" for r in rows if r["shared"] > aot.TARGETS[r["target"]]]


# Bytes a thread, in rows that fill the registers: where some 8 bytes fewer let one more program into a multiprocessor
# (at 40, 48, 64, 80, 128 or 168 registers), the assembler moves these to memory of its own accord. Beside dw and db of
# 16,384 columns, which are half of all registers, it has to, and beside 32,768 columns in fp32.
SMALL_SPILLS = {
    "add_norm_rows": 8,
    "attention_backward_kv": 48,  # of documents, and of heads in two pieces
    "attention_forward": 32,
    "cross_entropy_rows": 8,
    "cross_entropy_long_row": 16,
    "decode_attention_split": 8,
    "layer_norm_rows": 8,
    "norm_backward_rows": 8,
    "norm_backward_wide_rows": 72,
    "norm_long_row": 16,
    "rms_norm_rows": 8,
    "softmax_backward_long_row": 8,
    "softmax_backward_rows": 48,
    "softmax_long_row": 8,
    "softmax_rows": 40,
}


def may_spill(row: dict[str, Any]) -> bool:
    """The other exceptions: wide heads, and fp32, whose products of matrices run without tensor cores."""
    if row["operation"] in ("attention", "decode_attention") and (row["dtype"] == "fp32" or head_dim(row) > 128):
        return True
    most = SMALL_SPILLS.get(row["kernel"], 0)
    if row["target"] == 90:  # goals are about sm_90
        most = 0 if row["operation"] == "attention" else min(most, 40)
    return row["spilled"] <= most


def test_no_spills(rows: list[dict[str, Any]]) -> None:
    assert not [f"{name(r)}: {r['spilled']} bytes" for r in rows if r["spilled"] and not may_spill(r)]


def test_products_of_matrices_run_on_tensor_cores(rows: list[dict[str, Any]]) -> None:
    without = ("attention_delta", "decode_attention_merge")
    products = [r for r in rows if r["operation"].endswith("attention") and r["kernel"] not in without]
    assert products
    for row in products:
        if row["dtype"] == "fp32":
            assert not row["tensor_core"], f"{name(row)}: fp32 is promised in full, tensor cores would cut it to tf32"
        else:
            assert row["tensor_core"], name(row)


# Of these little is written: a number a row, or one row. (And `pointwise_bias` reads column by column.)
SUMS = ("count_targets", "norm_long_row_means", "norm_sum_parts", "pointwise_bias")


def writes_a_number_a_row(row: dict[str, Any]) -> bool:
    """A loss; where a gradient is made there are more stores."""
    return row["kernel"] in SUMS or (row["kernel"].startswith("cross_entropy_") and row["stores"] == 1)


def test_rows_are_read_and_written_in_wide_pieces(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["operation"] not in ("attention", "decode_attention", "sample_logits"):
            assert row["wide_loads"] or row["kernel"] == "pointwise_bias", name(row)
            assert row["wide_stores"] or writes_a_number_a_row(row), name(row)


def test_logits_are_read_in_wide_pieces(rows: list[dict[str, Any]]) -> None:
    """In the pass over the whole row. What is read again lies far apart, and what is written is a number a row."""
    for row in rows:
        if row["operation"] == "sample_logits":
            assert row["wide_loads"] >= 8, name(row)


def test_keys_and_values_are_read_in_wide_pieces(rows: list[dict[str, Any]]) -> None:
    """All but a length, and the numbers of pages: enough on their way to keep an H200's memory busy."""
    for row in rows:
        if row["kernel"] == "decode_attention_split":
            narrow = row["loads"] - row["wide_loads"]
            assert "pages" in row["shape"] or "alibi" in row["shape"] or narrow <= 2, name(row)
            assert row["wide_loads"] >= 5, name(row)


def test_the_fixed_grid_of_norms_fills_an_h200(rows: list[dict[str, Any]]) -> None:
    """All programs run at once, or in full waves: in a last wave of few the other multiprocessors would wait."""
    seen = 0
    for row in rows:
        if row["kernel"] == "norm_backward_rows" and row["target"] == 90:
            tile = norms.tile(int(row["shape"].split()[0]), norms_backward.TABLE)
            assert tile is not None
            at_once = MULTIPROCESSORS * row["programs"]
            assert tile.programs <= at_once or tile.programs % at_once == 0, name(row)
            seen += 1
    assert seen


def test_the_committed_table_is_of_these_kernels(rows: list[dict[str, Any]]) -> None:
    """benchmarks/results/aot lists what is compiled here, and that of this Triton with the same outcome; remake it by
    python -m hornbook.benchmarks.aot --out."""
    committed = {p.stem: aot.unpacked(p.read_text(encoding="utf-8")) for p in sorted(RESULTS.glob("*.json"))}
    assert committed
    mine = {aot.key(r): r for r in rows}
    assert len(mine) == len(rows), "a row's key is its own"
    compiled = {(r["target"], r["dtype"]) for r in rows}
    for version, table in committed.items():
        assert len({aot.key(r) for r in table}) == len(table)
        assert {aot.key(r) for r in table if (r["target"], r["dtype"]) in compiled} == mine.keys(), version
    this = f"triton-{'.'.join(triton.__version__.split('.')[:2])}"
    for row in committed.get(this, ()):
        if (row["target"], row["dtype"]) not in compiled:
            continue
        now = mine[aot.key(row)]
        changed = {column: (row[column], now.get(column)) for column in OUTCOME if row[column] != now.get(column)}
        assert not changed, f"{name(row)}: {changed}"
