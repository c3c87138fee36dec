"""The benchmark of kernels: floors, options, checks, reports; on a CPU with two implementations."""

from __future__ import annotations

import json
import math
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from hornbook import ops
from hornbook.benchmarks import aot, kernel_report, kernels, operations, report, timing
from hornbook.benchmarks.operations import OPERATIONS, Case, softmax
from hornbook.cli import main
from hornbook.errors import ConfigError

LIMITS = {"copy": 1e9, "matmul": {"fp32": 1e9, "bf16": 1e9}}


def case(operation: str, form: str, shape: tuple[int, ...], dtype: str = "fp32") -> Case:
    return Case(OPERATIONS[operation], form, shape, dtype)


@pytest.mark.parametrize(
    ("operation", "form", "shape", "forward", "backward"),
    [
        # 6 numbers of 4 bytes: x and y; y, dy and dx
        ("softmax", "", (2, 3), (48, 0), (72, 0)),
        # two squares of 3 x 3, of which 6 are seen each: 12 + 18 numbers; 12 + 12 + 18
        ("softmax", "causal", (6, 3), (120, 0), (168, 0)),
        # 2 queries of 5: the first sees 4 keys, the last 5: 9 + 10 numbers; 9 + 9 + 10
        ("softmax", "causal", (2, 5), (76, 0), (112, 0)),
        # x, y of 6 numbers and two parameters of 3; x, dy, dx, and w, dw, db
        ("layer_norm", "", (2, 3), (72, 0), (108, 0)),
        # q, k, v, o of 2·3·5·8 = 240 numbers; 10 heads with 9 pairs, 2 products of 8 products and sums; then 8, and 5
        ("attention", "full", (2, 3, 5, 8), (3840, 2880), (7680, 7200)),
        # 6 pairs a head
        ("attention", "causal", (2, 3, 5, 8), (3840, 1920), (7680, 4800)),
        # logits, and a number and an id of 4 and 8 bytes a row
        ("sample_logits", "top-p", (2, 3), (48, 0), None),
    ],
)
def test_least_work(operation: str, form: str, shape: tuple[int, ...], forward: Any, backward: Any) -> None:
    assert case(operation, form, shape).work("forward") == forward
    if backward is not None:
        assert case(operation, form, shape).work("backward") == backward
        assert case(operation, form, shape, "bf16").work("forward")[0] == forward[0] / 2


@pytest.mark.parametrize(
    ("operation", "shape", "work"),
    [
        ("cross_entropy", (2, 3), (48, 0)),  # 6 logits and as many slopes
        # 2·5 + 3·5 numbers and as many slopes; 3 products of 2·3·5 products and sums
        ("linear_cross_entropy", (2, 3, 5), (200, 180)),
    ],
)
def test_least_work_of_both_ways_at_once(operation: str, shape: tuple[int, ...], work: tuple[int, int]) -> None:
    assert OPERATIONS[operation].directions == ("both",)
    assert case(operation, "", shape).work("both") == work


@pytest.mark.parametrize(("T_q", "T_k"), [(1, 1), (1, 7), (4, 4), (3, 11)])
def test_pairs_are_those_of_the_mask(T_q: int, T_k: int) -> None:
    assert softmax.pairs_seen(T_q, T_k) == torch.ones(T_q, T_k).tril(T_k - T_q).sum()


def test_the_higher_floor_counts() -> None:
    c = case("attention", "full", (1, 4, 1, 8))  # 4 x 32 numbers, 512 bytes; 4·16·8 = 512 operations
    for copy, matmul, limit in ((1e6, 2e6, "memory"), (2e6, 1e6, "matmul")):
        r = kernels.row(c, "forward", {}, {"copy": copy, "matmul": {"fp32": matmul}}, {}, {}, {})
        assert r["limit"] == limit
        assert r["floor_ms"] == pytest.approx(0.512)


def rows_for_test() -> list[dict[str, Any]]:
    """Two rows with times that were made up: 48 bytes at 1 GB/s are 48 ns."""

    def t(ms: float) -> timing.Times:
        return timing.Times(ms, ms * 0.9, ms * 0.95, ms * 1.1, 10)

    c = case("softmax", "", (2, 3))
    times = {"reference": t(480e-6), "torch": t(192e-6), "Liger": t(120e-6), "fused": t(60e-6)}
    good = kernels.row(
        c, "forward", times, LIMITS, {"fused": 1e-6}, {"fused": 3 << 20}, {"torch.compile": "no compiler"}
    )
    bad = kernels.row(c, "backward", {"torch": t(1.0), "fused": t(2.0)}, LIMITS, {"fused": math.inf}, {}, {})
    return [good, bad]


