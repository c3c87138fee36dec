"""What Rust's own tools show of the core: fuzz targets find nothing, Miri objects to nothing, time is linear."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "rust" / "fuzz").is_dir(), reason="only in a checkout"),
    pytest.mark.skipif(not shutil.which("cargo"), reason="needs cargo"),
]


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    print(done.stdout[-20_000:], done.stderr[-20_000:])
    return done


@pytest.mark.alone
def test_fuzz_targets_find_nothing():
    """Each for 30 s, two at a time, under AddressSanitizer."""
    done = run(sys.executable, ROOT / "rust" / "fuzz" / "run.py", "--seconds", "30", "--jobs", "2")
    if done.returncode == 2:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0


def test_miri_objects_to_nothing():
    """Of the unsafe code: windows by any instructions, and prefetching. Miri plays a processor that has them all."""
    if subprocess.run(["cargo", "+nightly", "miri", "--version"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("needs Miri (rustup toolchain install nightly --component miri,rust-src)")
    features = "+avx2,+avx512f,+avx512bw,+bmi1,+bmi2,+lzcnt,+popcnt"
    flags = f"-Ctarget-feature={features}" if platform.machine() in ("x86_64", "AMD64") else ""
    done = run("cargo", "+nightly", "miri", "test", "--locked", "--lib", "--", "window", "piece", RUSTFLAGS=flags)
    assert done.returncode == 0
    assert "anything_can_be_prefetched ... ok" in done.stdout


def test_merging_is_linear_up_to_64_mb():
    done = run("cargo", "test", "--locked", "--lib", "--", "--ignored", "--nocapture", "linear")
    assert done.returncode == 0
    assert "merging_is_linear_up_to_64_mb ... ok" in done.stdout
