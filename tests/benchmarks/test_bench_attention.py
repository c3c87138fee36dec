"""The benchmark of attention: what it counts, its goals, its runs and reports; on a CPU, with small shapes."""

from __future__ import annotations

import inspect
import json
import math
import re
import types
from pathlib import Path
from typing import Any

import hornbook as hb
import pytest
import torch
from hornbook import ops
from hornbook.benchmarks import (
    aot,
    attention,
    attention_candidates,
    attention_cases,
    attention_goals,
    attention_peers,
    attention_report,
    attention_trials,
    timing,
)
from hornbook.benchmarks import commands as bench_commands
from hornbook.benchmarks.attention_cases import ATTENTION, DECODE, GPT2
from hornbook.benchmarks.attention_goals import GOALS, DecodeGoal, Goal
from hornbook.benchmarks.kernels import ANY_ORDER
from hornbook.benchmarks.operations import Case
from hornbook.benchmarks.operations.attention import pairs, spans
from hornbook.cli import main
from hornbook.errors import ConfigError

ROOT = Path(__file__).parents[2]
LIMITS = {"copy": 1e9, "matmul": {"fp32": 1e12, "bf16": 1e12}}


def case(form: str, shape: tuple[int, ...], dtype: str = "fp32") -> Case:
    return Case(ATTENTION, form, shape, dtype)


def decode(form: str, shape: tuple[int, ...], dtype: str = "fp32") -> Case:
    return Case(DECODE, form, shape, dtype)


def measured(c: Case, *names: str, clock: timing.Measure = timing.host_clock) -> list[dict[str, Any]]:
    return attention.measured(c, clock, LIMITS, device="cpu", names=names, seconds=0.0)


# What is counted


@pytest.mark.parametrize("form", attention_cases.FORMS)
@pytest.mark.parametrize("T", [1, 15, 16, 100, 128, 129, 300])
def test_pairs_are_those_of_the_mask(form: str, T: int) -> None:
    c = case(form, (1, T, 1, 16))
    assert pairs(T, **c.options) == attention_peers.visible(c, "cpu").sum()


def test_documents_cover_the_sequence() -> None:
    assert spans(64, 16)[:2] == [(0, 4), (4, 8)]
    assert spans(10, 4) == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert attention_peers.document_ids(case("16 documents", (2, 20, 1, 16)), "cpu")[1].tolist() == [
        i // 2 for i in range(20)
    ]


@pytest.mark.parametrize(
    ("form", "shape", "forward", "backward"),
    [
        # q, k, v, o of 2·3·5·8 = 240 numbers of 4 bytes; 10 heads with 6 pairs, 2 products of 8 products and sums
        ("causal", (2, 3, 5, 8), (3840, 1920), (7680, 4800)),
        ("full", (2, 3, 5, 8), (3840, 2880), (7680, 7200)),
        # two query heads share a key-value head: k and v have 60 numbers where q and o have 120; 4 heads with 6 pairs
        ("causal", (1, 3, 4, 10, 2), (4 * (2 * 120 + 2 * 60), 4 * 24 * 10), (4 * (4 * 120 + 4 * 60), 10 * 24 * 10)),
        # 128·129/2 pairs of the first 128 queries, then 72 queries with 128 keys each
        ("window 128", (1, 200, 1, 16), (4 * 4 * 3200, 4 * 16 * (8256 + 72 * 128)), None),
        # 16 documents of 2 tokens with 3 pairs each
        ("16 documents", (1, 32, 1, 16), (4 * 4 * 512, 4 * 16 * 48), (8 * 4 * 512, 10 * 16 * 48)),
    ],
)
def test_least_work(form: str, shape: tuple[int, ...], forward: Any, backward: Any) -> None:
    c = case(form, shape)
    assert c.work("forward") == forward
    assert c.work("backward")[1] == 2.5 * forward[1]
    assert backward is None or c.work("backward") == backward
    assert case(form, shape, "bf16").work("forward") == (forward[0] / 2, forward[1])


