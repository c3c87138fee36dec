"""The goals of kernels: which rows they are about, when they are met, and how a whole run shows them; on a CPU."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hornbook.benchmarks import kernel_goals, kernel_report, kernels, operations, report, timing
from hornbook.benchmarks.operations import OPERATIONS, Case


def measured_row(operation: str, form: str, shape: tuple[int, ...], direction: str, **ms: float) -> dict[str, Any]:
    """A row in bf16 where the floor takes 1 ms."""
    times = {name.replace("_", "."): timing.Times(t, t, t, t, 5) for name, t in ms.items()}
    limits = {"copy": 1.0, "matmul": {"bf16": 1e30}}
    c = Case(fake_operation(operation), form, shape, "bf16")
    return kernels.row(c, direction, times, limits | {"copy": c.work(direction)[0] * 1000}, {}, {}, {})


def fake_operation(name: str) -> Any:
    """One that may not be there yet: only its name and its work count."""
    work = lambda shape, form, direction, size: (2 * math.prod(shape) * size, 0)  # noqa: E731
    return replace(OPERATIONS["softmax"], name=name, work=work, forms={"": {}})


@pytest.mark.parametrize(
    ("operation", "shape", "direction", "ms", "expected"),
    [
        ("layer_norm", (262144, 768), "forward", {"fused": 1 / 0.86}, [True]),
        ("rms_norm", (262144, 768), "forward", {"fused": 1 / 0.84}, [False]),
        ("add_norm", (65536, 2048), "forward", {"fused": 1 / 0.94}, [False]),
        ("add_norm", (65536, 2048), "forward", {"fused": 1 / 0.96}, [True]),
        ("rms_norm", (65536, 2048), "backward", {"fused": 1.1, "torch_compile": 2.3}, [True, True]),
        ("rms_norm", (65536, 2048), "backward", {"fused": 1.2, "torch_compile": 2.3}, [False, False]),
        ("rms_norm", (65536, 2048), "backward", {"fused": 1.1}, [True, None]),
        ("softmax", (4096, 32768), "backward", {"fused": 1.0, "QuACK": 1.1, "Liger": 0.9}, [True, False, True]),
        ("softmax", (4096, 32768), "forward", {"fused": 1.0}, [True]),  # nobody else is installed
        ("softmax", (4096, 65536), "forward", {"fused": 1 / 0.86}, [True]),
        ("cross_entropy", (4096, 32768), "both", {"fused": 1 / 0.9, "Liger": 4.0}, [False, True]),
        ("cross_entropy", (1024, 131072), "both", {"fused": 1 / 0.9}, [True, None]),
        ("gelu", (131072, 1024), "backward", {"fused": 1 / 0.94}, [False]),
        ("gelu", (65536, 3072), "backward", {"fused": 1.0}, [True]),
        ("swiglu", (65536, 3072), "backward", {"torch": 1.0}, [None]),  # ours failed
        ("gelu", (64, 256), "forward", {"fused": 1.0}, []),  # in the cache: no goal
        ("gelu", (65536, 3072), "both", {"fused": 1.0}, []),
    ],
)
def test_goals(operation: str, shape: tuple[int, ...], direction: str, ms: Any, expected: list[bool | None]) -> None:
    found = kernel_goals.of_row(measured_row(operation, "", shape, direction, **ms), "3.6.0")
    assert [check["met"] for check in found] == expected


@pytest.mark.parametrize("goal", [g for g in kernel_goals.GOALS if set(g.operations) & set(OPERATIONS)], ids=str)
def test_every_goal_is_about_rows_of_the_benchmark(goal: kernel_goals.Goal) -> None:
    rows = [
        {"operation": c.operation.name, "shape": c.shape, "dtype": c.dtype, "form": c.form, "direction": direction}
        for c in kernels.cases(dtypes=",".join(goal.dtypes))
        for direction in c.operation.directions
    ]
    assert any(map(goal.concerns, rows))


def test_goals_of_single_shapes() -> None:
    for form, dtype, met in (("all filters", "bf16", [True]), ("all filters", "fp32", [True]), ("top-p", "bf16", [])):
        c = Case(OPERATIONS["sample_logits"], form, (128, 128256), dtype)
        limits = {"copy": c.work("forward")[0] * 1000.0, "matmul": {dtype: 1.0}}
        r = kernels.row(c, "forward", {"fused": timing.Times(3.9, 3, 3, 3, 5)}, limits, {}, {}, {})
        assert [check["met"] for check in kernel_goals.of_row(r, "3.6.0")] == met
    for shape, ms, met in (
        ((8192, 128256, 4096), 1.14, True),
        ((8192, 4096, 128256), 1.16, False),
        ((65536, 50304, 768), 1.29, True),
    ):
        r = measured_row("linear_cross_entropy", "", shape, "both", fused=ms, matmuls=1.0)
        assert "matmuls" not in r["ms"]
        assert [check["met"] for check in kernel_goals.of_row(r, "3.6.0")] == [met]


def test_goals_that_depend_on_triton_and_on_being_right() -> None:
    r = measured_row("softmax", "", (4096, 65536), "forward", fused=1 / 0.9)
    assert [kernel_goals.of_row(r, triton)[0]["met"] for triton in ("3.6.0", "3.8.1", "3.10.0")] == [True, False, False]
    assert kernel_goals.of_row(r | {"verdict": "WRONG: fused"}, "3.6.0")[0]["met"] is False
    assert kernel_goals.words(kernel_goals.of_row(r, None)[0]) == "≥ 0.85 C: met (0.9)"
    assert "MISSED" in kernel_report.line(r | {"goals": kernel_goals.of_row(r, "3.9.0")})


def test_the_products_that_cannot_be_avoided() -> None:
    x, weight = torch.randn(5, 3, requires_grad=True), torch.randn(7, 3, requires_grad=True)
    call = kernel_goals.products("linear_cross_entropy", [x, weight])
    assert call is not None
    call()
    assert kernel_goals.products("softmax", [x]) is None


def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the whole of a run needs of a GPU, on a CPU: ours is PyTorch's, and nothing takes longer than it must."""

    def implementation(name: str, operation: str) -> Any:
        if name not in ("reference", "torch", "fused"):
            raise KeyError(name)
        return operations.implementation("torch" if name == "fused" else name, operation)

    clock = lambda *a, **o: lambda call: (call(), 1.0)[1]  # noqa: E731
    for where, what, with_ in (
        (kernels, "implementation", implementation),
        (timing, "CudaClock", clock),
        (timing, "copy_bandwidth", lambda *a: 1e9),
        (timing, "matmul_rate", lambda *a: 1e12),
        (timing, "captured", lambda call, calls: lambda: [call() for _ in range(calls)]),
        (timing, "kernel_time", lambda call: (call(), 0.98)[1]),
        (torch.cuda, "is_available", lambda: True),
        (torch.cuda, "empty_cache", lambda: None),
        (report, "require_compiler", lambda: None),
        (report, "machine", lambda: {"gpu": "Test Card", "date": "2026-01-02", "torch": "2", "triton": "3.6.0",
                                     "hornbook": "0"}),
    ):  # fmt: skip
        monkeypatch.setattr(where, what, with_)


