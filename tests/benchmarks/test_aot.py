"""What the table of compiled kernels says beside what the compiler does."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import pytest
from hornbook.benchmarks import aot


@pytest.mark.parametrize(
    ("target", "warps", "registers", "shared", "programs"),
    [
        (90, 4, 32, 0, 16),  # 64 warps
        (80, 1, 16, 0, 32),  # 32 programs
        (89, 1, 16, 0, 24),
        (90, 4, 40, 0, 12),  # 1,280 registers a warp, so 12 of them in each quarter
        (90, 4, 41, 0, 10),  # registers are given 8 a thread at a time
        (90, 8, 128, 0, 2),
        (90, 32, 65, 0, 0),  # 7 warps in each quarter are not 8: it could not start
        (90, 4, 32, 48 * 1024, 4),  # 49 KB each
        (80, 4, 32, 166_912, 1),
        (89, 4, 32, 101_376, 1),
        (90, 4, 32, 232_448, 1),
    ],
)
def test_programs_of_a_multiprocessor(target: int, warps: int, registers: int, shared: int, programs: int) -> None:
    assert aot.programs(target, warps, registers, shared) == programs


@pytest.mark.parametrize(
    ("ptx", "size"),
    [
        ("ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];\nld.global.b16 { %rs1 }, [ %rd2 + 0 ];", 18),
        ("ld.global.L1::evict_last.v2.b64 { %rd1, %rd2 }, [ %rd3 + 0 ];", 16),
        ("ld.global.b32 {..}, [..];\nbar.sync 0;\n\tld.global.v2.b32 {..}, [..];", 8),
        ("ld.global.v4.b32 {..}, [..];\n$L__BB0_2:\n\tld.global.v2.b32 {..}, [..];", 16),
        (
            "cp.async.cg.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x10, %r2;\n"
            "cp.async.ca.shared.global [ %r1 ], [ %rd1 ], 0x8;",
            24,
        ),
        ("st.global.v4.b32 [..], {..};", 0),
    ],
)
def test_bytes_at_once(ptx: str, size: int) -> None:
    assert aot.bytes_at_once(ptx) == size


def fake_launch(arguments: dict[str, Any], constants: tuple[str, ...], warps: int = 4) -> Any:
    parameters = [
        types.SimpleNamespace(name=name, is_constexpr=name in constants, do_not_specialize=False) for name in arguments
    ]
    return types.SimpleNamespace(
        kernel=types.SimpleNamespace(params=parameters), arguments=arguments, options={"num_warps": warps}
    )


def test_launches_are_told_apart() -> None:
    """By their constants, if these are enough."""
    one, two, three = (
        fake_launch({"n": n, "B": 8, "MEAN": mean}, ("B", "MEAN")) for n, mean in ((7, True), (16, False), (5, False))
    )
    assert aot.variants([one]) == [""]
    assert aot.variants([one, two]) == ["MEAN=True", "MEAN=False"]
    assert aot.variants([one, two, three]) == ["n=i32 MEAN=True", "n=i32 x16 MEAN=False", "n=i32 MEAN=False"]
    wide = fake_launch({"n": 7, "B": 8, "MEAN": True}, ("B", "MEAN"), warps=8)
    assert aot.variants([one, wide]) == ["num_warps=4", "num_warps=8"]


def test_rows_come_back(tmp_path: Path) -> None:
    row = dict.fromkeys(aot.COLUMNS, 1) | {"kernel": "softmax_rows", "variant": ""}
    assert aot.unpacked(aot.packed([row, row])) == [row, row]
    failed = {name: row[name] for name in aot.KEY} | {"error": "no"}
    assert aot.unpacked(aot.packed([failed]))[0]["error"] == "no"
    assert len(json.loads(aot.packed([row]))["rows"]) == 1
    assert "softmax_rows" in aot.markdown([row])