@pytest.mark.parametrize(("form", "lengths"), [("", [64, 64, 64]), ("ragged", [32, 48, 64]), ("paged", [64, 64, 64])])
@pytest.mark.parametrize("T_q", [1, 4])
def test_least_work_of_decoding(form: str, lengths: list[int], T_q: int) -> None:
    """Query t of T_q sees all keys but the T_q - 1 - t last ones."""
    c = decode(form, (3, T_q, 64, 4, 16, 2))
    assert attention_cases.lengths(64, 3, form) == lengths
    seen = sum(length - t for length in lengths for t in range(T_q))
    cache = 2 * sum(lengths) * 2 * 16 * 4
    assert c.work("forward") == (cache + 2 * 3 * T_q * 4 * 16 * 4, 4 * 4 * 16 * seen)
    assert attention_cases.cache_bytes(c.shape, form, "fp32") == cache


def test_caches_of_the_goal_have_a_gigabyte() -> None:
    for B, T, H, D, H_kv in attention_cases.LARGE_CACHE:
        assert attention_cases.cache_bytes((B, 1, T, H, D, H_kv), "", "bf16") >= 1e9
    small = attention_cases.SMALL_CACHE
    assert attention_cases.cache_bytes((small[0], 1, *small[1:]), "", "bf16") < 1e9


# Goals


