"""What several commands use: options of the same meaning, and how they speak."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..tokenizer import TokenizerLike

Kernels = Annotated[
    str | None, arg(metavar="WHICH", help="implementations: auto, reference, torch, fused, or OP=WHICH,...")
]
Sources = Positional[Annotated[list[str], arg(metavar="SOURCE...")]]


def open_tokenizer(name: str) -> TokenizerLike:
    """A tokenizer by its path, or by one of the names that tiktoken knows."""
    from ..tokenizer import Tokenizer, load

    if Path(name).exists():
        return load(name)
    if name in ("gpt2", "cl100k_base", "o200k_base"):
        return Tokenizer.from_tiktoken(name)
    raise ConfigError(f"{name}: no such tokenizer; give a folder, a file, or gpt2, cl100k_base or o200k_base")


def named(source: list[str]) -> str | list[Path]:
    """What the command line names as text: one name, or several paths."""
    if not source:
        raise ConfigError("which text? Give files, folders, or a corpus of `hornbook corpus list`")
    return source[0] if len(source) == 1 else [Path(s) for s in source]


def parse_size(text: str) -> int:
    """ "5MB" → 5,000,000 bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)b?", text.strip().lower())
    if match is None:
        raise ConfigError(f"a size is a number of bytes such as 5000000, 500KB or 5MB, not {text!r}")
    return round(float(match[1]) * {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}[match[2]])


def use(kernels: str | None) -> None:
    if kernels is not None:
        from .. import ops

        ops.use(kernels)


def note(message: str) -> None:
    print(message, file=sys.stderr)


class spinner:  # noqa: N801 (used like a function)
    """A line that shows how far a task of unknown length is, on a terminal only."""

    def __enter__(self) -> Callable[[str, int, int | None], None]:
        from rich.console import Console

        self._status = Console(stderr=True).status("") if sys.stderr.isatty() else None
        if self._status is not None:
            self._status.start()
        return self.show

    def __exit__(self, *exc: object) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, phase: str, done: int, total: int | None) -> None:
        if self._status is not None:
            self._status.update(f"{phase}: {done:,}" + (f" of {total:,}" if total else ""))
