"""What several commands use: options of the same meaning, and how they speak."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ..errors import ConfigError, DataError
from ..machine import size

if TYPE_CHECKING:
    from ..documents import Files
    from ..tokenizer import TokenizerLike

Kernels = Annotated[
    str | None, arg(metavar="WHICH", help="implementations: auto, reference, torch, fused, or OP=WHICH,...")
]
Sources = Positional[Annotated[list[str], arg(metavar="SOURCE...")]]
Field = Annotated[str, arg(help="of .jsonl files, or the column of .parquet files, that is the text")]


Encoding = Annotated[str | None, arg(help="of text and .jsonl files, such as cp1252 or utf-16; UTF-8 if not given")]


def open_tokenizer(name: str) -> TokenizerLike:
    """A tokenizer by its path, or by one of the names that tiktoken knows."""
    from ..tokenizer import Tokenizer, load

    if Path(name).exists():
        return load(name)
    if name in ("gpt2", "cl100k_base", "o200k_base"):
        return Tokenizer.from_tiktoken(name)
    raise ConfigError(f"{name}: no such tokenizer; give a folder, a file, or gpt2, cl100k_base or o200k_base")


def opened(source: list[str], field: str, *, parted: bool = True, encoding: str | None = None) -> Files | Iterator[str]:
    """What the command line names as text: a corpus, or files and folders; ``parted`` as for `corpora.opened`."""
    from .. import corpora
    from ..documents import Files

    if not source:
        raise ConfigError("which text? Give files, folders, or a corpus of `hornbook corpus list`")
    named = source[0] if len(source) == 1 else [Path(s) for s in source]
    texts = corpora.opened(named, field=field, parted=parted, encoding=encoding)
    if isinstance(texts, Files) and texts.total_bytes == 0:
        raise DataError(f"{texts}: there is no text in it; it is empty")
    return texts


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


def check_place(out: Path, *, folder: bool = False) -> None:
    """Raises ConfigError if ``out``, a file or a folder, cannot be written: better before the work than after it."""
    if out.is_dir() and not folder:
        raise ConfigError(f"{out} is a folder; give the name of a file")
    if out.exists() and not out.is_dir() and folder:
        raise ConfigError(f"{out} is a file; give the name of a folder")
    place = out.absolute() if folder else out.absolute().parent  # a file is put in the place of an older one
    near = next(parent for parent in (place, *place.parents) if parent.exists())
    if not near.is_dir():
        raise ConfigError(f"{out}: {near} is a file, not a folder")
    if not os.access(near, os.W_OK):
        raise ConfigError(f"{out}: nothing can be written to {near}")


class meter:  # noqa: N801 (used like a function)
    """A bar with the time left, on a terminal only. It is called as the ``progress`` of `Tokenizer.train` is."""

    def __enter__(self) -> Callable[[str, int, int | None], None]:
        self._bar, self._phase = None, ""
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}")
            self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self._bar.start()
        return self.show

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, phase: str, done: int, total: int | None) -> None:
        """``phase`` is "count" or "encode", which is done to so many bytes, or something else that is counted."""
        if self._bar is None:
            return
        if phase != self._phase:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._phase, self._task = phase, self._bar.add_task(phase, total=total, amount="")
        words = [size(n) if phase in ("count", "encode") else f"{n:,}" for n in (done, total) if n is not None]
        self._bar.update(self._task, completed=done, amount=" of ".join(words))
