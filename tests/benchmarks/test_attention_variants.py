"""Which kernel of attention is chosen: candidates, trials in processes, times, rows of the table."""

from __future__ import annotations

import json
import math
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from hornbook.benchmarks import aot, attention_candidates, attention_trials, attention_variants, timing
from hornbook.benchmarks.attention_candidates import Trial, words
from hornbook.kernels import attention_table, library
from hornbook.kernels.attention_table import TABLE, Choice, Class
from hornbook.reference.attention import attention as reference

LIMITS = {"copy": 1e9, "matmul": {"fp32": 1e12, "bf16": 1e12}}
GOOD, FAST = Choice("carry_p", 128, 64, 4, 3), Choice("carry_qk", 64, 64, 8)
WRONG, CRASH, UNSURE, NOBODY = (Choice(name, 64, 64, 4) for name in ("wrong", "crash", "unsure", "nobody"))
ORDERED, REDUCE = Choice("ordered", 64, 128, 8), Choice("reduce", 64, 128, 8)


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules with candidates; one of the three is missing."""
    forward = {64: (GOOD, FAST, WRONG, CRASH, UNSURE, NOBODY)}
    monkeypatch.setitem(sys.modules, "hornbook.kernels.attention_pipelined", types.SimpleNamespace(CANDIDATES=forward))
    monkeypatch.setitem(sys.modules, "hornbook.kernels.attention_gluon", None)
    backward = types.SimpleNamespace(CANDIDATES={64: (ORDERED, REDUCE), 32: (ORDERED,)})
    monkeypatch.setitem(sys.modules, "hornbook.kernels.attention_single_pass", backward)
    for name in ("PLAIN", "OF_KEYS", "OF_QUERIES"):
        monkeypatch.setattr(attention_candidates, name, ())
    monkeypatch.setattr(attention_candidates, "HEAD_DIMS", (64,))


@pytest.fixture
def dispatch(monkeypatch: pytest.MonkeyPatch) -> list[Choice | None]:
    """Attention that looks into the table as the kernels do, and computes what the candidate's name says; the list is
    what it ran on."""
    ran: list[Choice | None] = []
    noise = torch.Generator().manual_seed(0)

    def attend(direction: str, causal: bool, *qkv: torch.Tensor) -> torch.Tensor:
        choice = attention_table.find(direction, 90, 64, causal, qkv[1].shape[1])
        ran.append(choice)
        y = reference(*qkv, causal=causal)
        if choice == CRASH:
            raise RuntimeError("out of ideas")
        if choice == WRONG:
            y = y + torch.zeros_like(y).index_fill(1, torch.tensor(-1), 0.3)
        if choice == UNSURE:
            y = y * (1 + 1e-6 * torch.rand(1, generator=noise))
        if choice == REDUCE:  # other bits, in the gradients only
            y.register_hook(lambda grad: grad * (1 + 1e-6 * torch.rand(1, generator=noise)))
        return y

    def launched(trial: Trial, dtype: str, device: str) -> list[str]:
        return ["plain" if trial.choice in (None, NOBODY) else words(trial.choice)]

    monkeypatch.setattr(attention_candidates, "attend", attend)
    monkeypatch.setattr(attention_candidates, "launched", launched)
    return ran


def tried(choice: Choice | None, direction: str = "forward") -> dict[str, Any]:
    return attention_trials.tried(Trial(direction, 64, True, choice), "cpu", ((1, 40, 2), (1, 70, 1)), "fp32")


# What there is


def test_candidates(offered: None) -> None:
    choices, (note,) = attention_candidates.found()
    assert set(choices) == {("forward", 64), ("backward", 64), ("reduce", 64), ("backward", 32), ("reduce", 32)}
    assert choices["backward", 64] == [ORDERED]
    assert choices["reduce", 64] == [ORDERED, REDUCE], "a kernel with an order serves where none is needed"
    assert note.startswith("kernels/attention_gluon.py: ModuleNotFoundError")


def test_the_plain_kernels_are_candidates_in_other_blocks() -> None:
    choices, _ = attention_candidates.found()
    for D in (64, 128):
        assert {c.variant for c in choices["forward", D]} >= {"plain"}
        assert {c.variant for c in choices["backward", D]} >= {"separate"}
        for some in choices.values():
            assert len(set(some)) == len(some)


def test_each_kernel_of_the_way_back_has_blocks_of_its_own() -> None:
    """One is changed at a time; what is launched differs in that one; and the best of both are timed together."""
    cls = Class("backward", 90, 64, True, True)
    of_keys, of_queries = attention_candidates.separate(90, 64)
    assert set(of_keys + of_queries) <= set(attention_candidates.found(90)[0]["backward", 64])

    def launched(choice: Choice | None) -> dict[str, str]:
        with library.recording(90) as recorded:
            trial = Trial("backward", 64, True, choice)
            attention_candidates.both_ways(trial, attention_candidates.case(trial, (1, 256, 2)), "cpu")
        return {of.kernel.fn.__name__: f"{of.grid} {of.options} {of.arguments['BLOCK_M']}" for of in recorded[2:]}

    before = launched(None)
    assert set(before) == {"attention_backward_kv", "attention_backward_q"}
    for choices, kernel in ((of_keys, "attention_backward_kv"), (of_queries, "attention_backward_q")):
        assert choices
        for choice in choices:
            after = launched(choice)
            assert {name for name in after if after[name] != before[name]} <= {kernel}
        assert any(launched(choice) != before for choice in choices)
    both = of_keys[1]._replace(dq=of_queries[2].dq)
    ms = dict.fromkeys((*of_keys, *of_queries), 2.0) | {None: 1.0, GOOD: 0.1}
    assert attention_candidates.together(cls, ms) is None
    assert attention_candidates.together(cls, ms | {of_keys[1]: 0.9}) is None
    ms |= {of_keys[1]: 0.9, of_queries[2]: 0.8, of_queries[3]: 0.9}
    assert attention_candidates.together(cls, ms) == both
    assert launched(both) == {
        "attention_backward_kv": launched(of_keys[1])["attention_backward_kv"],
        "attention_backward_q": launched(of_queries[2])["attention_backward_q"],
    }
    assert attention_candidates.choice_of(json.loads(json.dumps(both))) == both
    assert "dQ" in words(both)
    assert attention_candidates.choice_of(None) is None


def test_the_best_of_both_kernels_are_timed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    of_keys, of_queries = attention_candidates.separate(90, 64)
    both = of_keys[0]._replace(dq=of_queries[0].dq)
    seconds = {None: 3.0, of_keys[0]: 2.0, of_queries[0]: 2.5, of_queries[1]: 4.0, both: 1.5}
    ran: list[Choice | None] = []

    def attend(direction: str, causal: bool, *qkv: torch.Tensor) -> torch.Tensor:
        ran.append(attention_table.find(direction, 90, 64, causal, 32))
        return reference(*qkv, causal=causal)

    grad = torch.autograd.grad

    def seen(*given: Any, **how: Any) -> Any:
        ran.append(attention_table.find("backward", 90, 64, True, 32))
        return grad(*given, **how)

    def clock(call: timing.Call) -> float:
        call()
        return 1000 * seconds[ran[-1]]

    monkeypatch.setattr(attention_candidates, "attend", attend)
    monkeypatch.setattr(torch.autograd, "grad", seen)
    cls, candidates = Class("backward", 90, 64, True, True), (None, of_keys[0], of_queries[0], of_queries[1])
    row = attention_variants.timed(cls, candidates, clock, LIMITS, device="cpu", dtype="fp32", shape=(1, 16, 1))
    assert list(row["ms"])[:2] == [words(both), words(of_keys[0])]
    assert attention_candidates.choice_of(row["chosen"]) == both
    row = attention_variants.timed(cls, candidates[1:], clock, LIMITS, device="cpu", dtype="fp32", shape=(1, 16, 1))
    assert row["chosen"] is None, "nothing that it could be better than"
    assert "no row, as what runs without one is not right" in attention_variants.class_text(row)


def test_classes(offered: None) -> None:
    choices, _ = attention_candidates.found()
    found = attention_candidates.classes(choices, 90)
    assert len(set(found)) == len(found) == 3 * 4 + 2 * 4
    assert found[0] == Class("forward", 90, 64, True, True)
    assert [c.head_dim for c in found[12:]] == [32] * 8, "the usual head_dims first"
    assert all(c.causal and c.long for c in attention_candidates.classes(choices, 90, quick=True))


@pytest.mark.parametrize("long", [False, True])
def test_shapes_are_of_their_class(long: bool) -> None:
    trial = Trial("forward", 64, True, None)
    assert (attention_candidates.case(trial, attention_trials.SHAPES[long]).shape[1] > 2048) == long
    assert attention_trials.RAGGED[1] % 16 == 0
    assert attention_trials.RAGGED[1] % 64


def test_what_runs_can_be_forced() -> None:
    cls = Class("forward", 90, 64, True, True)
    TABLE[cls] = GOOD
    try:
        assert attention_table.find(*cls[:4], 4096) == GOOD
        with attention_table.using(forward=FAST):
            assert attention_table.find(*cls[:4], 4096) == FAST
            with attention_table.using(forward=None):
                assert attention_table.find(*cls[:4], 4096) is None
            assert attention_table.find(*cls[:4], 4096) == FAST
        assert attention_table.find(*cls[:4], 4096) == GOOD
    finally:
        del TABLE[cls]


# Trials


@pytest.mark.parametrize(
    ("choice", "direction", "words"),
    [
        (None, "forward", None), (GOOD, "forward", None), (ORDERED, "backward", None), (REDUCE, "reduce", None),
        (WRONG, "forward", "WRONG: off by"), (UNSURE, "forward", "other bits"), (REDUCE, "backward", "other bits"),
        (NOBODY, "forward", "no kernel takes it"),
    ],
)  # fmt: skip
def test_trying(choice: Any, direction: str, words: Any, dispatch: list[Any]) -> None:
    result = tried(choice, direction)
    if words is None:
        assert result["error"] < 1e-5
        assert set(dispatch) == {choice}
    else:
        assert words in result["failed"]


@pytest.mark.parametrize("gradient", range(3))
def test_a_wrong_gradient_is_noticed(gradient: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def attend(direction: str, causal: bool, *qkv: torch.Tensor) -> torch.Tensor:
        given = [t.clone() for t in qkv]
        given[gradient].register_hook(lambda grad: grad * 1.03)
        return reference(*given, causal=causal)

    monkeypatch.setattr(attention_candidates, "attend", attend)
    assert "WRONG" in tried(None, "backward")["failed"]
    assert "error" in tried(None, "forward"), "that is about the way forth only"


def test_launches_without_a_candidate_are_the_plain_ones() -> None:
    forward = attention_candidates.launched(Trial("forward", 16, True, None))
    assert [launch.split()[0] for launch in forward] == ["attention_forward"]
    assert attention_candidates.launched(Trial("forward", 16, False, None)) != forward
    backward = attention_candidates.launched(Trial("backward", 16, True, None))
    assert {launch.split()[0] for launch in backward} >= {"attention_backward_kv", "attention_backward_q"}


def test_serving(dispatch: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A line in, a line out, whatever the candidate does."""
    real, small = attention_trials.tried, ((1, 40, 2),)
    monkeypatch.setattr(attention_trials, "tried", lambda trial, device: real(trial, device, small, "fp32"))
    asked = [
        {"direction": "forward", "head_dim": 64, "causal": True, "choice": choice} for choice in (GOOD, CRASH, None)
    ]
    said: list[str] = []
    attention_trials.serve(map(json.dumps, asked), said.append, "cpu")
    results = [json.loads(line)["trial"] for line in said]
    assert [set(r) for r in results] == [{"error"}, {"failed"}, {"error"}]
    assert results[1]["failed"] == "RuntimeError: out of ideas"


