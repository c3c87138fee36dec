"""What there is to read.

A corpus is a stream of documents. `documents` makes one from whatever a user names: a file, a folder, a list of
files, texts in memory, or a corpus that Hornbook knows (`CORPORA`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..documents import Files, exists
from ..errors import DataError, nearest
from . import fables

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


def documents(source: str | Path | Iterable[str] | Iterable[Path], *, field: str = "text") -> Iterator[str]:
    """The documents of a corpus.

    Args:
        source: a corpus's name; the path of a file of text (see `hornbook.documents`) or of a folder of them, or a
            list of such paths; or any other iterable of texts, each a document. A str is a name or path, never a text.
            Plain text is several documents where a line ``<|endoftext|>`` stands between them.
        field: of JSON Lines, or the column of Parquet, that is the document.

    Raises:
        DataError: for a file that is missing, broken or not UTF-8 (with the byte offset), and for an unknown name.
    """
    if isinstance(source, str | Path):
        return iter(opened(source, field=field))
    return _mixed(source, field)


def opened(source: str | Path | list[Path], *, field: str = "text", parted: bool = True) -> Files | Iterator[str]:
    """What a user names: `Files`, which are read quickly and know their size, or the documents of a corpus.

    ``parted``: whether a line ``<|endoftext|>`` ends a document of plain text, or is text like others.
    """
    if isinstance(source, str) and source in CORPORA and not exists(source):
        return (story.text for story in fables.generate(CORPORA[source].size))
    try:
        mark = DOCUMENT_END if parted else None
        return Files(source if isinstance(source, list) else [source], field=field, document_end=mark)
    except DataError as error:
        if not isinstance(source, str) or exists(source):
            raise
        hint = "; a str is a name or a path: for a text, pass [text]" if len(source) > 100 else ""
        hint = nearest(source, CORPORA) if not hint and Path(source).suffix == "" else hint
        raise DataError(f"{error}{hint}") from None


def _mixed(source: Iterable[str] | Iterable[Path], field: str) -> Iterator[str]:
    for item in source:
        if isinstance(item, Path):
            yield from opened(item, field=field)
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


__all__ = ["CORPORA", "DOCUMENT_END", "Corpus", "documents", "fables", "opened", "write"]