def test_a_whole_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stand_ins(monkeypatch)
    todo = kernels.cases(only="layer_norm,sample_logits", shapes="layer_norm=6x33;sample_logits=5x40")
    easy = kernel_goals.Goal(
        ("layer_norm",), ("forward",), share=1e-12, shapes=(frozenset((6, 33)),), dtypes=("fp32",)
    )  # fmt: skip
    monkeypatch.setattr(kernel_goals, "GOALS", (easy,))
    todo = [replace(c, operation=replace(c.operation, block=((6, 33))), dtype="fp32") for c in todo]
    result = kernels._run(todo, None, tmp_path, device="cpu")
    assert [r["direction"] for r in result["rows"]] == ["forward", "backward", *["forward"] * 4]
    assert {r["verdict"] for r in result["rows"]} == {"ok"}
    assert set(result["overhead_us"]["layer_norm"]["fused"]) == {"forward", "backward"}
    assert set(result["overhead_us"]["sample_logits"]["fused"]) == {"forward"}
    assert result["blocks"]["layer_norm"]["ratio"] == pytest.approx(1 / 0.98)
    assert result["blocks"]["sample_logits"]["ratio"] == pytest.approx(1 / 0.98)
    said = capsys.readouterr().out
    digest = json.loads(said.splitlines()[-1])
    assert digest["goals"]["met"] + digest["goals"]["missed"] == 6  # a row's, two blocks', forward twice, backward once
    assert digest["goals"]["met"] >= 3
    assert "goal ≥ 1e-12 C: met" in said
    text = (tmp_path / "kernels.md").read_text(encoding="utf-8")
    assert "| layer_norm | forward ≤ 18 µs" in text
    assert "; backward ≤ 18 µs" in text
    assert "10 captured calls ≤ 1.05 × their kernels: met (1.02) | layer_norm 6x33 fp32 |" in text