STAND_IN = """
import json, sys, time
for line in sys.stdin:
    asked = json.loads(line)
    variant = asked["choice"][0]
    print("a compiler's remark", flush=True)
    if variant == "hangs":
        time.sleep(60)
    if variant == "crashes":
        print("no way back", file=sys.stderr)
        sys.exit(7)
    result = {"failed": "gave up", "over": True} if variant == "over" else {"error": 0.5}
    print(json.dumps({"trial": result}), flush=True)
"""


def test_a_process_that_dies_or_hangs_costs_one_candidate() -> None:
    names = ("good", "hangs", "one", "crashes", "two", "over", "three")
    trials = [Trial("forward", 64, True, Choice(name, 64, 64, 4)) for name in names]
    said = []
    results = attention_trials.in_processes(
        trials, 2, command=(sys.executable, "-c", STAND_IN), seconds=3.0, say=lambda *of: said.append(of)
    )
    outcome = {trial.choice.variant: results[trial] for trial in trials if trial.choice}
    assert outcome.pop("hangs") == {"failed": "not done after 3 s"}
    assert outcome.pop("crashes") == {"failed": "its process ended with 7: no way back"}
    assert outcome.pop("over") == {"failed": "gave up"}
    assert outcome == {name: {"error": 0.5} for name in ("good", "one", "two", "three")}
    assert len(said) == len(trials)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this is about machines without a GPU")
