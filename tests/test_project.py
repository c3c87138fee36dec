"""The files around the code: workflows, hooks, the stub of the core, what a release consists of.

What checks them comes with the extra dev; without it these tests skip.
"""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from .pages import ROOT, blocks

GITHUB = ROOT / ".github"


def module(name: str, *arguments: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """What ``python -m name`` prints; the test skips where it is not installed."""
    if not importlib.util.find_spec(name.partition(".")[0]):
        pytest.skip(f"needs the extra dev ({name} is missing)")
    command = [sys.executable, "-m", name, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.skipif(not GITHUB.is_dir(), reason="only in a checkout")
def test_workflows_are_valid() -> None:
    workflows = sorted(GITHUB.glob("workflows/*.yml"))
    assert len(workflows) > 1
    for schema in ("vendor.github-workflows", "custom.github-workflows-require-timeout"):
        module("check_jsonschema", "--builtin-schema", schema, *workflows)
    module("check_jsonschema", "--builtin-schema", "vendor.dependabot", GITHUB / "dependabot.yml")
    module("check_jsonschema", "--builtin-schema", "vendor.citation-file-format", ROOT / "CITATION.cff")


@pytest.mark.skipif(not GITHUB.is_dir(), reason="only in a checkout")
def test_actions_of_others_are_pinned_to_a_commit() -> None:
    used = [u for path in GITHUB.glob("workflows/*.yml") for u in re.findall(r"uses: (\S+)", path.read_text("utf-8"))]
    assert used
    for action in used:
        assert re.fullmatch(r"actions/[\w-]+@v\d+|[\w-]+/[\w-]+@[0-9a-f]{40}", action), action


def test_hooks_are_valid() -> None:
    module("pre_commit", "validate-config", ".pre-commit-config.yaml")


def test_the_stub_is_what_the_core_is(tmp_path: Path) -> None:
    """By mypy's stubtest: every name, parameter and default of the compiled module, and nothing else."""
    (tmp_path / "hornbook").mkdir()
    (tmp_path / "hornbook" / "__init__.pyi").touch()  # not the package's own, which names torch
    shutil.copy(ROOT / "python" / "hornbook" / "_core.pyi", tmp_path / "hornbook")
    assert "Success" in module("mypy.stubtest", "hornbook._core", cwd=tmp_path, MYPYPATH=str(tmp_path))


def test_the_first_screen_of_contributing_is_three_commands() -> None:
    page = ROOT / "CONTRIBUTING.md"
    lines = blocks(page, "sh")[0].splitlines()
    assert len(lines) == 3
    assert page.read_text("utf-8").index(lines[0]) < 100
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert set(re.findall(r"\w+", lines[0].partition("[")[2])) <= set(extras)
    assert lines[1] == "pytest"
    assert (ROOT / lines[2]).is_file()


NAMES = [
    "hornbook-0.1.0.tar.gz",
    "hornbook-0.1.0-cp311-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "hornbook-0.1.0-cp311-abi3-manylinux_2_17_aarch64.manylinux2014_aarch64.whl",
    "hornbook-0.1.0-cp311-abi3-macosx_11_0_arm64.whl",
    "hornbook-0.1.0-cp311-abi3-win_amd64.whl",
]


@pytest.mark.skipif(not GITHUB.is_dir(), reason="only in a checkout")
@pytest.mark.parametrize(
    ("change", "tag", "said"),
    [
        ({}, "v0.1.0", None),
        ({}, "", None),
        ({}, "v0.2.0", "the tag is v0.2.0, the version 0.1.0"),
        ({4: None}, "", "Windows x64: expected one file, found 0"),
        ({1: "hornbook-0.1.0-cp311-abi3-manylinux_2_34_x86_64.whl"}, "", "Linux x86-64: expected one file, found 0"),
        ({3: "hornbook-0.1.0-cp311-cp311-macosx_11_0_arm64.whl"}, "", "macOS arm64: expected one file, found 0"),
        ({0: "hornbook-0.1.1.tar.gz"}, "", "several versions: 0.1.0, 0.1.1"),
        ({5: "notes.txt"}, "", "notes.txt does not belong here"),
    ],
)
def test_a_release_is_looked_at(change: dict[int, str | None], tag: str, said: str | None, tmp_path: Path) -> None:
    faults = runpy.run_path(str(GITHUB / "check_distributions.py"))["faults"]
    names = dict(enumerate(NAMES)) | change
    for name in filter(None, names.values()):
        (tmp_path / name).write_bytes(b"")
    found = "\n".join(faults(tmp_path, tag))
    assert (said is None) == (not found)
    assert said is None or said in found


@pytest.mark.skipif(not GITHUB.is_dir(), reason="only in a checkout")
def test_a_large_file_is_no_release(tmp_path: Path) -> None:
    script = runpy.run_path(str(GITHUB / "check_distributions.py"))
    for name in NAMES:
        (tmp_path / name).touch()
    with open(tmp_path / NAMES[1], "wb") as file:
        file.truncate(script["MOST"][".whl"] + 1)
    (fault,) = script["faults"](tmp_path, "")
    assert fault.startswith(NAMES[1])
