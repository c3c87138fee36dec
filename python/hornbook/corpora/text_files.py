"""Text files as documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import DataError

SUFFIXES = {".txt", ".md"}


def read(paths: Iterable[Path], document_end: str) -> Iterator[str]:
    """The documents of text files: each file is one, or several with ``document_end`` on a line between them.

    Args:
        paths: files, read strictly as UTF-8, or folders, of which every .txt and .md below is read in order of name.
    """
    for path in listed(paths):
        yield from _one_file(path, document_end)


def listed(paths: Iterable[Path]) -> Iterator[Path]:
    """Files as they are, and in place of a folder its files."""
    for path in paths:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not found:
                raise DataError(f"{path}: no {' or '.join(sorted(SUFFIXES))} files in this folder")
            yield from found
        else:
            yield path


def holds(path: Path, text: str) -> bool:
    """Whether ``text`` occurs in a file."""
    wanted, block = text.encode(), b""
    with open(path, "rb") as file:
        while more := file.read(1 << 20):
            block = block[-len(wanted) :] + more
            if wanted in block:
                return True
    return False


def _one_file(path: Path, document_end: str) -> Iterator[str]:
    held: list[str] = []
    offset = 0
    try:
        with open(path, "rb") as file:
            for raw in file:
                line = raw.decode("utf-8")
                offset += len(raw)
                if line.strip() == document_end:
                    yield _join(held)
                    held = []
                else:
                    held.append(line)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 at byte {offset + error.start}: {error.reason}; convert the file to UTF-8 first"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if held:
        yield _join(held)


def _join(lines: list[str]) -> str:
    """The text between two document ends, without the line break that belongs to the mark after it."""
    return "".join(lines).removesuffix("\n")