def row_at(goal: Goal | DecodeGoal, value: float | None, variant: str | None = "ordered") -> list[dict[str, Any]]:
    """The rows of a goal whose value is this one; the first is the one that it is about."""
    same = {"dtype": "bf16", "verdict": "ok", "memory_ms": 1.0, "variant": None}
    if isinstance(goal, DecodeGoal):
        one, several = (same | {"operation": "decode", "form": "", "shape": [8, n, 32768, 64, 128, 8]} for n in (1, 4))
        if goal.share:
            return [one | {"direction": "forward", "ms": {} if value is None else {"fused": {"median": 1 / value}}}]
        one |= {"direction": "forward", "ms": {"fused": {"median": 1.0}}}
        return [several | {"direction": "forward", "ms": {} if value is None else {"fused": {"median": value}}}, one]
    T = max(goal.lengths[0], 1024)
    shape = list(goal.shape or (4, T, 2048 // goal.head_dim, goal.head_dim))
    row = same | {"operation": "attention", "form": goal.form, "direction": goal.direction, "shape": shape}
    row |= {"variant": None if variant is None else {"variant": variant}, "of_matmul": {}, "ms": {}}
    if value is not None:
        row["of_matmul"] = {goal.column: value}
        row["ms"] = {goal.column: {"median": value if goal.floor else 1.0}}
        row["ms"] |= {name: {"median": value + i} for i, name in enumerate(goal.peers)}
    return [row]


def test_who_is_faster_than_slow_ones_only_has_shown_nothing() -> None:
    (goal,) = (goal for goal in GOALS if isinstance(goal, Goal) and goal.peers == attention_goals.SDPA)
    (row,) = row_at(goal, 1.2)
    assert goal.check(row, [row])["met"] is True
    for missing in ("FLASH_ATTENTION", "CUDNN_ATTENTION"):
        less = row | {"ms": {name: times for name, times in row["ms"].items() if name != missing}}
        assert goal.check(less, [less])["met"] is None


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.words)
def test_goals_at_their_borders(goal: Goal | DecodeGoal) -> None:
    least = goal.share or getattr(goal, "times", 0.0)
    border = least or getattr(goal, "floor", 0.0) or getattr(goal, "most", 0.0)
    missed = math.nextafter(border, 0 if least else math.inf)
    # A hair beyond the border on the right side: 1 / (1 / x) is not always x.
    met = border if not isinstance(goal, DecodeGoal) or goal.most else border * (1 + 1e-15)
    for value, word in ((met, "met"), (missed * (1 - 1e-12 if least else 1 + 1e-12), "missed"), (None, "unmeasured")):
        rows = row_at(goal, value)
        assert goal.concerns(rows[0])
        check = goal.check(rows[0], rows)
        assert check["met"] is {"met": True, "missed": False, "unmeasured": None}[word]
        (of_goal,) = (s for s in attention_goals.summary(rows) if s["goal"] == goal.words)
        assert of_goal["verdict"] == word
        attention_goals.judge(rows)
        assert check in rows[0]["goals"]


def test_goals_are_those_that_were_set() -> None:
    found = [(g.direction, g.head_dim, g.share or g.floor or g.times, g.column) for g in GOALS if isinstance(g, Goal)]
    assert sorted(found) == sorted(
        [
            ("forward", 128, 0.84, "fused"), ("forward", 128, 0.90, "fused"),
            ("forward", 64, 0.53, "fused"), ("forward", 64, 0.62, "fused"),
            ("forward", 64, 0.40, "fused"), ("forward", 64, 1.10, "fused"),
            ("backward", 128, 0.70, ANY_ORDER), ("backward", 128, 0.80, ANY_ORDER), ("backward", 128, 0.61, "fused"),
            ("backward", 64, 0.45, ANY_ORDER), ("backward", 64, 0.42, "fused"), ("backward", 64, 1.10, ANY_ORDER),
            ("forward", 64, 1.4, "fused"), ("backward", 64, 1.6, "fused"),
        ]
    )  # fmt: skip
    assert [(g.share, g.most) for g in GOALS if isinstance(g, DecodeGoal)] == [(1.03, 0.0), (0.0, 1.3)]
    assert len({goal.words for goal in GOALS}) == len(GOALS)


def test_ordered_sums_have_another_goal_than_a_kernel_for_dq() -> None:
    (goal,) = (g for g in GOALS if isinstance(g, Goal) and g.separate)
    for variant, least in (("ordered", 0.61), ("separate", 0.50), (None, 0.50)):
        (row,) = row_at(goal, 0.55, variant)
        check = goal.check(row, [row])
        assert check["goal"] == f"≥ {least:g} G"
        assert check["met"] is (least == 0.50)


def test_who_has_no_goal() -> None:
    (goal, *_) = (g for g in GOALS if isinstance(g, Goal) and g.head_dim == 128)
    (row,) = row_at(goal, 1.0)
    for other in (
        {"dtype": "fp16"}, {"form": "full"}, {"shape": [4, 4096, 16, 128, 2]}, {"shape": [8, 2048, 16, 128]},
        {"shape": [4, 4096, 16, 96]}, {"operation": "softmax"},
    ):  # fmt: skip
        assert goal.concerns(row)
        assert not any(g.concerns(row | other) for g in GOALS)


def test_the_best_of_the_backends_counts() -> None:
    (goal,) = (g for g in GOALS if isinstance(g, Goal) and g.peers == attention_peers.SDPA)
    (row,) = row_at(goal, 2.0)
    row["ms"]["CUDNN_ATTENTION"] = {"median": 1.05}
    assert goal.check(row, [row])["value"] == 1.05
    assert goal.check(row, [row])["met"] is False


def test_what_is_wrong_reaches_no_goal() -> None:
    for goal in GOALS:
        rows = row_at(goal, 1.2)
        rows[0]["verdict"] = "WRONG: fused"
        attention_goals.judge(rows)
        assert rows[0]["goals"]
        assert {check["met"] for check in rows[0]["goals"]} <= {False, None}
        (of_goal,) = (s for s in attention_goals.summary(rows) if s["goal"] == goal.words)
        assert of_goal["verdict"] == "missed"


# Cases


@pytest.mark.parametrize("quick", [False, True])
def test_every_goal_has_its_cases_and_they_come_first(quick: bool) -> None:
    todo = attention.cases(quick=quick)
    wanted = [set(attention_goals.about(c)) for c in todo]
    assert set().union(*wanted) == set(GOALS)
    last_new = max(i for i, goals in enumerate(wanted) if goals - set().union(*wanted[:i]))
    first_without = next(i for i, goals in enumerate(wanted) if not goals)
    assert last_new < first_without
    assert all(wanted[:first_without])
    assert not any(wanted[first_without:])
    titles = [str(c) for c in todo]
    assert len(set(titles)) == len(titles)


def test_only() -> None:
    forward = attention.cases("forward")
    assert {c.operation.directions for c in forward} == {("forward",)}
    assert {c.shape[1] for c in forward} == set(attention_cases.LENGTHS)
    both = attention.cases(" forward, backward", "bf16,fp16")
    assert {c.operation.directions for c in both} == {("forward", "backward")}
    assert len(both) == 2 * len(forward)
    assert [c for c in attention.cases("forward,gqa") if len(c.shape) == 5]
    assert {c.operation.name for c in attention.cases("decode")} == {"decode"}
    assert {c.shape[3] for c in attention.cases("widths")} == {96, 192, 256}
    for T in attention_cases.LENGTHS:  # lengths can be compared
        assert math.prod(attention_cases.of_length(T, 64)) == math.prod(attention_cases.of_length(T, 128))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"only": "foward"}, "did you mean 'forward'"),
        ({"only": "softmax"}, "there are forward, backward, window, decode"),
        ({"dtypes": "fp8"}, "no number format 'fp8'"),
        ({"dtypes": ","}, "no number format ''"),
        ({"minutes": 0.0}, "above 0, not 0"),
        ({"only": "forward", "variants": True}, "leave --only out"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        attention.run(**options)


SMALL = [
    case("causal", (2, 70, 2, 16)),
    case("full", (2, 70, 2, 16)),
    case("causal", (2, 40, 6, 16, 2)),
    case("window 128", (1, 300, 2, 16)),
    case("16 documents", (2, 70, 2, 16)),
    case("softcap 2", (1, 70, 2, 16)),
]


@pytest.mark.parametrize("c", SMALL, ids=str)
def test_measuring(c: Case) -> None:
    """The reference, and PyTorch's own by name; what a backend cannot do it says."""
    names = ("reference", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH")
    torch.manual_seed(0)
    forward, backward = measured(c, *names)
    able = ["reference"] if c.form == "softcap 2" else ["reference", "FLASH_ATTENTION", "MATH"]
    for r in (forward, backward):
        assert list(r["ms"]) == able
        assert all(error < 1e-6 for error in r["error"].values())
        assert "EFFICIENT_ATTENTION" in r["notes"], "there is none for a CPU"
        rate = r["flops"] / r["ms"]["reference"]["median"] * 1000
        assert r["tflops"]["reference"] == pytest.approx(rate / 1e12)
        assert r["of_matmul"]["reference"] == pytest.approx(rate / LIMITS["matmul"]["fp32"])
        assert r["memory_ms"] == pytest.approx(r["bytes"] / LIMITS["copy"] * 1000)
        assert r["verdict"] == "FAILED", "nobody asked for fused"


@pytest.mark.parametrize("c", [case("causal", (1, 17, 1, 16)), case("causal", (1, 17, 2, 16, 1))], ids=str)
def test_our_kernels_are_measured(c: Case) -> None:
    """In the interpreter; the kernel that may add in any order on its way back only."""
    ticks = iter(range(1000, 10_000))  # so long that there are few rounds

    def clock(call: timing.Call) -> float:
        call()
        return float(next(ticks))

    forward, backward = measured(c, "fused", ANY_ORDER, clock=clock)
    assert list(forward["ms"]) == ["fused"]
    assert list(backward["ms"]) == ["fused", ANY_ORDER]
    for r in (forward, backward):
        assert r["verdict"] == "ok"
        assert not r["notes"]


@pytest.mark.parametrize("c", [c for c in SMALL if c.form not in ("causal", "full")], ids=str)
def test_a_mask_or_cap_that_is_left_out_is_noticed(c: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = attention_peers.function("FLASH_ATTENTION", case("causal", c.shape), "cpu")
    right = attention_peers.function
    monkeypatch.setattr(
        attention_peers, "function", lambda name, *given: plain if name == "fused" else right(name, *given)
    )
    for r in measured(c, "reference", "fused"):
        assert r["verdict"] == "WRONG: fused"


@pytest.mark.parametrize("fault", ["result", "q", "k", "v"])
def test_a_wrong_gradient_is_noticed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An eighth too long, of the last head only."""
    c = case("causal", (2, 40, 6, 16, 2))
    right = attention_peers.function("FLASH_ATTENTION", c, "cpu")

    def wrong(*qkv: torch.Tensor, **_: Any) -> torch.Tensor:
        given = [t.clone() for t in qkv]
        if fault != "result":
            last = torch.ones(given["qkv".index(fault)].shape[2], 1).index_fill(0, torch.tensor(-1), 1.125)
            given["qkv".index(fault)].register_hook(lambda grad: grad * last)
        y = right(*given)
        return y if fault != "result" else y + torch.zeros_like(y).index_fill(1, torch.tensor(39), 0.1)

    monkeypatch.setattr(attention_peers, "function", lambda name, *given: wrong)
    (r, _) = measured(c, "FA3")
    assert not r["ms"]
    assert "not timed" in r["notes"]["FA3"]


def test_naive_attention_without_the_memory_for_it() -> None:
    c = case("causal", (1, 1024, 1, 16))  # a matrix of 4 MB
    found, notes = attention_peers.found(c, ("reference", "MATH", "FLASH_ATTENTION"), 50e6, device="cpu")
    assert list(found) == ["FLASH_ATTENTION"]
    assert set(notes) == {"reference", "MATH"}
    windowed = case("window 128", (1, 1024, 1, 16))
    assert (
        "mask would take"
        in attention_peers.found(windowed, ("FLASH_ATTENTION",), 10e6, device="cpu")[1]["FLASH_ATTENTION"]
    )


# Runs


TINY = {
    "forward": [(ATTENTION, "causal", (2, 16, 2, 16)), (ATTENTION, "causal", (1, 32, 2, 16))],
    "window": [(ATTENTION, "window 128", (1, 140, 1, 16))],
    "documents": [(ATTENTION, "16 documents", (1, 32, 2, 16))],
    "decode": [(DECODE, "", (2, T_q, 64, 2, 16, 1)) for T_q in (1, 4)],
}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Shapes and implementations that a CPU is quick with; ours is PyTorch's, twice as fast as all others."""
    monkeypatch.setattr(attention_cases, "groups", lambda quick=False: TINY)
    monkeypatch.setattr(attention, "GROUPS", tuple(TINY))
    monkeypatch.setattr(attention, "NAMES", ("reference", "MATH", "FlexAttention", "fused", ANY_ORDER))
    monkeypatch.setattr(attention, "DECODE_NAMES", ("MATH", "fused"))
    right, right_decode = attention_peers.function, attention_peers.decode_function
    mine: set[Any] = set()

    def function(name: str, *given: Any) -> Any:
        if name not in ("fused", ANY_ORDER):
            return right(name, *given)
        call = right("reference", *given)
        return lambda *a, **k: (mine.add(1), call(*a, **k))[1]

    def decode_function(name: str, *given: Any) -> Any:
        call = right_decode("MATH", *given)
        return call if name != "fused" else lambda *a, **k: (mine.add(1), call(*a, **k))[1]

    monkeypatch.setattr(attention_peers, "function", function)
    monkeypatch.setattr(attention_peers, "decode_function", decode_function)

    def clock(call: timing.Call) -> float:
        mine.clear()
        call()
        return 1000.0 if mine else 2000.0  # so long that there are few rounds

    return clock


def run(clock: timing.Measure, out: Path, only: str = "", **how: Any) -> dict[str, Any]:
    todo = attention.cases(only, "fp32")
    return attention._run(todo, how.pop("minutes", None), out, "cpu", clock, LIMITS)


def test_a_run(tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(tiny, tmp_path)
    said = capsys.readouterr()
    digest = json.loads(said.out.splitlines()[-1])
    assert digest["rows"] == len(result["rows"]) == 2 + 2 * 2 + 2
    assert (digest["wrong"], digest["failed"], digest["left_out"]) == (0, 0, 0)
    assert digest["goals"] == {"met": 0, "missed": 0, "unmeasured": len(GOALS)}
    assert {path.name for path in tmp_path.iterdir()} == {
        "attention.json", "attention.md", "attention-forward-16-fp32.svg", "attention-window.svg",
        "attention-decode.svg",
    }  # fmt: skip
    saved = json.loads((tmp_path / "attention.json").read_text("utf-8"))
    assert saved["rows"] == result["rows"]
    text = (tmp_path / "attention.md").read_text("utf-8")
    for goal in GOALS:
        assert f"| {goal.words} | unmeasured | 0 | – |" in text
    row = next(r for r in result["rows"] if r["direction"] == "forward" and r["shape"] == [1, 32, 2, 16])
    assert f"| {row['tflops']['fused']:.0f} ({row['of_matmul']['fused']:.2f}) |" in text
    line = attention_report.line(row)
    assert line.startswith("attention causal 1x32x2x16 fp32 forward: TFLOP/s (share of matmul): reference ")
    plot = (tmp_path / "attention-forward-16-fp32.svg").read_text("utf-8")
    assert all(f"<!-- {name} -->" in plot for name in ("reference", "MATH", "fused", "32"))


def test_runs_add_up(tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tiny, tmp_path, "forward")
    both = run(tiny, tmp_path, "decode")
    assert [r["operation"] for r in both["rows"]] == ["attention"] * 2 + ["decode"] * 2
    again = run(tiny, tmp_path, "forward")
    assert len(again["rows"]) == 4


def test_a_run_without_time(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """10 s for each case, and a minute in all: FlexAttention goes first, then cases, all of them named."""
    now = [0.0]
    monkeypatch.setattr(attention, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    right = attention.measured

    def slow(c: Case, *given: Any, **how: Any) -> Any:
        now[0] += 13.0
        return right(c, *given, **how)

    monkeypatch.setattr(attention, "measured", slow)
    result = run(tiny, tmp_path, minutes=1.0)
    assert len(result["left_out"]) == 2
    todo = [str(c) for c in attention.cases("", "fp32")]
    assert result["left_out"] == todo[4:]
    late = [r for r in result["rows"] if r["notes"].get("FlexAttention") == "not run, so that the run ends in time"]
    assert {attention_report.title(r, direction=False) for r in late} == set(todo[2:4])
    text = (tmp_path / "attention.md").read_text("utf-8")
    assert all(f"- not run, so that the run ends in time: {name}\n" in text for name in todo[4:])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["left_out"] == 2


def test_a_gpu_that_gives_up(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def broken(*given: Any, **how: Any) -> Any:
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(attention, "measured", broken)
    result = run(tiny, tmp_path, "forward")
    assert [r["verdict"] for r in result["rows"]] == ["FAILED"] * 2
    assert "illegal memory access" in result["rows"][0]["notes"]["all"]


def test_documents_are_held_against_one() -> None:
    one = {"operation": "attention", "shape": [1, 4096, 2, 64], "dtype": "bf16", "direction": "forward", "flops": 100}
    one |= {"form": "causal", "ms": {"fused": {"median": 8.0}}}
    packed = one | {"form": "16 documents", "flops": 7, "ms": {"fused": {"median": 1.0}}}
    ((title, share, least),) = attention_report.documents_against_one([packed, one])
    assert (title, share, least) == ("attention 16 documents 1x4096x2x64 bf16 forward", "0.125", "0.070")
    assert not attention_report.documents_against_one([packed])


# Without a GPU, and as a command


def fake_table(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    asked: list[dict[str, Any]] = []

    def compile_all(progress: Any, **options: Any) -> list[dict[str, Any]]:
        asked.append(options)
        same = {"kernel": "attention_forward", "warps": 8, "shared": 98304, "programs": 1, "hgmma": 12}
        good = same | {"shape": "forward D=128 causal: plain", "registers": 181, "spilled": 16}
        progress(0, 4)
        return [
            good | {"overlap": {"exponentials": 34, "beside": 30, "loops": [[34, 30]]}},
            good | {"spilled": 0, "overlap": None},
            same | {"shape": "forward D=64 full: gluon", "error": "PassManager::run failed"},
        ]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(ops, "kernels_problem", lambda: None)
    monkeypatch.setattr(aot, "compile_all", compile_all)
    return asked


@pytest.mark.parametrize("argv", [[], ["--variants"], ["--quick"], ["--minutes", "10"]])
def test_without_cuda(argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    asked = fake_table(monkeypatch)
    monkeypatch.chdir(tmp_path)
    main(["bench", "attention", *argv])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "There is no CUDA GPU here, so nothing can be timed."
    assert "| forward D=128 causal: plain | attention_forward | 8 | 181 | 16 | 98304 | 1 | 12 | 30 of 34 |" in lines
    assert any("PassManager::run failed" in line for line in lines)
    assert "Not compiled, so that the run ends in time: 1 of 4." in lines
    end = json.loads(lines[-1])
    assert end == {
        "cuda": False, "reason": "there is no CUDA GPU here, so nothing can be timed", "compiled": 2, "failed": 1,
        "with_spills": 1, "left_out": 1,
    }  # fmt: skip
    seconds = {"--quick": 192.0, "--minutes": 480.0}.get(argv[0] if argv else "")
    same = {"only": {attention_candidates.NAME}, "targets": (90,), "dtypes": ("bf16",)}
    assert asked == [same | {"seconds": pytest.approx(seconds)}]
    assert not list(tmp_path.iterdir())


def test_without_cuda_and_triton(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    fake_table(monkeypatch)
    monkeypatch.setattr(ops, "kernels_problem", lambda: "triton is not installed")
    main(["bench", "attention"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["reason"] == "triton is not installed"


@pytest.mark.parametrize("page", ["README.md", "docs/kernels.md", "benchmarks/gpu.sh", "benchmarks/attention.py"])
def test_commands_in_texts(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line that shows the command is one that it takes, with what exists."""
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(attention, "run", lambda *given: asked.append(given))
    text = (ROOT / page).read_text("utf-8")
    found = re.findall(r"(?:hornbook bench|bench 8) (attention(?: --?[a-z]+(?: [a-z0-9,]+)?)*)", text)
    assert found, page
    for command in found:
        main(["bench", *command.split()])
        only, dtypes, quick, *_, variants = asked[-1]
        assert attention.cases(only, dtypes, quick)
        assert variants == ("--variants" in command)
    assert len(asked) == len(found)


def test_the_command_names_what_it_can_do() -> None:
    said = inspect.getsource(bench_commands.Attention)
    listed = said.partition('"""of ')[2].partition(";")[0]
    assert all(name in listed for name in attention.GROUPS)


def test_notes_have_every_goal() -> None:
    notes = (ROOT / "benchmarks" / "NOTES.md").read_text("utf-8").partition("## attention: goals")[2]
    assert sum("| unmeasured |" in line for line in notes.splitlines()) == len(GOALS)


@pytest.mark.gpu
def test_attention_on_a_gpu(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = {
        "forward": [(ATTENTION, "causal", (1, 128, 2, 64))],
        "backward": [(ATTENTION, "causal", (1, 128, 2, 64))],
        "softcap": [(ATTENTION, "softcap 2", (1, 256, 2, 64))],
        "decode": [
            (DECODE, form, (2, T_q, 512, 4, 64, 2)) for form, T_q in zip(DECODE.forms, (4, 1, 1, 4), strict=True)
        ],
        "gqa": [(ATTENTION, "causal", (1, 256, 4, 64, 2))],
        "window": [(ATTENTION, "window 128", (1, 512, 2, 64))],
        "documents": [(ATTENTION, "16 documents", (1, 512, 2, 64))],
    }
    monkeypatch.setattr(attention_cases, "groups", lambda quick=False: groups)
    # All GPU tests together have nine minutes, and most of this one is compiling: where that is slow, the last cases
    # are left out, and named.
    main(["bench", "attention", "--minutes", "2.5", "--out", str(tmp_path)])
    digest = json.loads(capsys.readouterr().out.splitlines()[-1])
    result = json.loads((tmp_path / "attention.json").read_text("utf-8"))
    assert (digest["wrong"], digest["failed"]) == (0, 0)
    cases = len({attention_report.title(r, direction=False) for r in result["rows"]})
    assert cases + digest["left_out"] == 9
    assert cases >= 3
    for r in result["rows"]:
        assert "fused" in r["ms"]
        assert r["form"] in attention_cases.PAGES or {"MATH", "FlexAttention"} & set(r["ms"]), r["notes"]


@pytest.mark.gpu
def test_candidates_are_tried_on_a_gpu() -> None:
    """In a process of its own: the plain kernels are right."""
    trial = attention_candidates.Trial("forward", 64, True, None)
    results = attention_trials.in_processes([trial], 1)
    assert results[trial]["error"] < 1e-2


def test_gpt2s_shape_is_gpt2s() -> None:
    config = hb.GPTConfig.preset("gpt2")
    assert GPT2[1:] == (config.context_length, config.n_head, config.d_model // config.n_head)