@pytest.mark.skipif(sys.platform == "win32", reason="no Triton there")
def test_the_real_process_answers() -> None:
    """Without a GPU that it cannot."""
    trials = [Trial("forward", 64, True, GOOD)]
    results = attention_trials.in_processes(trials, 1)
    assert list(results) == trials
    for result in results.values():
        assert "CUDA" in result["failed"] or "NVIDIA" in result["failed"], result


def test_no_trial_begins_too_late() -> None:
    trials = [Trial("forward", 64, True, GOOD)]
    assert attention_trials.in_processes(trials, 2, time.monotonic() - 1, command=("nobody-runs-this",)) == {}


# Times and choices


@pytest.mark.parametrize(
    ("ms", "chosen"),
    [
        ({None: 1.03, GOOD: 1.0}, GOOD),
        ({None: math.nextafter(1.03, 0), GOOD: 1.0}, None),
        ({None: 1.0, GOOD: 2.0}, None),
        ({None: 2.0, GOOD: 1.5, FAST: 1.0}, FAST),
        ({GOOD: 1.0}, None),  # faster than what?
        ({None: 1.0}, None),
        ({}, None),
    ],
)
def test_choosing(ms: dict[Any, float], chosen: Any) -> None:
    by_name = {words(choice): choice for choice in ms}
    assert attention_variants.choose({words(c): t for c, t in ms.items()}, by_name) == chosen


