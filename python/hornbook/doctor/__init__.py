"""What this machine can run, and why: the first thing to look at when something is slow, missing or broken.

The examinations are lists of `Check`; one function writes them for people, one as JSON:

    report.py       what a check is, and both ways to write it
    packages.py     Python, the packages that Hornbook needs, compilers
    devices.py      GPUs, threads, number formats, kernels, which implementation each operation runs
    places.py       memory, disks, folders, environment variables
    trial.py        a self-test of tokenizer, operations and training, in about five seconds

Nothing here needs torch or numpy to be imported: where they are missing or broken, that is what is reported.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator

from ..errors import HornbookError
from . import devices, packages, places, trial
from .packages import version
from .report import Check, to_json, write

__all__ = ["Check", "checks", "run", "version"]

Examine = Callable[[], Iterable[Check]]

SECTIONS: dict[str, Examine] = {
    "here": packages.here,
    "packages": packages.needed,
    "devices": devices.devices,
    "kernels": devices.kernels,
    "operations": devices.operations,
    "memory": places.memory,
    "places": places.folders,
    "variables": places.variables,
}
TRIALS: dict[str, Examine] = {"self-test": trial.run}


def run(*, as_json: bool = False, self_test: bool = True) -> int:
    """Examine this machine and print what was found; the exit status: 1 if something is broken, else 0."""
    started = time.monotonic()
    found = checks(self_test=self_test)
    if as_json:
        kept = list(found)
        print(to_json(kept, seconds=time.monotonic() - started))
    else:
        kept = write(found, sys.stdout)
    return int(any(check.status == "problem" for check in kept))


def checks(*, self_test: bool = True) -> Iterator[Check]:
    """All findings, in order, as they are made. An examination that fails is a finding, too."""
    for section, examine in (SECTIONS | (TRIALS if self_test else {})).items():
        try:
            yield from examine()
        except HornbookError as error:  # says itself what to do
            yield Check(section, "examination", "problem", str(error))
        except Exception as error:
            words = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            yield Check(
                section, "examination", "problem", f"failed: {words}",
                "this is not foreseen: please report it, with the output of `hornbook doctor --json`",
            )  # fmt: skip