def result_for_test() -> dict[str, Any]:
    facts = {"gpu": "Test Card", "date": "2026-01-02", "torch": "2", "triton": "3", "hornbook": "0"}
    return facts | {
        "limits": LIMITS,
        "rows": rows_for_test(),
        "overhead_us": {"softmax": {"fused": {"forward": 9.5, "backward": 12}}},
    }


def test_comparisons() -> None:
    good, bad = rows_for_test()
    assert good["of_floor"] == pytest.approx({"reference": 0.1, "torch": 0.25, "Liger": 0.4, "fused": 0.8})
    assert (good["best_peer"], good["verdict"]) == ("Liger", "ok")
    assert good["vs_reference"] == pytest.approx(8)
    assert good["vs_best_peer"] == pytest.approx(2)
    assert bad["verdict"] == "WRONG: fused"
    assert (bad["vs_reference"], bad["vs_best_peer"], bad["error"]) == (None, 0.5, {"fused": None})
    assert kernels.row(case("softmax", "", (2, 3)), "forward", {}, LIMITS, {}, {}, {})["verdict"] == "FAILED"


def test_reports(tmp_path: Path) -> None:
    result = result_for_test()
    kernel_report.save(result, tmp_path)
    kernel_report.draw(result, tmp_path)
    assert json.loads((tmp_path / "kernels.json").read_text(encoding="utf-8"))["rows"] == result["rows"]
    text = (tmp_path / "kernels.md").read_text(encoding="utf-8")
    assert (
        "| softmax 2x3 fp32 forward | 0.048 memory | 0.48 (0.10) | 0.192 (0.25) | 0.06 (0.80) | 0.12 (0.40) |" in text
    )
    assert "| 8 | 2 (Liger) | – | ok |" in text
    assert "WRONG: fused" in text
    assert "- softmax 2x3 fp32: torch.compile: no compiler" in text
    assert "| softmax | 9.5 / 12 |" in text
    assert (tmp_path / "softmax.svg").stat().st_size > 1000
    digest = kernel_report.digest(result)
    assert (digest["wrong"], digest["failed"], digest["rows"]) == (1, 0, 2)
    assert digest["fused"]["softmax"]["vs_best_peer"] == 1.0  # 2 and 0.5
    json.dumps(digest, allow_nan=False)
    assert "8x reference, 2x Liger" in kernel_report.line(result["rows"][0])


