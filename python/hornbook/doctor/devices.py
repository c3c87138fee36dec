"""GPUs, threads and number formats, whether kernels can run, and which implementation each operation gets."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from .. import machine
from ..errors import ConfigError
from ..machine import size
from .packages import SMALL_TORCH, problem, version
from .report import Check

BF16 = {
    "hardware": "by the device itself",
    "software": "in software: slower than fp32",
    "none": "not possible: use fp32",
}


def _no_torch(section: str) -> Iterator[Check]:
    if problem("torch") is not None:
        yield Check(section, "torch", "note", "not looked at, as PyTorch cannot be imported (see Packages)")


def devices() -> Iterator[Check]:
    """What PyTorch can compute on."""
    cores = machine.cores()
    data = {"logical": cores.logical, "physical": cores.physical, "quota": cores.quota}
    quota = "" if cores.quota is None else f", of which this container may use {cores.quota:g}"
    words = f"{machine.processor()}, {cores.physical} cores, {cores.logical} threads{quota}"
    yield Check("devices", "processor", "ok", words, data=data)
    yield from (missing := list(_no_torch("devices")))
    if missing:
        return
    import torch

    from .. import device

    yield from _gpu()
    chosen = device.pick()
    yield Check("devices", "chosen", "ok", f"{chosen.type}: what --device auto takes", data={"device": chosen.type})
    how = device.bf16(chosen)
    status = "ok" if how == "hardware" else "note"
    yield Check("devices", "bf16", status, f"{BF16[how]} ({chosen.type})", data={"how": how})
    have, asked = torch.get_num_threads(), device.threads_asked_for()
    data = {"threads": have, "gain": cores.threads, "asked": asked}
    why = f", as {asked} says" if asked else ""
    if have > cores.threads:
        cure = f"set OMP_NUM_THREADS={cores.threads} (hornbook's commands do, unless the environment sets a number)"
        words = f"PyTorch computes with {have}{why}: more than there are cores for, so that they wait for each other"
        yield Check("devices", "threads", "note", words, cure, data)
    else:
        yield Check("devices", "threads", "ok", f"PyTorch computes with {have}{why}", data=data)


def _gpu() -> Iterator[Check]:
    import torch

    from .. import ops

    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            yield _card(i, ops.LEAST_GPU)
    elif torch.backends.mps.is_available():
        words = "Apple's, by MPS; there are no Triton kernels for it, operations run PyTorch's own"
        yield Check("devices", "GPU", "ok", words, data={"kind": "mps"})
    else:
        yield _no_gpu()


def _card(i: int, least: tuple[int, int]) -> Check:
    import torch

    p = torch.cuda.get_device_properties(i)
    words = f"{p.name}, {size(p.total_memory)}, compute capability {p.major}.{p.minor}"
    data = {"name": p.name, "memory": p.total_memory, "capability": [p.major, p.minor], "kind": "cuda"}
    try:
        works = torch.ones(2, device=f"cuda:{i}").sum().item() == 2
        why = "sums wrongly"
    except RuntimeError as error:
        works, why = False, str(error).splitlines()[0]
    if not works:
        cure = (
            "look at `nvidia-smi` for a card that is full or lost, then at the driver; reinstall PyTorch for this card"
        )
        return Check("devices", f"GPU {i}", "problem", f"{words}, but it does not compute: {why}", cure, data)
    if (p.major, p.minor) < least:
        return Check("devices", f"GPU {i}", "note", f"{words}: too old for our kernels; PyTorch's run", data=data)
    return Check("devices", f"GPU {i}", "ok", words, data=data)


def _no_gpu() -> Check:
    """Why CUDA is not there: no card, one that this PyTorch was not built for, or one that it cannot reach."""
    import torch

    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    data = {"kind": None, "driver": driver, "torch_cuda": torch.version.cuda}
    if not driver:
        return Check("devices", "GPU", "note", "none: all runs on the CPU", data=data)
    if hidden is not None and hidden.strip() in ("", "-1"):
        return Check("devices", "GPU", "note", f"hidden by CUDA_VISIBLE_DEVICES={hidden!r}", data=data)
    if torch.version.cuda is None:
        cure = (
            f"for the GPU, take PyTorch's usual build: pip install --force-reinstall torch=={_plain(version('torch'))}"
        )
        words = "there is an NVIDIA driver, but this PyTorch was built without CUDA"
        return Check("devices", "GPU", "note", words, cure, data)
    try:
        torch.cuda.init()
        why = "no card is visible"
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
    cure = (
        f"bring the NVIDIA driver up to what CUDA {torch.version.cuda} needs, or install a PyTorch for an older CUDA; "
        f"in a container, start it with its GPUs; to stay on the CPU: {SMALL_TORCH}"
    )
    return Check(
        "devices", "GPU", "problem", f"there is an NVIDIA driver, but PyTorch cannot use it: {why}", cure, data
    )


def kernels() -> Iterator[Check]:
    """Whether Triton kernels can run, and how."""
    if importlib.util.find_spec("triton") is None:
        cure = "for kernels: pip install triton" if sys.platform == "linux" else ""
        words = "not installed: there are no fused kernels, all else works"
        yield Check("kernels", "triton", "note", words, cure)
    else:
        yield Check("kernels", "triton", "ok", version("triton"), data={"version": version("triton")})
    yield from (missing := list(_no_torch("kernels")))
    if missing:
        return
    import torch

    from .. import ops
    from ..kernels import interpreter

    if (why := ops.kernels_problem()) is not None:
        yield Check("kernels", "fused", "note", f"cannot run: {why}", data={"runs": "no"})
    elif torch.cuda.is_available():
        if (broken := problem("triton")) is not None:
            cure = "reinstall it, in the version that PyTorch asks for: pip install --force-reinstall torch"
            yield Check("kernels", "fused", "problem", f"Triton cannot be imported: {broken}", cure, {"runs": "no"})
        elif shutil.which(os.environ.get("CC") or "cc") is None and shutil.which("gcc") is None:
            cure = "install one (Debian, Ubuntu: apt install gcc python3-dev), or choose --kernels torch"
            words = "Triton needs a C compiler to launch kernels, and there is none"
            yield Check("kernels", "fused", "problem", words, cure, {"runs": "no"})
        else:
            yield Check("kernels", "fused", "ok", "runs on the GPU", data={"runs": "gpu"})
    elif interpreter.is_on():
        words = "runs in Triton's interpreter: right, and thousands of times slower than PyTorch"
        yield Check("kernels", "fused", "ok", words, data={"runs": "interpreter"})
    else:
        words = f"would run in Triton's interpreter, with {interpreter.VARIABLE}=1 in the environment"
        yield Check("kernels", "fused", "note", words, data={"runs": "interpreter, when asked for"})


def operations() -> Iterator[Check]:
    """Which implementation each operation gets, and why."""
    yield from (missing := list(_no_torch("operations")))
    if missing:
        return
    from .. import ops

    try:
        chosen = ops.kernels_in_use()
    except ConfigError as error:
        cure = "mend HORNBOOK_KERNELS, or leave it out: reference, torch, fused, auto, or OPERATION=IMPLEMENTATION,..."
        yield Check("operations", "choice", "problem", str(error), cure)
        return
    for op, implementation in chosen.items():
        data = {"implementation": implementation, "why": ops.reason(op)}
        yield Check("operations", op, "ok", f"{implementation:10} {ops.reason(op)}", data=data)
    words = "change it with --kernels, HORNBOOK_KERNELS or hornbook.use_kernels: reference, torch, fused, auto"
    yield Check("operations", "choice", "ok", words, data={"HORNBOOK_KERNELS": os.environ.get("HORNBOOK_KERNELS")})


def _plain(version: str) -> str:
    return version.split("+")[0]
