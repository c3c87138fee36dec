"""Python, the packages that Hornbook needs, and compilers."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from .report import Check

IMPORTED = ("numpy", "torch", "safetensors")  # the others are only looked for: importing them takes time
SMALL_TORCH = "pip install torch --index-url https://download.pytorch.org/whl/cpu"


def here() -> Iterator[Check]:
    """Hornbook itself, the interpreter, the system and what builds."""
    yield Check("here", "hornbook", "ok", f"{version('hornbook')}, in {Path(__file__).resolve().parents[1]}")
    python = f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"
    data = {"version": platform.python_version(), "executable": sys.executable}
    if sys.version_info < (3, 11):  # noqa: UP036 (what this is about)
        cure = "make an environment with CPython 3.11 or newer"
        yield Check("here", "Python", "problem", python, cure, data)
    else:
        yield Check("here", "Python", "ok", python, data=data)
    yield Check("here", "platform", "ok", platform.platform(), data={"machine": platform.machine()})
    try:
        importlib.import_module(".._core", __package__)
        yield Check("here", "compiled core", "ok", "loads")
    except ImportError as error:
        cure = (
            "reinstall Hornbook for this Python: pip install --force-reinstall --no-deps hornbook, or `pip install .`"
        )
        yield Check("here", "compiled core", "problem", f"does not load: {_first(error)}", f"{cure} in a checkout")
    yield _compiler()
    yield _rust()


def _compiler() -> Check:
    """What Triton compiles its launchers with, and torch.compile its code for the CPU."""
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang", "cl"]
    found = next((path for name in names if (path := shutil.which(name))), None)
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    data = {"path": found, "python_headers": header.is_file()}
    what = "Triton's launchers on a GPU, torch.compile and building from source need it"
    if found is None:
        cure = "install one, such as gcc (Debian, Ubuntu: apt install gcc), or name it in CC"
        return Check("here", "C compiler", "note", f"none found; {what}", cure, data)
    if not header.is_file() and os.name == "posix":
        cure = "install them (Debian, Ubuntu: apt install python3-dev)"
        return Check("here", "C compiler", "note", f"{found}, but without Python's headers ({header})", cure, data)
    return Check("here", "C compiler", "ok", found, data=data)


def _rust() -> Check:
    rustc, cargo = shutil.which("rustc"), shutil.which("cargo")
    data = {"rustc": rustc, "cargo": cargo}
    if rustc is None or cargo is None:
        return Check("here", "Rust", "note", "none found; only building from source needs it", data=data)
    try:
        said = subprocess.run([rustc, "--version"], capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return Check("here", "Rust", "note", f"{rustc} does not run: {_first(error)}", data=data)
    return Check("here", "Rust", "ok", said or rustc, data=data)


def needed() -> Iterator[Check]:
    """The packages that Hornbook asks for: there, new enough, and not broken."""
    try:
        requirements = importlib.metadata.requires("hornbook") or []
    except importlib.metadata.PackageNotFoundError:
        cure = "install it: pip install hornbook, or `pip install -e .` in a checkout"
        yield Check("packages", "hornbook", "problem", "runs without being installed: its version is unknown", cure)
        requirements = ["numpy", "torch"]
    for requirement in requirements:
        match = re.match(r"([\w.-]+)\s*(?:>=\s*([\d.]+))?", requirement)
        if match is None or "extra ==" in requirement or match[1] == "triton":  # triton: see the kernels
            continue
        yield _package(match[1], match[2] or "0")
    if problem("torch") is None and problem("numpy") is None:
        yield _together()


def _package(name: str, least: str) -> Check:
    have = version(name)
    data = {"version": have, "least": least}
    install = SMALL_TORCH if name == "torch" else f"pip install '{name}>={least}'"
    why = problem(name) if name in IMPORTED else None
    if importlib.util.find_spec(name.replace("-", "_")) is None:
        hint = " (the small build, for machines without a GPU; else `pip install torch`)" if name == "torch" else ""
        return Check("packages", name, "problem", "is not installed", install + hint, data)
    if why is not None:
        cure = f"reinstall it: pip install --force-reinstall {name}"
        if "numpy" in why.lower() and name != "numpy":
            cure += " numpy"
        return Check("packages", name, "problem", f"{have} cannot be imported: {why}", cure, data)
    if _numbers(have) < _numbers(least):
        return Check("packages", name, "problem", f"{have} is too old", f"pip install -U '{name}>={least}'", data)
    return Check("packages", name, "ok", have, data=data)


def _together() -> Check:
    """PyTorch and NumPy are built for each other's memory; a PyTorch that was built for another NumPy says so late."""
    import torch

    try:
        torch.zeros(1).numpy()
    except RuntimeError as error:
        cure = "bring both up to date: pip install -U torch numpy"
        return Check("packages", "torch with numpy", "problem", f"do not work together: {_first(error)}", cure)
    return Check("packages", "torch with numpy", "ok", "work together")


@cache
def problem(name: str) -> str | None:
    """Why a package cannot be imported, in one line, or None."""
    try:
        importlib.import_module(name)
    except Exception as error:  # a broken package raises whatever it likes
        return f"{type(error).__name__}: {_first(error)}"
    return None


def version(package: str) -> str:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown version"


def _first(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")


def _numbers(version: str) -> tuple[int, ...]:
    """ "2.11.0+cpu" → (2, 11, 0); an unknown one is new enough."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else (10**9,)