@pytest.mark.parametrize(
    "choice", [GOOD, ORDERED, Choice("gluon", 128, 128, 4), Choice("separate", 64, 64, 4, 2, (64, 32, 4, True, 3))]
)
@pytest.mark.parametrize("cls", [Class("forward", 90, 64, True, False), Class("reduce", 120, 128, False, True)])
def test_rows_are_source(cls: Class, choice: Choice) -> None:
    row = attention_variants.table_row(cls, choice)
    assert row.startswith('    Class("')
    assert row.endswith("),")
    assert eval("{" + row + "}", {"Class": Class, "Choice": Choice}) == {cls: choice}


def test_the_row_of_the_docs() -> None:
    row = attention_variants.table_row(Class("forward", 90, 64, True, True), GOOD)
    page = Path(__file__).parents[2] / "docs" / "kernels.md"
    assert f"`{row.strip()}`" in page.read_text("utf-8")


# Seconds, so that there are few rounds.
MS = {None: 4.0, GOOD: 2.0, FAST: 1.0, WRONG: 0.5, CRASH: 0.5, UNSURE: 0.5, NOBODY: 0.5, ORDERED: 3.9, REDUCE: 2.0}


def run(dispatch: list[Any], out: Path, minutes: float | None = None, trials: Any = None) -> dict[str, Any]:
    def clock(call: timing.Call) -> float:
        call()
        return 1000 * MS[dispatch[-1]]

    def all_of_them(todo: Any, until: float) -> Any:
        results = {}
        for trial in todo:
            try:
                results[trial] = tried(trial.choice, trial.direction)
            except RuntimeError as error:
                results[trial] = {"failed": str(error)}
        return results

    return attention_variants._run(
        90, trials or all_of_them, clock, LIMITS, True, minutes, out, device="cpu", dtype="fp32", shape=(1, 32, 2)
    )


