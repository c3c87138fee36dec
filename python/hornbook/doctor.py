"""What this machine can run, and why: the first thing to look at when something is slow or missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator

import torch

from . import ops
from .errors import ConfigError
from .kernels import interpreter


def run() -> None:
    """Print the report; the first version of ``hornbook doctor``."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    for title, lines in (("Here", here()), ("Kernels", kernels())):
        console.print(f"[bold]{title}[/]")
        for name, text in lines:
            console.print(f"  {name:12} ", end="")
            console.print(text, markup=False)
    table = Table("operation", "runs", "why", box=None, pad_edge=False)
    try:
        for op, implementation in ops.kernels_in_use().items():
            table.add_row("  " + op, implementation, ops.reason(op))
        console.print(table)
    except ConfigError as error:
        console.print(f"  {error}", markup=False)
    console.print(
        "\nChange it with --kernels, HORNBOOK_KERNELS or hornbook.use_kernels: reference, torch, fused, auto."
    )


def here() -> Iterator[tuple[str, str]]:
    """Versions and hardware."""
    yield "hornbook", f"{version('hornbook')}, Python {platform.python_version()}, {platform.platform()}"
    yield "torch", f"{torch.__version__}, {torch.get_num_threads()} threads on {os.cpu_count()} cores"
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(i)
            yield f"GPU {i}", f"{p.name}, {p.total_memory / 2**30:.0f} GiB, compute capability {p.major}.{p.minor}"
    elif torch.backends.mps.is_available():
        yield "GPU", "Apple's, by MPS; there are no Triton kernels for it"
    else:
        built = "this PyTorch was built without CUDA" if torch.version.cuda is None else "PyTorch finds no CUDA GPU"
        yield "GPU", f"none: {built}"
    yield "bf16", "on the GPU" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "in software, slow"


def kernels() -> Iterator[tuple[str, str]]:
    """Whether Triton kernels can run, and how."""
    yield "triton", version("triton") if importlib.util.find_spec("triton") else "not installed"
    if (problem := ops.kernels_problem()) is not None:
        yield "fused", f"cannot run: {problem}"
    elif torch.cuda.is_available():
        yield "fused", "runs on the GPU"
    elif "triton" in sys.modules and not interpreter.is_on():
        yield "fused", f"would run in Triton's interpreter: set {interpreter.VARIABLE}=1 in the environment"
    else:
        yield "fused", "runs in Triton's interpreter: right, and thousands of times slower than PyTorch"
    yield "asked for", os.environ.get("HORNBOOK_KERNELS") or "nothing (auto)"


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "installed, version unknown"
