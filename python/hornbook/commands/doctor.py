"""``hornbook doctor``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Print what is installed here, what hardware there is, and which implementation each operation runs."""

    def run(self) -> None:
        from ..doctor import run

        run()
