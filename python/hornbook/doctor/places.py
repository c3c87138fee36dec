"""Memory, disks, the folders where data and caches lie, and what the environment says."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from .. import machine
from ..errors import HornbookError, nearest
from ..machine import size
from .packages import problem
from .report import Check, Status

# What the demo takes at its height (measured: 1.49 GB), and room for the system beside it.
ENOUGH_MEMORY = 2 * 10**9
# A checkpoint of the demo's model with its optimizer takes 10 MB, and one is written before the older is removed.
ENOUGH_DISK = 10**8

VARIABLES = {
    "HORNBOOK_CACHE": "the folder for downloads",
    "HORNBOOK_DATA": "a folder that is looked into before anything is downloaded",
    "HORNBOOK_DEBUG": "1 shows the traceback of a fault",
    "HORNBOOK_KERNELS": "implementations: auto, reference, torch, fused, or OPERATION=IMPLEMENTATION,...",
}
FOREIGN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "TRITON_INTERPRET", "TRITON_CACHE_DIR")
FOREIGN += ("TIKTOKEN_CACHE_DIR", "CC", "NO_COLOR", "FORCE_COLOR", "HTTP_PROXY", "HTTPS_PROXY")


def memory() -> Iterator[Check]:
    """Main memory, and the GPU's."""
    have = machine.memory()
    data = {"total": have.total, "available": have.available}
    words = f"{size(have.total)}, of which {size(have.available)} can be had"
    if have.available is not None and have.available < ENOUGH_MEMORY:
        cure = "end other programs; the demo takes 1.5 GB"
        yield Check("memory", "main memory", "note", words, cure, data)
    else:
        yield Check("memory", "main memory", "ok", words, data=data)
    if problem("torch") is None:
        import torch

        from .. import device

        for i in range(torch.cuda.device_count()) if torch.cuda.is_available() else ():
            gpu = device.memory(torch.device("cuda", i))
            words = f"{size(gpu.total)}, of which {size(gpu.available)} can be had"
            yield Check("memory", f"GPU {i}", "ok", words, data={"total": gpu.total, "available": gpu.available})


def folders() -> Iterator[Check]:
    """Where things are read and written, and how much room there is."""
    yield _folder("working directory", Path.cwd, needed=True)
    yield _folder("temporary files", lambda: Path(tempfile.gettempdir()), needed=True)
    yield _data()
    yield _folder("downloads", _downloads, "HORNBOOK_CACHE")
    yield _folder("Triton's cache", _triton, "TRITON_CACHE_DIR")
    yield _folder("tiktoken's cache", _tiktoken, "TIKTOKEN_CACHE_DIR")


def _folder(name: str, find: Callable[[], Path], variable: str = "", *, needed: bool = False) -> Check:
    """Whether something can be written to a folder, which need not be there yet."""
    status: Status = "problem" if needed else "note"
    other = f"name another one in {variable}" if variable else "work in another one"
    try:
        path = find()
        near = next(p for p in (path, *path.absolute().parents) if p.exists())
    except (OSError, RuntimeError, HornbookError, StopIteration) as error:
        return Check("places", name, status, f"unknown: {error}", other)
    free = machine.free_disk(path)
    set_by = f" (by {variable})" if variable and os.environ.get(variable) else ""
    there = "" if path.exists() else ", not there yet"
    data = {"path": str(path), "exists": path.exists(), "free": free, "variable": variable or None}
    words = f"{path}{set_by}, {size(free)} free{there}"
    if not near.is_dir():
        return Check("places", name, status, f"{words}; {near} is no folder", other, data)
    if not os.access(near, os.W_OK | os.X_OK):
        return Check("places", name, status, f"{words}; nothing can be written there", other, data)
    if free is not None and free < ENOUGH_DISK:
        return Check("places", name, status, f"{words}: the disk is nearly full", f"make room, or {other}", data)
    return Check("places", name, "ok", words, data=data)


def _data() -> Check:
    """HORNBOOK_DATA, which is only read."""
    value = os.environ.get("HORNBOOK_DATA")
    data = {"path": value, "variable": "HORNBOOK_DATA"}
    if not value:
        words = "HORNBOOK_DATA is not set; a folder of texts that it names would be looked into before downloading"
        return Check("places", "data", "ok", words, data=data)
    path = Path(value).expanduser()
    if not path.is_dir():
        cure = "make it, or name another one, or unset the variable"
        return Check("places", "data", "problem", f"HORNBOOK_DATA names {path}, which is no folder", cure, data)
    if not os.access(path, os.R_OK | os.X_OK):
        cure = "give yourself the right to read it"
        return Check("places", "data", "problem", f"{path} (by HORNBOOK_DATA) cannot be read", cure, data)
    return Check("places", "data", "ok", f"{path} (by HORNBOOK_DATA), {len(os.listdir(path))} entries", data=data)


def _downloads() -> Path:
    from ..corpora.places import cache_folder

    return cache_folder()


def _triton() -> Path:
    named = os.environ.get("TRITON_CACHE_DIR")
    home = Path(os.environ.get("TRITON_HOME") or Path.home())
    return Path(named) if named else home / ".triton" / "cache"


def _tiktoken() -> Path:
    """As tiktoken itself finds it."""
    named = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    return Path(named) if named else Path(tempfile.gettempdir(), "data-gym-cache")


def variables() -> Iterator[Check]:
    """The environment variables that change something, those of ours that nothing reads, and which there are."""
    for name, value in sorted(os.environ.items()):
        if name in VARIABLES or name in FOREIGN:
            yield Check("variables", name, "ok", _secretless(value), data={"value": _secretless(value)})
        elif name.startswith("HORNBOOK_"):
            words = f"{value}: nothing reads this variable{nearest(name, VARIABLES)}"
            yield Check("variables", name, "note", words, data={"value": value})
    yield Check("variables", "ours", "ok", ", ".join(VARIABLES), data=dict(VARIABLES))


def _secretless(value: str) -> str:
    """Without the name and password that the address of a proxy may hold: reports are shown to others."""
    scheme, mark, rest = value.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}" if mark else value
