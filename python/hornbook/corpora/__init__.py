"""What there is to read.

A corpus is a stream of documents. `documents` makes one from whatever a user names: a file, a folder, a list of
files, texts in memory, or a corpus that Hornbook knows (`CORPORA`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError, nearest
from . import fables
from .text_files import holds, listed
from .text_files import read as read_files

DOCUMENT_END = "<|endoftext|>"


@dataclass(frozen=True)
class Corpus:
    """A corpus that comes with Hornbook.

    Attributes:
        about: one line: what it is.
        licence: who may use it.
        size: bytes that ``documents`` makes if not told otherwise.
    """

    name: str
    about: str
    licence: str
    size: int


CORPORA = {
    c.name: c
    for c in (
        Corpus("fables", "short stories with morals, made by a program; any size", "MIT, like Hornbook", 5_000_000),
    )
}


def documents(source: str | Path | Iterable[str] | Iterable[Path]) -> Iterator[str]:
    """The documents of a corpus.

    Args:
        source: a corpus's name; the path of a text file or of a folder of them, or a list of such paths; or any
            other iterable of texts, each a document. A str is a name or path, never a text.

    Raises:
        DataError: for a file that is missing or not UTF-8 (with the byte offset), and for an unknown name.
    """
    if isinstance(source, str) and source in CORPORA and not _exists(Path(source)):
        return (story.text for story in fables.generate(CORPORA[source].size))
    if isinstance(source, str | Path):
        if not _exists(Path(source)):
            hint = nearest(str(source), CORPORA) if Path(source).suffix == "" else ""
            shown = str(source) if len(str(source)) <= 100 else f"{str(source)[:60]!r}... (for a text, pass [text])"
            raise DataError(f"{shown}: no such file or folder{hint}")
        return read_files([Path(source)], DOCUMENT_END)
    return _mixed(source)


def files_or_documents(source: str | list[Path]) -> Iterable[str] | list[Path]:
    """What to train a tokenizer on. Files come as paths, which it reads a window at a time, however long they are;
    but where a file holds ``<|endoftext|>``, and for a corpus's name, it is documents."""
    paths = [source] if isinstance(source, str) else source
    if all(_exists(Path(p)) for p in paths):
        found = list(listed(map(Path, paths)))
        if not any(holds(p, DOCUMENT_END) for p in found):
            return found
    return documents(source)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a whole text taken for a name is too long to be one
        return False


def _mixed(source: Iterable[str] | Iterable[Path]) -> Iterator[str]:
    for item in source:
        if isinstance(item, Path):
            yield from documents(item)
        elif isinstance(item, str):
            yield item
        else:
            raise DataError(f"a corpus is made of texts or paths, not of {type(item).__name__}")


def write(name: str, out: Path, size: int | None = None, *, seed: int = 0, split: str = "train") -> int:
    """Write a corpus as one text file, a line ``<|endoftext|>`` between documents.

    Returns:
        The bytes written.
    """
    from .. import files

    if name not in CORPORA:
        raise DataError(f"there is no corpus {name!r}{nearest(name, CORPORA)}")
    if split not in ("train", "heldout"):
        raise DataError(f"a corpus has the splits 'train' and 'heldout', not {split!r}")
    most = CORPORA[name].size if size is None else size
    between = f"\n{DOCUMENT_END}\n"
    texts, room = [], most
    for story in fables.generate(most, seed=seed, split=split):
        room -= len(story.text.encode()) + (len(between) if texts else 1)
        if room < 0:
            break
        texts.append(story.text)
    if not texts:
        raise DataError(f"{most} bytes hold no document of {name}; ask for at least 1KB")
    text = between.join(texts) + "\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    files.write(out, text)
    return len(text.encode())


__all__ = ["CORPORA", "DOCUMENT_END", "Corpus", "documents", "fables", "files_or_documents", "write"]
