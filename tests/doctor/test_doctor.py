"""The doctor finds what is broken, says how to cure it, and is not itself broken by it."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hornbook import doctor, machine, ops
from hornbook.doctor import devices, packages, places, report, trial
from hornbook.doctor.report import Check


def examined(folder: Path | None = None, setup: str = "", trial: bool = True, **environment: str) -> tuple[int, dict]:
    """The exit status and the JSON of a doctor in a process of its own; ``folder`` holds packages that hide others."""
    options = ["doctor", "--json", *([] if trial else ["--no-self-test"])]
    code = f"{setup}\nfrom hornbook.cli import main\nmain({options})"
    paths = [str(folder)] if folder else []
    paths += [str(Path(doctor.__file__).parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in paths if p)} | environment
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


def by_name(found: dict) -> dict[str, dict]:
    return {f"{c['section']}/{c['name']}": c for c in found["checks"]}


def test_a_healthy_machine(capsys) -> None:
    started = time.process_time()
    assert doctor.run(as_json=True) == 0
    assert time.process_time() - started < 60, "the processor's time: a busy machine takes longer, and works no more"
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["status"]) == (1, "ok")
    assert found["seconds"] > 0
    checks = by_name(found)
    assert all(set(c) == {"section", "name", "status", "text", "cure", "data"} for c in found["checks"])
    assert list(dict.fromkeys(c["section"] for c in found["checks"])) == list(report.TITLES)
    runs = {op: checks[f"operations/{op}"]["data"]["implementation"] for op in ops.OPERATIONS}
    assert runs == ops.kernels_in_use()
    assert checks["packages/torch"]["data"]["version"].split("+")[0] == torch.__version__.split("+")[0]
    assert checks["self-test/operations"]["data"]["tried"]
    assert checks["self-test/training"]["data"]["after"] < checks["self-test/training"]["data"]["before"]
    assert checks["devices/processor"]["data"]["physical"] == machine.cores().physical
    assert checks["memory/main memory"]["data"]["total"] == machine.memory().total


BROKEN = {
    "torch": "raise OSError('libtorch_cpu.so: cannot open shared object file')",
    "numpy": "raise ImportError('numpy was built for another Python')",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_package(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(BROKEN[name])
    code, found = examined(tmp_path)
    assert (code, found["status"]) == (1, "problem")
    broken = by_name(found)[f"packages/{name}"]
    assert broken["status"] == "problem"
    assert BROKEN[name][7:].split("'")[1] in broken["text"]
    assert f"pip install --force-reinstall {name}" in broken["cure"]
    others = [c for c in found["checks"] if c["status"] == "problem" and c["name"] not in ("torch", "numpy")]
    assert not others, "one fault, one cure"
    tokenizer = by_name(found)["self-test/tokenizer"]
    assert tokenizer["status"] == ("ok" if name == "torch" else "note"), "what can be tried is tried"


def hidden(*names: str) -> str:
    """Code after which packages are not to be found."""
    return f"""
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name in {names} else find(name, *rest)
"""


def test_without_torch_and_triton() -> None:
    code, found = examined(setup=hidden("torch", "triton"))
    checks = by_name(found)
    assert code == 1
    assert checks["packages/torch"]["text"] == "is not installed"
    assert "download.pytorch.org/whl/cpu" in checks["packages/torch"]["cure"]
    assert checks["kernels/triton"]["status"] == "note", "which is no fault"
    assert checks["self-test/tokenizer"]["status"] == "ok"
    code, found = examined(setup=hidden("triton"), trial=False)
    assert code == 0
    assert by_name(found)["kernels/triton"]["status"] == "note"
    assert "not installed" in by_name(found)["kernels/fused"]["text"]
    assert all(by_name(found)[f"operations/{op}"]["data"]["implementation"] == "torch" for op in ops.OPERATIONS)


def test_faults_of_the_environment(tmp_path: Path) -> None:
    faults = {"HORNBOOK_DATA": str(tmp_path / "gone"), "HORNBOOK_KERNELS": "fast", "HORNBOOK_KERNEL": "x"}
    code, found = examined(trial=False, **faults)
    checks = by_name(found)
    assert code == 1
    assert "which is no folder" in checks["places/data"]["text"]
    assert checks["operations/choice"]["status"] == "problem"
    assert "HORNBOOK_KERNELS" in checks["operations/choice"]["cure"]
    assert "did you mean 'HORNBOOK_KERNELS'?" in checks["variables/HORNBOOK_KERNEL"]["text"]


def test_no_home(tmp_path: Path, monkeypatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("TRITON_CACHE_DIR", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", none)
    cache = next(c for c in places.folders() if c.name == "Triton's cache")
    assert (cache.status, cache.cure) == ("note", "name another one in TRITON_CACHE_DIR")


@pytest.mark.parametrize(("free", "status"), [(10**12, "ok"), (10**6, "problem")])
def test_a_full_disk(monkeypatch, free: int, status: str) -> None:
    monkeypatch.setattr(machine, "free_disk", lambda path: free)
    here = next(c for c in places.folders() if c.name == "working directory")
    assert here.status == status
    assert here.data["free"] == free


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = places._folder("downloads", lambda: tmp_path / "a" / "b", "HORNBOOK_CACHE")
    assert found.status == "note"
    assert "nothing can be written" in found.text
    (tmp_path / "file").write_text("")
    found = places._folder("working directory", lambda: tmp_path / "file" / "b", needed=True)
    assert (found.status, "is no folder" in found.text) == ("problem", True)


def test_proxies_keep_their_secrets(monkeypatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy.example:3128")
    proxy = next(c for c in places.variables() if c.name == "HTTPS_PROXY")
    assert proxy.text == "http://proxy.example:3128"
    assert "secret" not in str(proxy)


# A machine with a GPU, played


@pytest.fixture
def driver(monkeypatch):
    """An NVIDIA driver, and a PyTorch that finds no card."""
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def failing() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old\nmore")

    monkeypatch.setattr(torch.cuda, "init", failing)


def test_a_gpu_that_cannot_be_used(driver, monkeypatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    found = devices._no_gpu()
    assert (found.status, "built without CUDA" in found.text) == ("note", True)
    assert "pip install --force-reinstall torch==" in found.cure
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    found = devices._no_gpu()
    assert (found.status, "driver on your system is too old" in found.text) == ("problem", True)
    assert "CUDA 13.0" in found.cure
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices._no_gpu().status == "note"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(devices, "Path", lambda name: SimpleNamespace(exists=lambda: False))
    assert devices._no_gpu().text == "none: all runs on the CPU"


@pytest.mark.parametrize(("capability", "status"), [((9, 0), "ok"), ((7, 5), "note")])
def test_a_card(monkeypatch, capability: tuple[int, int], status: str) -> None:
    card = SimpleNamespace(name="Card", total_memory=80 * 10**9, major=capability[0], minor=capability[1])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: card)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "ones", lambda *shape, device: torch.tensor([1.0, 1.0]))
        found = devices._card(0, ops.LEAST_GPU)
    assert (found.status, found.data["capability"]) == (status, list(capability))

    def lost(*args, **options):
        raise RuntimeError("CUDA error: no kernel image is available\nmore")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "ones", lost)
        found = devices._card(0, ops.LEAST_GPU)
    assert (found.status, "no kernel image" in found.text) == ("problem", True)


def test_too_many_threads(monkeypatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: machine.Cores(64, 32, quota=2))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 32)
    threads = next(c for c in devices.devices() if c.name == "threads")
    assert (threads.status, "OMP_NUM_THREADS=2" in threads.cure) == ("note", True)


# The self-test finds faults


def test_a_wrong_operation_is_found(monkeypatch) -> None:
    right = ops.softmax
    monkeypatch.setattr(ops, "softmax", lambda *args, **options: right(*args, **options) + 0.01)
    found = trial.operations()
    assert found.status == "problem"
    assert "softmax" in found.text
    assert "--kernels softmax=reference" in found.cure


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_far_from_all(bad: float) -> None:
    x = torch.ones(3)
    assert trial._distance(x, x) == 0
    assert trial._distance((x, x * bad), (x, x)) > trial.NEAR
    assert trial._distance(x.long(), x.long()) == 0


def test_a_tokenizer_that_loses_text_is_found(monkeypatch) -> None:
    from hornbook import Tokenizer

    monkeypatch.setattr(Tokenizer, "decode", lambda self, ids: "lost")
    assert trial.tokenizer().status == "problem"


def test_training_that_learns_nothing_is_found(monkeypatch) -> None:
    from hornbook import optim

    monkeypatch.setattr(optim, "set_rate", lambda optimizers, factor: [g.update(lr=0.0) for o in optimizers
                                                                       for g in o.param_groups])  # fmt: skip
    before = torch.get_rng_state()
    assert trial.training().status == "problem"
    assert torch.get_rng_state().equal(before), "the caller's random numbers are left alone"


def test_an_examination_that_fails_is_a_finding(monkeypatch) -> None:
    def fails() -> None:
        raise ZeroDivisionError("by zero\nmore")

    monkeypatch.setattr(machine, "memory", fails)
    found = [c for c in doctor.checks(self_test=False) if c.section == "memory"]
    assert [(c.status, c.text) for c in found] == [("problem", "failed: ZeroDivisionError: by zero")]


# How it looks

SOME = [
    Check("here", "Python", "ok", "3.12"),
    Check("here", "Rust", "note", "none found"),
    Check("places", "data", "problem", "which is no folder", "make it"),
]


def test_for_people(monkeypatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    assert report.write(iter(SOME), out) == SOME
    assert out.getvalue().splitlines() == [
        "Here",
        "  ✓ Python               3.12",
        "  · Rust                 none found",
        "Places",
        "  ✗ data                 which is no folder",
        "                         make it",
        "",
        "1 problem:",
        "  data: which is no folder",
        "    cure: make it",
    ]
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
    report.write(SOME, plain)
    plain.seek(0)
    assert "  X data" in plain.read()
    out = io.StringIO()
    report.write(SOME[:2], out)
    assert out.getvalue().endswith("\nNothing is broken.\n")


def test_versions() -> None:
    assert packages._numbers("2.11.0+cpu") == (2, 11, 0)
    assert packages._numbers("2.9") < packages._numbers("2.11")
    assert packages._package("numpy", "99").status == "problem"
    assert re.match(r"pip install -U 'numpy>=99'", packages._package("numpy", "99").cure)
    assert packages._package("no-such-package", "1").text == "is not installed"


def test_sizes() -> None:
    assert [machine.size(n) for n in (None, 12, 5_368_709_120, 2 * 10**12)] == [
        "unknown", "12 bytes", "5.4 GB", "2.0 TB",
    ]  # fmt: skip