def test_host_time_there_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way has its limit. A loss's backward is what it adds to forward; where none is, none is judged."""
    us = iter([19.0, 27.0, 10.0, 7.0, 8.0])
    monkeypatch.setattr(timing, "launch_overhead", lambda call, synchronize: (call(), next(us))[1])
    found = {
        name: kernels.overheads(OPERATIONS[name], ("torch",), "fp32", "cpu")
        for name in ("cross_entropy", "sample_logits")
    }
    assert found == {
        "cross_entropy": {"torch": {"forward": 10.0, "backward": 17.0}},
        "sample_logits": {"torch": {"forward": 7.0}},
    }
    slow = {"fused": {"forward": 17.0, "backward": 19.0}}
    checks = kernel_goals.of_host({"a": slow, "b": {"fused": {"forward": 18.5}}, "c": {"torch": slow["fused"]}})
    assert {name: [check["met"] for check in of] for name, of in checks.items()} == {
        "a": [True, False], "b": [False], "c": [None, None],
    }  # fmt: skip


def test_blocks_are_of_tensors_of_a_model() -> None:
    """So large that kernels are no shorter than in a model, and so small that time between them would be seen."""
    for operation in OPERATIONS.values():
        if operation.name != "linear_cross_entropy":
            assert 1 << 20 <= math.prod(operation.block) <= 1 << 26, operation.name


