"""The standard library of the Python that runs: a corpus of program text that every machine has."""

from __future__ import annotations

import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError
from .corpus import HERE, Corpus, State

# Packages that others installed, and tests: many systems leave those out, and some hold broken text on purpose.
LEFT_OUT = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}


def folder() -> Path:
    """Where this Python's sources are."""
    return Path(sysconfig.get_path("stdlib"))


def sources() -> list[Path]:
    """The files of Python in it, by their path in the order of characters: the same list wherever they lie."""
    root = folder()
    found = [path.relative_to(root) for path in root.rglob("*.py")]
    kept = [path for path in found if not LEFT_OUT.intersection(path.parts[:-1]) and (root / path).is_file()]
    return [root / path for path in sorted(kept, key=lambda path: path.as_posix())]


def documents() -> Iterator[str]:
    """The files, each a document. One that is empty, or not text of the encoding that it declares, is left out.

    Raises:
        DataError: if this Python came without its sources.
    """
    some = False
    for path in sources():
        try:
            with tokenize.open(path) as file:
                text = file.read()
        except (SyntaxError, UnicodeDecodeError):  # the first: an encoding that nobody knows
            continue
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
        if text:
            some = True
            yield text
    if not some:
        raise DataError(f"{folder()}: this Python has no sources here; use another corpus, such as fables")


def state() -> State:
    """Whether there are sources."""
    return HERE if any(folder().glob("*.py")) else State(False, "this Python came without its sources")


STDLIB = Corpus(
    "stdlib",
    "Python's standard library as it is on this machine; a document is a file",
    "PSF-2.0",
    "the Python that runs",
    None,
    documents,
    state,
    measured=lambda: sum(path.stat().st_size for path in sources()),
)
