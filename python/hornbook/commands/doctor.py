"""``hornbook doctor``."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Examine this machine: what is installed, what hardware there is, which implementation each operation runs, where
    things lie, and whether tokenizer, kernels and training work. Each problem comes with its cure.

    The exit status is 1 if something is broken. That something is merely absent, such as a GPU, breaks nothing.
    """

    json: bool = False
    """print JSON with all findings and numbers, for programs; `hornbook.doctor.report.to_json` describes it"""
    self_test: bool = True
    """try tokenizer, operations, kernels and training, in about five seconds"""

    def run(self) -> None:
        from ..doctor import run

        if status := run(as_json=self.json, self_test=self.self_test):
            sys.exit(status)