def test_a_run_ends_in_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first shape of everything comes first; what there is no time for is named."""
    stand_ins(monkeypatch)
    order = [str(c) for c in kernels.cases(only="softmax,attention", quick=True)]
    assert order.index("attention full 16x1024x12x64 bf16") < order.index("softmax 4096x50257 bf16")
    todo = [Case(OPERATIONS["softmax"], "", (4, n), "fp32") for n in (8, 9, 10)]
    clock = iter([0.0, 1.0, 185.0, 186.0, 220.0, 225.0])
    monkeypatch.setattr(kernels, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    result = kernels._run(todo, 4.0, tmp_path, device="cpu")
    assert result["left_out"] == ["softmax 4x9 fp32", "softmax 4x10 fp32", "softmax: host time"]
    assert kernel_report.digest(result)["left_out"] == 3
    assert "not run, so that the run ends in time: softmax 4x9 fp32" in kernel_report.markdown(result)
    assert (tmp_path / "softmax.svg").exists()


def test_compiling_stops_first_unless_a_goal_needs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_ins(monkeypatch)
    asked: dict[str, list[str]] = {}
    goal = kernel_goals.Goal(("layer_norm",), ("backward",), times=2.0, peers=("torch.compile",),
                             shapes=(frozenset((4, 9)),), dtypes=("fp32",))  # fmt: skip
    monkeypatch.setattr(kernel_goals, "GOALS", (goal,))
    monkeypatch.setattr(kernels, "measure_case", lambda c, *a, names, **o: asked.update({str(c): names}) or [])
    todo = [Case(OPERATIONS["layer_norm"], "", (4, n), "fp32") for n in (8, 9, 10)]
    clock = iter([0.0, 1.0, 120.0, 120.0, 239.0, 239.0])
    monkeypatch.setattr(kernels, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    kernels._run(todo, 4.0, tmp_path, device="cpu")
    assert {name: "torch.compile" in names for name, names in asked.items()} == {
        "layer_norm 4x8 fp32": True, "layer_norm 4x9 fp32": True, "layer_norm 4x10 fp32": False,
    }  # fmt: skip


def test_what_goals_need_comes_first() -> None:
    todo = kernels.in_order(kernels.cases(only="cross_entropy,linear_cross_entropy,sample_logits"))
    names = [str(c) for c in todo]
    assert sorted(names) == sorted(
        str(c) for c in kernels.cases(only="cross_entropy,linear_cross_entropy,sample_logits")
    )
    first = next(i for i in range(len(todo) + 1) if {g for c in todo[:i] for g in kernel_goals.about(c)} == {
        g for c in todo for g in kernel_goals.about(c)
    })  # fmt: skip
    assert first == 5  # rows below 64K and from there on, two shapes of the linear one, and a sample
    about = [any(kernel_goals.about(c)) for c in todo]
    assert about == sorted(about, reverse=True)


def test_parts_add_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another run in the same folder: its operations replace what was there of them, and the others stay."""
    stand_ins(monkeypatch)

    def part(name: str, *shapes: tuple[int, ...], dtype: str = "fp32") -> None:
        operation = replace(OPERATIONS[name], forms={"": {}}, block=(6, 33))
        kernels._run([Case(operation, "", shape, dtype) for shape in shapes], None, tmp_path, device="cpu")

    def found() -> tuple[dict[str, Any], list[str]]:
        result = json.loads((tmp_path / "kernels.json").read_text(encoding="utf-8"))
        return result, [kernel_report.title(r) for r in result["rows"] if r["direction"] == "forward"]

    part("layer_norm", (6, 33), (7, 33))
    part("softmax", (5, 8))
    assert found()[1] == ["softmax 5x8 fp32 forward", "layer_norm 6x33 fp32 forward", "layer_norm 7x33 fp32 forward"]
    part("layer_norm", (8, 33))
    part("layer_norm", (9, 33), dtype="bf16")
    result, titles = found()
    assert titles == ["softmax 5x8 fp32 forward", "layer_norm 8x33 fp32 forward", "layer_norm 9x33 bf16 forward"]
    assert set(result["overhead_us"]) == set(result["blocks"]) == {"softmax", "layer_norm"}
    assert [run["operations"] for run in result["runs"]] == [
        ["layer_norm"],
        ["softmax"],
        ["layer_norm"],
        ["layer_norm"],
    ]
    assert set(result["limits"]["matmul"]) == {"fp32", "bf16"}
    assert "the rows of 4 runs" in (tmp_path / "kernels.md").read_text(encoding="utf-8")
    assert {path.name for path in tmp_path.glob("*.svg")} == {"softmax.svg", "layer_norm.svg"}
    facts = report.machine()
    monkeypatch.setattr(report, "machine", lambda: facts | {"triton": "3.9.0"})
    part("softmax", (5, 9))
    assert found()[1] == ["softmax 5x9 fp32 forward"], "other versions: not to be mixed"


def test_what_was_left_out_may_be_measured_later() -> None:
    facts = dict.fromkeys(kernel_report.SAME, "x") | {"limits": {"copy": 1.0, "matmul": {}}}
    row = {"operation": "softmax", "form": "", "shape": [4, 8], "dtype": "bf16", "direction": "forward"}
    before = facts | {"rows": [], "left_out": ["softmax 4x8 bf16", "softmax 4x9 bf16", "softmax: host time"]}
    result = facts | {"rows": [row], "left_out": [], "overhead_us": {"softmax": {"fused": {"forward": 1.0}}}}
    assert kernel_report.merged(before, result)["left_out"] == ["softmax 4x9 bf16"]
