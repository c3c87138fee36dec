"""The wheel and the sdist: what is in them, and that they work where no checkout is near."""

from __future__ import annotations

import email
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKED = ("kernels", "benchmarks", "lessons")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="only in a git checkout"),
    pytest.mark.skipif(not shutil.which("cargo"), reason="needs cargo to build"),
    pytest.mark.skipif(not importlib.util.find_spec("maturin"), reason="needs maturin to build"),
]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command outside of the checkout and return its output; a failure shows all of it."""
    scripts = sysconfig.get_path("scripts")  # where maturin is, which pip calls by its name
    env = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    env |= {"PATH": scripts + os.pathsep + env["PATH"]} | environment
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def building(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables: one folder for all builds, and no optimising, which would take minutes."""
    target = tmp_path_factory.mktemp("target")
    return {"CARGO_TARGET_DIR": str(target), "MATURIN_PEP517_ARGS": "--profile dev"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git knows or would add, as they are now, links as links; a repository, as maturin asks git."""
    copy = tmp_path_factory.mktemp("checkout") / "hornbook"
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if os.path.lexists(ROOT / name):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    run("git", "init", "--quiet", cwd=copy)
    run("git", "add", "--all", cwd=copy)
    return copy


@pytest.fixture(scope="module")
def sdist(checkout: Path, building: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "maturin", "sdist", "--out", out, cwd=checkout, **building)
    return next(out.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(checkout: Path, building: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the checkout."""
    out = tmp_path_factory.mktemp("wheel")
    options = ("--profile", "dev", "--locked", "--out", out)
    run(sys.executable, "-m", "maturin", "build", *options, cwd=checkout, **building)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel_of_sdist(sdist: Path, building: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by pip, as for whoever installs the sdist."""
    out = tmp_path_factory.mktemp("wheel_of_sdist")
    options = ("--no-deps", "--no-build-isolation", "--no-cache-dir", "--wheel-dir", out)
    run(sys.executable, "-m", "pip", "wheel", *options, sdist, cwd=out, **building)
    return next(out.glob("*.whl"))


def new_environment(folder: Path) -> Path:
    """A virtual environment that sees what is installed here, but would take a Hornbook of its own first."""
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def add_what_is_installed(python: Path) -> None:
    # Folders that a .pth file names come last on sys.path, and the .pth files inside them (an editable install of
    # Hornbook may be one) are not read.
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=python.parent).strip()
    here = [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
    Path(site, "what_is_installed.pth").write_text("\n".join(here), encoding="utf-8")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel."""
    python = new_environment(tmp_path_factory.mktemp("installed") / "venv")
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel, cwd=wheel.parent)
    add_what_is_installed(python)
    return python


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert len(names) == len(set(names)), "a file is in the wheel twice"
        return {name: archive.read(name) for name in names}


def version() -> str:
    return tomllib.loads((ROOT / "Cargo.toml").read_text("utf-8"))["package"]["version"]


def test_wheel_holds_every_file(wheel: Path, checkout: Path):
    files = contents(wheel)
    expected = {"hornbook/_core.abi3.so" if os.name != "nt" else "hornbook/_core.pyd"}
    for folder, _, names in os.walk(checkout / "python" / "hornbook", followlinks=True):
        inside = Path(folder).relative_to(checkout / "python")
        if inside.parts[1:2] == ("benchmarks",):  # their results stay in the repository
            names = [name for name in names if name.endswith(".py")]
        expected |= {(inside / name).as_posix() for name in names}
    assert {name for name in files if name.startswith("hornbook/")} == expected
    assert {"hornbook/py.typed", "hornbook/_core.pyi"} <= expected
    for folder in LINKED:
        assert any(name.startswith(f"hornbook/{folder}/") for name in expected), f"{folder} is empty or no link"

    others = {name.partition("/")[0] for name in files} - {"hornbook"}
    assert others == {f"hornbook-{version()}.dist-info"}, "only hornbook may land in site-packages"


def test_wheel_says_what_it_is(wheel: Path):
    files = contents(wheel)
    info = f"hornbook-{version()}.dist-info"
    metadata = email.message_from_bytes(files[f"{info}/METADATA"])
    assert metadata["Version"] == version()
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert b"MIT License" in files[f"{info}/licenses/LICENSE"]
    assert b"hornbook=hornbook.cli:start" in files[f"{info}/entry_points.txt"].replace(b" ", b"")
    assert b"cp311-abi3-" in files[f"{info}/WHEEL"]

    requirements = metadata.get_all("Requires-Dist")
    needed = {text.split(">")[0] for text in requirements if "extra ==" not in text}
    assert needed == {"torch", "numpy", "triton", "safetensors", "tyro", "rich", "matplotlib", "httpx"}
    assert "torch>=2.11" in requirements
    assert [text for text in requirements if text.startswith("triton")] == ["triton>=3.6 ; platform_system == 'Linux'"]
    assert set(metadata.get_all("Provides-Extra")) == {
        "data",
        "bible",
        "test",
        "serve",
        "docs",
        "lessons",
        "peers",
        "dev",
    }


def test_wheel_and_sdist_are_small_and_say_where_they_run(wheel: Path, sdist: Path):
    """A release's limits, for a wheel that is not even optimised, and its tag: one for all CPythons of a system."""
    most = runpy.run_path(str(ROOT / ".github" / "check_distributions.py"))["MOST"]
    for file in (wheel, sdist):
        assert file.stat().st_size <= most[file.suffix], f"{file.name} has {file.stat().st_size:,} bytes"
    assert sdist.name == f"hornbook-{version()}.tar.gz"
    start, platform = wheel.name.rsplit("-", 1)
    assert start == f"hornbook-{version()}-cp311-abi3"
    system = {"linux": r"(manylinux_\d+_\d+|linux)_", "darwin": r"macosx_\d+_\d+_", "win32": r"win_"}[sys.platform]
    assert re.match(system, platform), platform


def test_wheel_and_sdist_carry_no_waste(wheel: Path, sdist: Path):
    with tarfile.open(sdist) as archive:
        assert not [entry.name for entry in archive if not entry.isfile()], "links do not unpack on every system"
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert {"Cargo.lock", "LICENSE", "README.md", "pyproject.toml", "rust/src/lib.rs"} <= set(names)
    for folder in LINKED:
        assert [name for name in names if name.startswith(f"python/hornbook/{folder}/")]
        assert not [name for name in names if name.startswith(f"{folder}/")], "a second copy"
    for name in [*names, *contents(wheel)]:
        assert "__pycache__" not in name
        assert "benchmarks/results" not in name


def test_sdist_makes_the_same_wheel(wheel: Path, wheel_of_sdist: Path):
    def source(files: dict[str, bytes]) -> dict[str, bytes]:
        built = ("_core.abi3.so", "_core.pyd", "/RECORD", "/WHEEL")  # WHEEL: pip builds for this machine's tag
        return {name: data for name, data in files.items() if not name.endswith(built)}

    ours, theirs = contents(wheel), contents(wheel_of_sdist)
    assert set(ours) == set(theirs)
    assert source(ours) == source(theirs)


def test_wheel_works_outside_the_checkout(installed: Path, tmp_path: Path):
    check = """
import importlib, pathlib, pkgutil, sys
import hornbook as hb

home = pathlib.Path(hb.__file__).parent
assert home.is_relative_to(sys.prefix), home
assert hb.__version__ == VERSION, hb.__version__

tok = hb.Tokenizer.train(["so much depends upon a red wheel barrow"] * 8, vocab_size=300)
text = "so much depends"
ids = tok.encode(text)
assert tok.decode(ids) == text and len(ids) < len(text)

import torch
model = hb.GPT(hb.GPTConfig.preset("nano", vocab_size=tok.vocab_size))
assert model(torch.tensor([ids])).shape == (1, len(ids), tok.vocab_size)

apart = ("kernels", "benchmarks", "lessons", "serve", "__main__")  # want a kernel language, an extra, or to run
names = [m.name for m in pkgutil.walk_packages([str(home)], "hornbook.") if m.name.split(".")[1] not in apart]
for name in names:
    importlib.import_module(name)
import hornbook.kernels, hornbook.benchmarks
print(len(names), "modules")
"""
    assert "modules" in run(installed, "-c", check.replace("VERSION", repr(version())), cwd=tmp_path)


def test_command_works_outside_the_checkout(installed: Path, tmp_path: Path):
    hornbook = installed.with_name("hornbook" + installed.suffix)
    assert "usage: hornbook" in run(hornbook, "--help", cwd=tmp_path)
    assert version() in run(hornbook, "--version", cwd=tmp_path)
    assert version() in run(installed, "-m", "hornbook", "--version", cwd=tmp_path)


def test_editable_install(checkout: Path, building: dict[str, str], tmp_path: Path):
    """The links lead to the folders at the root, so that a changed kernel is used at once."""
    python = new_environment(tmp_path / "venv")
    add_what_is_installed(python)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--force-reinstall")
    run(python, "-m", "pip", "install", *options, "--editable", checkout, cwd=tmp_path, **building)
    check = """
import hornbook, hornbook.kernels
print(hornbook.__file__, hornbook.Tokenizer.train(["upon upon"], vocab_size=258).decode([0]), hornbook.kernels.__file__)
"""
    where = run(python, "-c", check, cwd=tmp_path).split()
    assert Path(where[0]) == checkout / "python" / "hornbook" / "__init__.py"
    assert Path(where[-1]).resolve() == (checkout / "kernels" / "__init__.py").resolve()
    installed_now = run(python, "-m", "pip", "list", "--editable", cwd=tmp_path)
    assert str(checkout) in installed_now
