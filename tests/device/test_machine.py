"""What a computer gives a process, read from Linux's files as machines and containers have them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hornbook import machine

linux = pytest.mark.skipif(sys.platform != "linux", reason="these are Linux's files")


@pytest.fixture
def system(tmp_path: Path, monkeypatch):
    """A machine of 4 cores with two threads each, whose files can be written by name."""
    monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "SYS", tmp_path / "sys")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)

    def write(**files: str) -> None:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")

    for n in range(8):
        write(**{f"sys__devices__system__cpu__cpu{n}__topology__thread_siblings_list": f"{n % 4},{n % 4 + 4}"})
    gib = 2**20  # in kilobytes
    write(proc__meminfo=f"MemTotal: {16 * gib} kB\nMemFree: {gib} kB\nMemAvailable: {12 * gib} kB")
    return write


@linux
def test_a_thread_for_each_core(system) -> None:
    assert machine.cores() == machine.Cores(logical=8, physical=4, quota=None)
    assert machine.cores().threads == 4


@linux
def test_only_the_processors_that_this_process_may_use(system, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 4, 5})
    assert machine.cores() == machine.Cores(logical=3, physical=2, quota=None)


@linux
@pytest.mark.parametrize(
    ("files", "quota", "threads"),
    [
        ({"proc__self__cgroup": "0::/", "sys__fs__cgroup__cpu_DOT_max": "max 100000"}, None, 4),
        ({"proc__self__cgroup": "0::/", "sys__fs__cgroup__cpu_DOT_max": "250000 100000"}, 2.5, 2),
        ({"proc__self__cgroup": "0::/", "sys__fs__cgroup__cpu_DOT_max": "50000 100000"}, 0.5, 1),
        ({"proc__self__cgroup": "0::/a/b", "sys__fs__cgroup__a__cpu_DOT_max": "300000 100000"}, 3, 3),
        # A container that does not see the path it is told, by the first version's files.
        (
            {
                "proc__self__cgroup": "4:cpu,cpuacct:/docker/f00\n1:name=systemd:/",
                "sys__fs__cgroup__cpu__cpu_DOT_cfs_quota_us": "200000",
                "sys__fs__cgroup__cpu__cpu_DOT_cfs_period_us": "100000",
            },
            2,
            2,
        ),
        (
            {
                "proc__self__cgroup": "4:cpu,cpuacct:/",
                "sys__fs__cgroup__cpu__cpu_DOT_cfs_quota_us": "-1",
                "sys__fs__cgroup__cpu__cpu_DOT_cfs_period_us": "100000",
            },
            None,
            4,
        ),
    ],
)
def test_a_container_pays_for_fewer(system, files: dict[str, str], quota: float | None, threads: int) -> None:
    system(**files)
    assert machine.cores().quota == quota
    assert machine.cores().threads == threads


@linux
def test_memory(system) -> None:
    gib = 2**30
    assert machine.memory() == machine.Memory(16 * gib, 12 * gib)
    system(proc__self__cgroup="0::/", sys__fs__cgroup__memory_DOT_max="max")
    assert machine.memory().total == 16 * gib
    system(
        sys__fs__cgroup__memory_DOT_max=str(4 * gib),
        sys__fs__cgroup__memory_DOT_current=str(3 * gib),
        sys__fs__cgroup__memory_DOT_stat=f"anon {2 * gib}\ninactive_file {gib}",
    )
    assert machine.memory() == machine.Memory(4 * gib, 2 * gib), "pages of files can be had back"


@linux
def test_nothing_known(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(machine, "PROC", tmp_path)
    monkeypatch.setattr(machine, "SYS", tmp_path)
    assert machine.cores().threads == len(os.sched_getaffinity(0))
    assert machine.memory().total
    assert machine.memory().available is None


def test_here() -> None:
    cores, memory = machine.cores(), machine.memory()
    assert 1 <= cores.threads <= cores.physical <= cores.logical <= (os.cpu_count() or 1)
    assert memory.total is not None
    assert memory.total > 2**27
    assert machine.free_disk(Path("not/there/yet")) == pytest.approx(machine.free_disk(Path.cwd()), rel=0.05)
    assert machine.processor()
