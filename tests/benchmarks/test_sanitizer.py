"""What is run under compute-sanitizer, and what is made of its words. The tool itself needs a GPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hornbook.benchmarks import sanitizer, sanitizer_calls
from hornbook.benchmarks.sanitizer import Tool
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
        monkeypatch.setattr(sanitizer_calls, name, few)
    said: list[str] = []
    before = library.launches.copy()
    for group in sanitizer.GROUPS:
        assert sanitizer.run(group, "cpu", said.append), said
    launched = {name for name, count in library.launches.items() if count > before[name]}
    assert launched >= {
        "attention_forward", "attention_backward_kv", "attention_backward_q", "attention_forward_pipelined",
        "attention_backward_single_pass", "single_pass_finish", "decode_attention_split", "decode_attention_merge",
    }  # fmt: skip
    left_out = [line for line in said if "left out" in line]
    assert all("gluon" in line for line in left_out)
    assert all("off by" in line for line in said if line not in left_out)
    assert len(set(said)) == len(said), "nothing is run twice"
    for variant in ("tma", "carry_qk", "carry_p", "specialized", "carry_p_persistent", "ordered", "reduce"):
        done = [line for line in said if f" {variant} " in line and "off by" in line]
        assert any(" causal " in line for line in done), variant
        assert any(" full " in line for line in done), variant
    for variant in ("ordered", "reduce", "gluon", "gluon_together"):
        assert {D for D in (64, 128) for line in said if f" {variant} " in line and f"D={D}," in line} == {64, 128}
    assert any("D=128, causal 70x42" in line for line in said), "queries that see nothing"


def test_keys_are_not_values() -> None:
    """A kernel that takes one for the other would be right, else."""
    tensors = [t.flatten()[:32] for t in sanitizer_calls.qkv(5, 5, 16)]
    assert all(not torch.equal(a, b) for i, a in enumerate(tensors) for b in tensors[:i])


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
tool=$2
while [ "${1#--}" != "$1" ]; do shift 2; done
"$@" || exit 5
case "$tool" in
  memcheck) echo "========= ERROR SUMMARY: 0 errors" ;;
  racecheck) echo "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)" ;;
  silent) ;;
  status) echo "========= ERROR SUMMARY: 1 error"; exit 86 ;;
esac
"""


@posix
def test_what_tools_say(tmp_path: Path) -> None:
    tool = Tool(executable(tmp_path / "compute-sanitizer", TOOL), (2026, 4), frozenset({"--padding"}))
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
    assert sanitizer.watched([tool.path], 0)["failed"] == "not run, so that the run ends in time"


def is_running(pid: int) -> bool:
    """Whether there is such a process, other than one that nobody has asked for its status."""
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return not (stat.exists() and stat.read_text("utf-8").rpartition(")")[2].split()[0] == "Z")
    return False


def comes_true(what: Any) -> bool:
    until = time.monotonic() + 10
    while not what() and time.monotonic() < until:
        time.sleep(0.02)
    return bool(what())


@posix
def test_who_takes_too_long_ends_with_all_that_it_started(tmp_path: Path) -> None:
    """A tool's child keeps its output open: who waits for the end of that, waits for the child."""
    slow = executable(tmp_path / "slow", f'echo begun; sleep 60 & echo $! > "{tmp_path}/pid"; wait')
    began = time.monotonic()
    late = sanitizer.watched([slow], 1)
    assert time.monotonic() - began < 20
    assert late["failed"] == "not done after 1 s"
    assert late["said"] == "begun\n"
    assert comes_true(lambda: not is_running(int((tmp_path / "pid").read_text("utf-8"))))