def test_a_run(offered: None, dispatch: list[Any], tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """On the way back the choice is forced, too: so the clock sees what backward ran on."""
    grad = torch.autograd.grad

    def seen(*given: Any, **how: Any) -> Any:
        for direction in ("backward", "reduce"):
            if direction in attention_table._forced:
                dispatch.append(attention_table.find(direction, 90, 64, True, 32))
        return grad(*given, **how)

    monkeypatch.setattr(torch.autograd, "grad", seen)
    result = run(dispatch, tmp_path)
    said = capsys.readouterr().out
    by_class = {tuple(r["class"][:3]): r for r in result["rows"]}
    forward = by_class["forward", 90, 64]
    assert list(forward["ms"]) == [words(FAST), words(GOOD), words(None)], "by time, and only those that are right"
    assert forward["of_matmul"][words(FAST)] == pytest.approx(4 * 2 * (32 * 33 // 2) * 64 / 1e12)
    assert Choice(*forward["chosen"]) == FAST
    assert by_class["backward", 90, 64]["chosen"] is None, "2.6 % faster is not enough"
    assert Choice(*by_class["reduce", 90, 64]["chosen"]) == REDUCE
    refused = {name.partition(": ")[2]: why for name, why in result["refused"].items()}
    assert set(refused) >= {words(c) for c in (WRONG, CRASH, UNSURE, NOBODY)}
    assert "WRONG" in refused[words(WRONG)]
    assert json.loads(said.splitlines()[-1])["wrong"] == 1
    rows = (tmp_path / "attention-table.txt").read_text("utf-8")
    found = eval("{" + rows + "}", {"Class": Class, "Choice": Choice})
    assert found == {
        Class("forward", 90, 64, True, True): FAST,
        Class("reduce", 90, 64, True, True): REDUCE,
    }
    assert rows in said
    text = (tmp_path / "attention-variants.md").read_text("utf-8")
    assert rows in text
    assert f"- forward D=64 causal: {words(CRASH)}: out of ideas\n" in text
    assert "attention_gluon.py" in text
    assert f"| {words(FAST)} | 1,000,000 |" in text


def test_a_run_without_time(
    offered: None, dispatch: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """What was not tried is not chosen, and named, as are classes that there is no time for."""
    now = iter([0.0, 10.0, 52.0, 53.0])
    monkeypatch.setattr(attention_variants, "time", types.SimpleNamespace(monotonic=lambda: next(now, 54.0)))
    asked: list[float] = []

    def few(todo: Any, until: float) -> Any:
        asked.append(until)
        forward = [trial.choice for trial in todo if trial.direction == "forward"]
        assert forward[:2] == [None, GOOD], "what runs without a row is tried itself, and first"
        return {trial: {"error": 0.0} for trial in todo if trial.choice in (None, GOOD, ORDERED)}

    result = run(dispatch, tmp_path, 1.0, few)
    assert asked == [30.0]
    assert [r["class"][0] for r in result["rows"]] == ["forward"]
    assert Choice(*result["rows"][0]["chosen"]) == GOOD
    assert f"forward D=64 causal: {words(FAST)}" in result["left_out"]
    assert "backward, head_dim 64, causal, more than 2,048 keys" in result["left_out"]
    text = (tmp_path / "attention-variants.md").read_text("utf-8")
    assert all(f"- not run, so that the run ends in time: {name}\n" in text for name in result["left_out"])


def test_what_fails_only_while_it_is_timed(offered: None, dispatch: list[Any], tmp_path: Path, capsys: Any) -> None:
    result = run(dispatch, tmp_path, trials=lambda todo, until: {trial: {"error": 0.0} for trial in todo})
    forward = next(r for r in result["rows"] if r["class"][0] == "forward")
    assert forward["failed"] == {words(CRASH): "RuntimeError: out of ideas"}
    assert f"- {words(CRASH)}: RuntimeError: out of ideas" in attention_variants.class_text(forward)


# Without a GPU


def test_candidates_are_compiled_if_they_are_asked_for(offered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of each; those that a kernel refuses have no launches, and do not stop the others."""
    assert not list(aot.candidates(frozenset({"attention"})))
    found = list(aot.candidates(frozenset({attention_candidates.NAME})))
    shapes = [example.shape for example in found]
    assert len(set(shapes)) == len(shapes)
    assert f"forward D=64 causal: {words(GOOD)}" in shapes
    assert f"reduce D=64 full: {words(None)}" in shapes
    assert {example.dtype for example in found} == {"bf16"}

    ran: list[Trial] = []

    def refuse(trial: Trial, *_: Any) -> None:
        ran.append(trial)
        raise ValueError("not for me")

    monkeypatch.setattr(attention_candidates, "both_ways", refuse)
    for target in (80, 90):
        with library.recording(target):
            for example in found:
                example.call()
    assert len(ran) == len(found), "for sm_90 only"


def test_the_machine_code_is_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = types.SimpleNamespace(overlap=lambda sass: {"exponentials": sass.count("EX2"), "beside": 1})
    monkeypatch.setitem(sys.modules, "hornbook.benchmarks.sass", seen)
    assert attention_candidates.overlap("MUFU.EX2; MUFU.EX2") == {"exponentials": 2, "beside": 1}
    assert attention_variants.shown({"exponentials": 2, "beside": 1}) == "1 of 2"
    monkeypatch.setitem(sys.modules, "hornbook.benchmarks.sass", None)
    assert attention_candidates.overlap("") is None
    assert attention_variants.shown(None) == "–"