def test_options() -> None:
    todo = kernels.cases(only="softmax, attention", shapes="softmax=8x4,2x7", dtypes="bf16,fp32")
    assert [str(c) for c in todo[:3]] == ["softmax 8x4 bf16", "softmax causal 8x4 bf16", "softmax 2x7 bf16"]
    usual = 2 * 2 * len(OPERATIONS["attention"].shapes)
    assert sum(c.operation.name == "attention" for c in todo) == usual
    assert len(kernels.cases(quick=True)) < len(kernels.cases())
    assert kernels.parse_shapes(" attention = 4x2048x16x64 ;") == {"attention": ((4, 2048, 16, 64),)}
    assert kernels.parse_shapes("") == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"only": "sofmax"}, "did you mean 'softmax'"),
        ({"shapes": "8x4"}, "OPERATION=SHAPE"),
        ({"shapes": "norm=8x4"}, "no operation 'norm'"),
        ({"shapes": "softmax=8"}, "ROWSxCOLUMNS"),
        ({"shapes": "softmax=8x4x2"}, "ROWSxCOLUMNS"),
        ({"shapes": "softmax=8x0"}, "from 1, not '8x0'"),
        ({"shapes": "softmax=8x-4"}, "not '8x-4'"),
        ({"shapes": "softmax="}, "not ''"),
        ({"shapes": "attention=8x4"}, "BxTxHxD"),
        ({"only": "softmax", "shapes": "attention=1x8x1x16"}, "which --only leaves out"),
        ({"dtypes": "fp8"}, "no number format 'fp8'"),
        ({"dtypes": ","}, "no number format ''"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        kernels.cases(**options)


CPU_CASES = [
    case("softmax", "", (5, 33)),
    case("softmax", "causal", (66, 33)),
    case("softmax", "causal", (5, 33)),
    case("layer_norm", "", (7, 40)),
    case("attention", "causal", (2, 70, 2, 16)),
    case("attention", "full", (2, 70, 2, 16)),
    case("sample_logits", "all filters", (6, 200)),
    case("sample_logits", "no filter", (6, 200)),
]
WITH_GRADIENTS = [c for c in CPU_CASES if "backward" in c.operation.directions]


def measured(c: Case, *names: str) -> list[dict[str, Any]]:
    return kernels.measure_case(c, timing.host_clock, LIMITS, device="cpu", names=names, seconds=0.0)


@pytest.mark.parametrize("c", CPU_CASES, ids=str)
def test_measuring(c: Case) -> None:
    rows = measured(c, "reference", "torch")
    assert tuple(r["direction"] for r in rows) == c.operation.directions
    for r in rows:
        assert list(r["ms"]) == ["reference", "torch"]
        assert r["error"]["torch"] < 1e-6
        assert not r["notes"]


LOSSES = [
    case("cross_entropy", "", (7, 33)),
    case("cross_entropy", "in place", (7, 33)),
    case("linear_cross_entropy", "", (7, 33, 5)),
]


@pytest.mark.parametrize("c", LOSSES, ids=str)
def test_measuring_both_ways_at_once(c: Case) -> None:
    (both,) = measured(c, "reference", "torch", "fused")
    assert both["direction"] == "both"
    assert list(both["ms"]) == ["reference", "torch", "fused"]
    assert max(both["error"].values()) < 1e-6
    assert not both["notes"]


@pytest.mark.parametrize("fault", ["result", "gradient"])
@pytest.mark.parametrize("c", LOSSES, ids=str)
def test_a_wrong_loss_is_noticed(c: Case, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = operations.implementation("torch", c.operation.name)

    def wrong(*tensors: torch.Tensor, **options: Any) -> torch.Tensor:
        y = right(*tensors, **options)
        if fault == "result":
            return y * 1.03
        y.register_hook(lambda grad: grad * 1.125)
        return y

    names = {"reference": operations.implementation("reference", c.operation.name), "torch": wrong}
    monkeypatch.setattr(kernels, "implementation", lambda name, operation: names[name])
    (both,) = measured(c, "reference", "torch")
    assert "not timed" in both["notes"]["torch"]


@pytest.mark.parametrize("fault", ["result", "gradient", "hidden", "crash"])
@pytest.mark.parametrize("c", WITH_GRADIENTS, ids=str)
def test_whoever_is_wrong_is_not_timed(c: Case, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """3 % more at the end, or a gradient that is an eighth too long, or something where nothing is seen."""
    right = operations.implementation("torch", c.operation.name)

    def wrong(*tensors: torch.Tensor, **options: Any) -> torch.Tensor:
        y = right(*tensors, **options)
        if fault == "crash":
            raise RuntimeError("out of ideas")
        if fault == "gradient":
            y.register_hook(lambda grad: grad * 1.125)
        if fault == "result":
            y = y + torch.zeros_like(y).index_fill(0, torch.tensor(len(y) - 1), 0.03)
        if fault == "hidden":
            y = y + 1e-3 * torch.ones(y.shape[-2:]).triu(1 + y.shape[-1] - y.shape[-2])
        return y

    if fault == "hidden" and (c.operation.name, c.form) != ("softmax", "causal"):
        pytest.skip("every number of the result is one that is seen")
    names = {"reference": operations.implementation("reference", c.operation.name), "torch": wrong}
    monkeypatch.setattr(kernels, "implementation", lambda name, operation: names[name])
    for r in measured(c, "reference", "torch"):
        assert list(r["ms"]) == ["reference"]
        assert "not timed" in r["notes"]["torch"] or "out of ideas" in r["notes"]["torch"]


@pytest.mark.parametrize(("wrong", "share"), [(0, 0.0), (1, 1 / 6), (6, 1.0)])
@pytest.mark.parametrize("fault", ["another token", "no token", "a token that is left out"])
def test_tokens_that_are_not_the_ones_drawn(wrong: int, share: float, fault: str, monkeypatch: Any) -> None:
    """The error is the share of rows with a wrong token; a token on the boundary is right either way."""
    c = case("sample_logits", "all filters", (6, 200))
    right = operations.implementation("torch", "sample_logits")

    def draw(logits: torch.Tensor, uniform: torch.Tensor, **how: Any) -> torch.Tensor:
        tokens = right(logits, uniform, **how)
        others = right(logits, (uniform + 0.5) % 1, **how | {"top_k": 2, "top_p": 1.0, "min_p": 0.0})
        others = torch.where(others == tokens, logits.topk(2).indices.sum(1) - others, others)
        bad = {"another token": others, "no token": torch.full_like(tokens, 200), "a token that is left out": None}
        replaced = logits.argmin(1) if bad[fault] is None else bad[fault]
        return torch.cat((replaced[:wrong], tokens[wrong:]))

    names = {"reference": operations.implementation("reference", "sample_logits"), "fused": draw}
    monkeypatch.setattr(kernels, "implementation", lambda name, operation: names[name])
    (r,) = measured(c, "reference", "fused")
    assert r["error"]["fused"] == pytest.approx(share)
    assert r["verdict"] == ("WRONG: fused" if wrong else "ok")


def test_a_token_on_the_boundary_is_right() -> None:
    c = case("sample_logits", "no filter", (2, 4))
    logits, uniform = torch.zeros(2, 4), torch.tensor([0.25 - 1e-6, 0.25 + 1e-6])
    for tokens, share in (([0, 1], 0.0), ([1, 0], 0.0), ([2, 1], 0.5)):
        error = c.operation.error(c, [logits, uniform], [], [torch.tensor(tokens)], [])
        assert error == share


def test_ours_is_timed_and_marked_where_it_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "implementation", lambda name, operation: lambda x, **_: x * 2)
    forward, _ = measured(case("softmax", "", (5, 33)), "reference", "fused")
    assert "fused" in forward["ms"]
    assert forward["verdict"] == "WRONG: fused"


def test_who_is_left_out() -> None:
    """Naive attention without the memory for it; a library that is not there or has no causal softmax."""
    c = case("attention", "causal", (1, 1024, 1, 16))  # a matrix of 4 MB
    found, notes = kernels.functions(c, ("reference", "torch"), free=50e6)
    assert list(found) == ["torch"]
    assert "0 GB" in notes["reference"]
    assert list(kernels.functions(c, ("reference", "torch"), free=100e6)[0]) == ["reference", "torch"]
    assert kernels.functions(case("softmax", "causal", (4, 4)), ("Liger", "QuACK", "composed")) == ({}, {})


def test_a_loss_that_is_scaled() -> None:
    """The form says by how much; its gradient is compared with one that is scaled too."""
    scaled, plain = (case("cross_entropy", form, (7, 33)) for form in ("gradient of 0.5", ""))
    assert (scaled.upstream(torch.ones(())).item(), plain.upstream(torch.ones(())).item()) == (0.5, 1.0)
    (both,) = measured(scaled, "reference", "torch")
    assert list(both["ms"]) == ["reference", "torch"]
    assert not both["notes"]


def test_too_much_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has the memory it needs, but not all together: who needs most is left out, and the others are timed."""
    round_robin = timing.round_robin

    def tight(calls: Any, measure: Any, **options: Any) -> Any:
        if "reference" in calls:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return round_robin(calls, measure, **options)

    monkeypatch.setattr(timing, "round_robin", tight)
    forward, backward = measured(case("softmax", "", (5, 33)), "reference", "torch")
    for r in (forward, backward):
        assert list(r["ms"]) == ["torch"]
        assert "out of memory" in r["notes"]["reference"]


def fake_table(monkeypatch: pytest.MonkeyPatch, left: int = 0) -> list[dict[str, Any]]:
    asked: list[dict[str, Any]] = []

    def compile_all(progress: Any, **options: Any) -> list[dict[str, Any]]:
        asked.append(options)
        same = {"shape": "64 columns", "dtype": "bf16", "target": 90, "registers": 40, "shared": 0}
        for done in range(3):
            progress(done, 2 + left)
        return [{"kernel": "one", **same, "spilled": 0}, {"kernel": "two", **same, "spilled": 8}]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(ops, "kernels_problem", lambda: None)
    monkeypatch.setattr(aot, "compile_all", compile_all)
    return asked


FAMILIES = tuple(aot.TARGETS)


@pytest.mark.parametrize(
    ("argv", "only", "targets", "dtypes", "seconds"),
    [
        (["kernels", "--only", "softmax"], {"softmax"}, FAMILIES, ("bf16",), None),
        (["kernels", "--quick"], None, (90,), ("bf16",), 192.0),
        (["kernels", "--dtypes", "fp32,bf16", "--minutes", "10"], None, FAMILIES, ("fp32", "bf16"), 480.0),
        (["model"], None, FAMILIES, ("bf16",), None),
        (["model", "--quick"], None, (90,), ("bf16",), 192.0),
    ],
)
def test_without_cuda(
    argv: list[str], only: Any, targets: Any, dtypes: Any, seconds: Any, monkeypatch: pytest.MonkeyPatch, capsys,
    tmp_path: Path,
) -> None:  # fmt: skip
    asked = fake_table(monkeypatch)
    monkeypatch.chdir(tmp_path)
    main(["bench", *argv])
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0] == "There is no CUDA GPU here, so nothing can be timed."
    assert any(line.startswith("| two | 64 columns") for line in lines)
    assert json.loads(lines[-1]) == {"cuda": False, "compiled": 2, "failed": 0, "with_spills": 1}
    assert asked == [{"only": only, "targets": targets, "dtypes": dtypes, "seconds": pytest.approx(seconds)}]
    assert not list(tmp_path.iterdir())
    assert f"compiling kernels in {', '.join(dtypes)} for sm_{targets[0]}" in said.err
    assert "2 to compile on" in said.err
    assert "compiled 2 of 2" in said.err


def test_without_cuda_and_time(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    fake_table(monkeypatch, left=7)
    main(["bench", "kernels", "--quick"])
    lines = capsys.readouterr().out.splitlines()
    assert "Not compiled, so that the run ends in time: 7 of 9." in lines
    assert json.loads(lines[-1])["left_out"] == 7


def test_progress_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    clock = iter([0.0, 5.0, 6.0, 16.0, 17.0, 18.0])
    monkeypatch.setattr(report, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    progress = report.Progress(cores=2)
    for done in range(5):
        progress(done, 4)
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.startswith("4 to compile on 2 cores: about 0.")
    assert rest == ["compiled 2 of 4", "compiled 4 of 4"]


def test_the_first_of_every_kernel_is_compiled_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(name: str, dtype: str) -> Any:
        kernel = types.SimpleNamespace(fn=types.SimpleNamespace(__name__=name))
        return aot.Example(name, "any", dtype, lambda: None), types.SimpleNamespace(kernel=kernel), ""

    listed = [launch(*of) for of in (("a", "fp32"), ("a", "bf16"), ("a", "bf16"), ("b", "bf16"), ("b", "fp32"))]
    monkeypatch.setattr(aot, "launches", lambda only: listed)
    assert aot.in_turn(frozenset(), ("bf16",)) == [1, 3, 2]
    assert aot.in_turn(frozenset(), ()) == [0, 3, 1, 4, 2]


def test_without_cuda_and_triton(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    fake_table(monkeypatch)
    monkeypatch.setattr(ops, "kernels_problem", lambda: "triton is not installed")
    main(["bench", "kernels"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["reason"] == "triton is not installed"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["kernels", "--shapes", "softmax=1"], "ROWSxCOLUMNS"),
        (["kernels", "--minutes", "0"], "above 0, not 0"),
        pytest.param(
            ["kernels", "--shapes", "softmax=8x8"],
            "no CUDA GPU here: kernels are then compiled for their own",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        (["model", "--device", "tpu"], "auto, cuda or cpu"),
        (["model", "--preset", "gtp2"], "did you mean 'gpt2'"),
        (["model", "--batch-size", "0"], "at least 1"),
    ],
)
def test_faults_of_options_come_first(argv: list[str], words: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", *argv])
    assert words in str(end.value)


@pytest.mark.gpu
def test_kernels_on_a_gpu(tmp_path: Path, capsys) -> None:
    shapes = "softmax=64x256;layer_norm=64x256;attention=1x128x2x64;sample_logits=8x1024"
    only = "softmax,layer_norm,attention,sample_logits"
    main(["bench", "kernels", "--quick", "--only", only, "--shapes", shapes, "--out", str(tmp_path)])
    digest = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (digest["rows"], digest["wrong"], digest["failed"]) == (14, 0, 0)
    assert digest["goals"]["met"] + digest["goals"]["missed"] == 11  # four blocks', and seven of the host's time
    assert {path.name for path in tmp_path.iterdir()} == {
        "kernels.json", "kernels.md", "softmax.svg", "layer_norm.svg", "attention.svg", "sample_logits.svg",
    }  # fmt: skip
    for r in json.loads((tmp_path / "kernels.json").read_text(encoding="utf-8"))["rows"]:
        assert {"reference", "torch", "fused"} <= set(r["ms"])
        assert all(size > 0 for size in r["peak_bytes"].values())
