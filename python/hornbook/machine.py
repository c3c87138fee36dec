"""What this computer gives a process: cores, memory, disk. Standard library only, so that `doctor` can always ask."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Where Linux answers; tests put folders of their own in their place.
PROC, SYS = Path("/proc"), Path("/sys")


@dataclass(frozen=True)
class Cores:
    """What may be computed on.

    Attributes:
        logical: processors that this process may run on (`taskset` and batch systems give it some of the machine's).
        physical: cores that these belong to: two that share one have one set of arithmetic units between them.
        quota: processors' worth of time that a container is given, None for no limit.
    """

    logical: int
    physical: int
    quota: float | None

    @property
    def threads(self) -> int:
        """How many threads have something to gain: one a core, and no more than the quota pays for. With more than
        that, all wait for the one that is held up."""
        return max(1, min(self.physical, self.physical if self.quota is None else int(self.quota)))


@dataclass(frozen=True)
class Memory:
    """Main memory in bytes: of the machine, or of the container if it was given less. None: this system does not say.

    Attributes:
        total: in all.
        available: that can be had now without swapping.
    """

    total: int | None
    available: int | None


def cores() -> Cores:
    """The processors that this process may use."""
    allowed = os.sched_getaffinity(0) if sys.platform == "linux" else set(range(os.cpu_count() or 1))
    if sys.platform == "linux":
        near = {_read(SYS / f"devices/system/cpu/cpu{n}/topology/thread_siblings_list") or str(n) for n in allowed}
        physical = len(near)
    else:  # Apple's fast cores; a thread on a slow one would hold up the others
        physical = _sysctl("hw.perflevel0.physicalcpu") or len(allowed)
    quotas = [quota for folder in _control_groups("cpu") if (quota := _quota(folder)) is not None]
    return Cores(len(allowed), min(physical, len(allowed)), min(quotas, default=None))


def memory() -> Memory:
    """The main memory that this process may use."""
    total, available = _whole_memory()
    for folder in _control_groups("memory"):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
        if limit is not None and (total is None or limit < total):
            # Pages of files count as used, and are given back when they are wanted.
            free = limit - (used or 0) + _stat(folder / "memory.stat", "inactive_file")
            total, available = limit, min(limit, max(0, free), limit if available is None else available)
    return Memory(total, available)


def free_disk(path: Path) -> int | None:
    """Bytes that can be written where ``path`` is or will be; None if it cannot be told."""
    try:
        return shutil.disk_usage(next(p for p in (path, *path.absolute().parents) if p.exists())).free
    except (OSError, StopIteration):
        return None


@cache
def processor_flags() -> frozenset[str]:
    """What the processor can do, as Linux spells it: "avx512_bf16", "amx_bf16", "bf16" (Arm); empty where unknown."""
    if sys.platform == "darwin":
        return frozenset({"bf16"} if _sysctl("hw.optional.arm.FEAT_BF16") else ())
    for line in (_read(PROC / "cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def processor() -> str:
    """The processor's name, or its architecture where it has none."""
    for line in (_read(PROC / "cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _whole_memory() -> tuple[int | None, int | None]:
    """Total and available memory of the machine."""
    if sys.platform == "win32":
        import ctypes

        class Status(ctypes.Structure):  # MEMORYSTATUSEX
            _fields_ = [("size", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
                (name, ctypes.c_ulonglong) for name in ("total", "available", "a", "b", "c", "d", "e")
            ]

        status = Status(size=ctypes.sizeof(Status))
        if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
            return status.total, status.available
        return None, None
    if (text := _read(PROC / "meminfo")) is not None:
        facts = {name: value for name, _, value in (line.partition(":") for line in text.splitlines())}
        return _kilobytes(facts.get("MemTotal")), _kilobytes(facts.get("MemAvailable"))
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None
    except (OSError, ValueError):
        return None, None


def _kilobytes(text: str | None) -> int | None:
    return None if text is None else int(text.split()[0]) * 1024


def _control_groups(controller: str) -> Iterator[Path]:
    """The folders, from the innermost out, in which Linux says how much of something a container may have. A container
    often sees its own group as the root, and not the path that it is told."""
    for line in (_read(PROC / "self/cgroup") or "").splitlines():
        _, names, path = [*line.split(":", 2), "", ""][:3]
        if names and controller not in names.split(","):
            continue
        root = SYS / "fs/cgroup" / (controller if names else "")
        inside = root / path.strip("/")
        yield from (folder for folder in (inside, *inside.parents) if folder == root or root in folder.parents)


def _quota(folder: Path) -> float | None:
    """Processors' worth of time, from the second version's file or the first one's."""
    words = (_read(folder / "cpu.max") or "").split()
    if not words:
        words = [_read(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
    try:
        quota, period = int(words[0]), int(words[1])
    except (ValueError, IndexError):  # "max", or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def _stat(path: Path, name: str) -> int:
    facts = dict(line.split(maxsplit=1) for line in (_read(path) or "").splitlines() if " " in line)
    return int(facts.get(name, 0))


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text is not None and text.isdigit() else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _sysctl(name: str) -> int | None:
    """A number that macOS knows."""
    if sys.platform != "darwin":
        return None
    try:
        done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=5)
        return int(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def size(count: int | None) -> str:
    """5,368,709,120 → "5.4 GB"; None is unknown."""
    if count is None:
        return "unknown"
    for unit, least in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if count >= least:
            return f"{count / least:.1f} {unit}"
    return f"{count} bytes"
