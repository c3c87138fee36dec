"""What is run under compute-sanitizer, and what is made of its words. The tool itself needs a GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hornbook.benchmarks import sanitizer
from hornbook.kernels import interpreter, library

posix = pytest.mark.skipif(sys.platform == "win32", reason="a tool for Linux")


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text, encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.mark.skipif(not interpreter.is_on(), reason="in the interpreter; on a GPU benchmarks/gpu.sh runs it")
def test_the_calls_are_right_and_are_of_every_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter, where nothing races: all kernels are launched, but those in Gluon, and close to float64."""
    for name, few in (("TOKENS", 45), ("FAST_TOKENS", 70), ("ROOM", 640)):
        monkeypatch.setattr(sanitizer, name, few)
    said: list[str] = []
    before = library.launches.copy()
    for group in sanitizer.GROUPS:
        assert sanitizer.run(group, "cpu", said.append), said
    launched = {name for name, count in library.launches.items() if count > before[name]}
    assert launched >= {
        "attention_forward", "attention_backward_kv", "attention_backward_q", "attention_forward_pipelined",
        "attention_backward_single_pass", "decode_attention_split", "decode_attention_merge",
    }  # fmt: skip
    left_out = [line for line in said if "left out" in line]
    assert all("gluon" in line for line in left_out)
    assert all("off by" in line for line in said if line not in left_out)
    for variant in ("tma", "carry_qk", "carry_p", "specialized", "ordered", "reduce"):
        assert any(f" {variant} " in line and "off by" in line for line in said), variant


def test_a_wrong_result_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(device: str) -> float:
        raise RuntimeError("illegal address")

    def not_here(device: str) -> float:
        raise NotImplementedError("another GPU's")

    said: list[str] = []
    for call, right in ((lambda device: 1e-4, True), (lambda device: 0.5, False), (broken, False), (not_here, True)):
        monkeypatch.setitem(sanitizer.GROUPS, "plain", lambda call=call: iter([("a call", call)]))
        assert sanitizer.run("plain", "cpu", said.append) == right
    assert [line.split(": ")[2] for line in said] == ["off by 1.0e-04", "WRONG", "FAILED", "left out"]


@posix
def test_where_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(sanitizer.site, "getsitepackages", lambda: [str(tmp_path / "site")])
    monkeypatch.setattr(sanitizer.site, "getusersitepackages", lambda: str(tmp_path / "user"))
    nowhere = sanitizer.find()
    if nowhere is None:
        in_package = executable(tmp_path / "site/nvidia/cu13/bin/compute-sanitizer", "")
        assert sanitizer.find() == in_package
    toolkit = executable(tmp_path / "toolkit/compute-sanitizer/compute-sanitizer", "")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    assert sanitizer.find() == toolkit
    on_path = executable(tmp_path / "bin/compute-sanitizer", "")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert sanitizer.find() == on_path
    on_path.chmod(0o644)
    assert sanitizer.find() == toolkit, "what cannot be run is not it"


TOOL = """
shift; tool=$1; shift 3
"$@" || exit 5
case "$tool" in
  memcheck) echo "========= ERROR SUMMARY: 0 errors" ;;
  racecheck) echo "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)" ;;
  silent) ;;
  status) echo "========= ERROR SUMMARY: 1 error"; exit 86 ;;
  slow) exec sleep 60 ;;
esac
"""


@posix
def test_what_tools_say(tmp_path: Path) -> None:
    tool = executable(tmp_path / "compute-sanitizer", TOOL)
    child = executable(tmp_path / "child", 'echo "ran $1"; [ "$1" != decode ]')
    tools = ("memcheck", "racecheck", "silent", "status")
    found = sanitizer.check(tool, ("plain", "decode"), tools, 60, [str(child)])
    assert {name: result["failed"] for name, result in found.items()} == {
        "plain, by itself": None,
        "decode, by itself": "its process ended with 1",
        "plain, memcheck": None,
        "decode, memcheck": "its process ended with 5",
        "plain, racecheck": "it found something",
        "decode, racecheck": "its process ended with 5",
        "plain, silent": "no summary: the tool did not run",
        "decode, silent": "its process ended with 5",
        "plain, status": "it found something",
        "decode, status": "its process ended with 5",
    }
    assert found["plain, memcheck"]["summary"] == "0 errors"
    assert found["plain, memcheck"]["said"].startswith("ran plain")
    late = sanitizer.watched([tool, "--tool", "slow", "--error-exitcode", "86", child, "plain"], 0.5)
    assert late["failed"] == "not done after 0 s"
    assert sanitizer.watched([tool], 0)["failed"] == "not run, so that the run ends in time"


@pytest.mark.parametrize("there", [False, True])
def test_the_end(there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    results = {"plain, memcheck": {"said": "text\n", "summary": "1 error", "failed": "it found something"}}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sanitizer, "find", lambda: Path("tool") if there else None)
    monkeypatch.setattr(sanitizer, "check", lambda *given: results)
    status = sanitizer.main(["--only", "plain", "--minutes", "1"])
    said = capsys.readouterr().out.splitlines()
    end = json.loads(said[-1])
    if there:
        assert status == 1
        assert "plain, memcheck: it found something: 1 error" in said
        assert end == {"ran": True, "processes": 1, "failed": ["plain, memcheck"]}
    else:
        assert status == 2
        assert said[0].startswith("NOT RUN: there is no compute-sanitizer here")
        assert end["ran"] is False
    with pytest.raises(sanitizer.ConfigError, match="there is no group 'plane'; did you mean 'plain'"):
        sanitizer.main(["--only", "plane"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this is about machines without a GPU")
def test_without_a_gpu(capsys: Any) -> None:
    assert sanitizer.main([]) == 2
    assert json.loads(capsys.readouterr().out) == {"ran": False, "reason": "there is no CUDA GPU here"}
