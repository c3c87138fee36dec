"""What every test can rely on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Where tests run in several processes, each has one thread: two would wait for each other more than they compute.
SEVERAL = "PYTEST_XDIST_WORKER" in os.environ
if SEVERAL:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# PyTorch's threads should not spin while they wait: the tests of several checkouts may share two cores.
os.environ.setdefault("GOMP_SPINCOUNT", "100000")

# Kernels run in Triton's interpreter where there is no GPU; Triton looks for this when it is imported.
if not (Path("/proc/driver/nvidia/version").exists() or os.environ.get("CUDA_VISIBLE_DEVICES")):
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A test that fails in CI fails at home with the same example, and no slow machine fails one by its clock.
settings.register_profile("home", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "home")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process a core, but not more than four, as each holds a PyTorch. A few files are done sooner in this one."""
    some = any(".py" in argument for argument in config.args)
    return 0 if some or os.environ.get("PYTEST_XDIST_WORKER") else min(4, os.cpu_count() or 1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of several processes, or that want the machine alone, count as slow, so that CI runs them. Where
    tests run in several processes, those of a file run in one, as they share what they made; the thousands of the
    kernels share nothing."""
    for item in items:
        if item.get_closest_marker("dist") or item.get_closest_marker("alone"):
            item.add_marker(pytest.mark.slow)
        if item.path.stem != "test_every_kernel":
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_collection_finish() -> None:
    """A fixed number of threads: sums, and so losses, do not depend on how many cores the machine has."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1 if SEVERAL else 2)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA GPU")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of texts that HORNBOOK_DATA names: books, names, many languages, tokenizers' vocabularies."""
    folder = os.environ.get("HORNBOOK_DATA")
    if not folder:
        pytest.skip("HORNBOOK_DATA is not set: it names the folder with the texts that this test reads")
    if not Path(folder).is_dir():
        pytest.skip(f"HORNBOOK_DATA names {folder}, which is no folder")
    return Path(folder)