@posix
def test_who_is_told_to_end_leaves_nobody_behind(tmp_path: Path) -> None:
    """gpu.sh ends it so, when its time is up."""
    child = executable(tmp_path / "child", f'sleep 60 & echo $! > "{tmp_path}/pid.new"; '
                                           f'mv "{tmp_path}/pid.new" "{tmp_path}/pid"; wait')  # fmt: skip
    program = (
        "import signal, sys, pathlib\n"
        "from hornbook.benchmarks import sanitizer\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        f"sanitizer.check(sanitizer.Tool(pathlib.Path('none'), (), frozenset()), ['plain'], [], child=[{str(child)!r}])"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    while not (tmp_path / "pid").exists() and process.poll() is None:  # it imports PyTorch, which may take its time
        time.sleep(0.05)
    pid = int((tmp_path / "pid").read_text("utf-8"))
    assert is_running(pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert comes_true(lambda: not is_running(pid))


# As of 2025.4 and 2026.2.
VERSION = """NVIDIA (R) Compute Sanitizer
Copyright (c) 2020-2026 NVIDIA Corporation
Version %s (build 38334959) (public-release)
"""
HELP = """Memcheck-specific options:
  --padding arg (=0)                    Size in bytes for padding buffer to add after each allocation.
  --report-api-errors arg (=explicit)   Print errors if any API call fails.
"""
NEWER = "  --check-tensor-ops arg (=no)          Enables checks related to the PTX cp.async.bulk.tensor instructions\n"


@posix
def test_what_versions_can_do(tmp_path: Path) -> None:
    def tool(version: str, options: str) -> Tool:
        for name, text in (("version", VERSION % version), ("help", options)):
            (tmp_path / name).write_text(text, "utf-8")
        return sanitizer.asked(executable(tmp_path / "tool", f'cat "{tmp_path}/${{1#--}}"'))

    old, new, bare = tool("2025.4.1.0", HELP), tool("2026.4.0.0", HELP + NEWER), tool("", "")
    assert (old.version[:2], new.version[:2], bare.version) == ((2025, 4), (2026, 4), ())
    assert new.notes() == []
    assert new.command("memcheck") == [
        str(tmp_path / "tool"), "--tool", "memcheck", "--error-exitcode", "86", "--check-tensor-ops", "yes",
        "--padding", str(1 << 20), "--report-api-errors", "no",
    ]  # fmt: skip
    assert new.command("racecheck")[5:] == ["--check-tensor-ops", "yes"]
    assert "--check-tensor-ops" not in old.command("memcheck")
    assert old.notes()[0].startswith("TMA is not watched by this version")
    assert [note.split()[0] for note in old.notes()] == ["TMA", "racecheck:"]
    assert bare.command("memcheck")[1:] == ["--tool", "memcheck", "--error-exitcode", "86"]
    assert len(bare.notes()) == 3


RACES = """========= COMPUTE-SANITIZER
plain: causal, D=64, bfloat16: off by 3.1e-03
========= Error: Race reported between Write access at attention_forward+0x5ad20 in standard.py:237
=========     and Write access at attention_forward+0x5ad20 in standard.py:237 [6136 hazards]
=========         Host Frame: PyObject_Call in call.c:317 [0x11388b] in python3
=========
========= Warning: Race reported between Read access at decode+0x10 in decode_attention.py:20
=========     and Write access at decode+0x20 in decode_attention.py:21 [8 hazards]
=========
========= RACECHECK SUMMARY: 2 hazards displayed (1 error, 1 warning)
"""


def test_reports_are_cut_out() -> None:
    first, second = sanitizer.reports(RACES)
    assert first.startswith("========= Error: Race reported between Write access at attention_forward+0x5ad20")
    assert first.endswith("[6136 hazards]")
    assert "decode_attention.py:21" in second
    assert sanitizer.reports("plain: Error\n========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n") == []


@pytest.mark.parametrize("there", [False, True])
def test_the_end(there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    results = {"plain, racecheck": {"said": RACES, "summary": "1 error", "failed": "it found something"}}
    tool = Tool(Path("tool"), (2025, 4, 1), frozenset())
    monkeypatch.setattr(sanitizer, "asked", lambda path: tool)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sanitizer, "find", lambda: Path("tool") if there else None)
    monkeypatch.setattr(sanitizer, "check", lambda *given: results)
    status = sanitizer.main(["--only", "plain", "--minutes", "1"])
    said = capsys.readouterr().out.splitlines()
    end = json.loads(said[-1])
    if there:
        assert status == 1
        assert said[0] == "tool, version 2025.4.1"
        assert said[1].startswith("Note: TMA is not watched by this version")
        assert "plain, racecheck: it found something: 1 error" in said
        assert "The first 2 of 2 reports:" in said
        assert any("issue 7264" in line for line in said)
        assert end == {"ran": True, "processes": 1, "failed": ["plain, racecheck"]}
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
