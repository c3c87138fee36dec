"""What there is to read.

A corpus is a stream of documents. `documents` makes one from whatever a user names: a file, a folder, a list of
files, texts in memory, or a corpus that Hornbook knows (`CORPORA`).

    corpus.py      what is known of a corpus: licence, size, source, whether it is here
    fables/        stories that a program makes
    stdlib.py names.py bible.py    found on this machine
    remote.py      by download: download.py brings them, places.py says where they are kept
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from .. import files
from ..documents import Files, exists
from ..errors import DataError, nearest
from . import fables
from .bible import BIBLES
from .corpus import Corpus, State
from .names import NAMES
from .remote import DOWNLOADS
from .stdlib import STDLIB

log = logging.getLogger("hornbook")

DOCUMENT_END = "<|endoftext|>"

FABLES = Corpus(
    "fables",
    "short stories with morals, made by a program; any size",
    "MIT, like Hornbook",
    "a generator in Hornbook",
    5_000_000,
    lambda seed, split: (story.text for story in fables.stories(seed=seed, split=split)),
    splits=("train", "heldout"),
)
CORPORA = {corpus.name: corpus for corpus in (FABLES, STDLIB, NAMES, *BIBLES, *DOWNLOADS)}


def named(name: str) -> Corpus:
    """The corpus of that name. Raises DataError for an unknown one, with the nearest known."""
    if name not in CORPORA:
        raise DataError(f"there is no corpus {name!r}{nearest(name, CORPORA)}")
    return CORPORA[name]


def documents(
    source: str | Path | Iterable[str] | Iterable[Path], *, field: str = "text", encoding: str | None = None
) -> Iterator[str]:
    """The documents of a corpus.

    Args:
        source: a corpus's name; the path of a file of text (see `hornbook.documents`) or of a folder of them, or a
            list of such paths; or any other iterable of texts, each a document. A str is a name or path, never a text.
            Plain text is several documents where a line ``<|endoftext|>`` stands between them.
        field: of JSON Lines, or the column of Parquet, that is the document.
        encoding: of files of text and JSON Lines; UTF-8 if None.

    Raises:
        DataError: for a file that is missing, broken, binary or not of its encoding (with the byte offset), for an
            unknown name or encoding, and for a corpus that is neither here nor to be had.
    """
    if isinstance(source, str | Path):
        return iter(opened(source, field=field, encoding=encoding))
    return _mixed(source, field, encoding)


def opened(
    source: str | Path | list[Path], *, field: str = "text", parted: bool = True, encoding: str | None = None
) -> Files | Iterator[str]:
    """What a user names: `Files`, which are read quickly and know their size, or the documents of a corpus.

    A corpus that must be downloaded is brought here first. A file or folder of a corpus's name is what is meant.

    ``parted``: whether a line ``<|endoftext|>`` ends a document of plain text, or is text like others.
    """
    if isinstance(source, str) and source in CORPORA and not exists(source):
        corpus = CORPORA[source]
        return Files([corpus.file()]) if corpus.file else corpus.documents()
    try:
        mark = DOCUMENT_END if parted else None
        paths = source if isinstance(source, list) else [source]
        return Files(paths, field=field, document_end=mark, encoding=encoding)
    except DataError as error:
        if not isinstance(source, str) or exists(source):
            raise
        hint = "; a str is a name or a path: for a text, pass [text]" if len(source) > 100 else ""
        hint = nearest(source, CORPORA) if not hint and Path(source).suffix == "" else hint
        raise DataError(f"{error}{hint}") from None


def _mixed(source: Iterable[str] | Iterable[Path], field: str, encoding: str | None) -> Iterator[str]:
    for item in source:
        if isinstance(item, Path):
            yield from opened(item, field=field, encoding=encoding)
        elif isinstance(item, str):
            yield item
        else:
            raise DataError(f"a corpus is made of texts or paths, not of {type(item).__name__}")


def write(name: str, out: Path, size: int | None = None, *, seed: int = 0, split: str = "train") -> int:
    """Write a corpus as one text file, a line ``<|endoftext|>`` between documents.

    Nothing is held but a document, and ``out`` is not there before it is whole.

    Args:
        size: the file's bytes at most; of a corpus without end its own size if None, of others all.

    Returns:
        The bytes written.
    """
    corpus = named(name)
    most = corpus.size if size is None and corpus.splits else size
    between, written = f"\n{DOCUMENT_END}\n".encode(), 0
    texts = corpus.all_documents(seed=seed, split=split)
    out.parent.mkdir(parents=True, exist_ok=True)
    with files.writing(out) as file:
        for text in texts:
            data = (between if written else b"") + text.encode("utf-8", "surrogatepass")
            if most is not None and written + len(data) + 1 > most:
                break
            file.write(data)
            written += len(data)
        else:
            if size is not None:
                log.info("%s has no more than this", name)
        if not written:
            raise DataError(f"{most} bytes hold no document of {name}; ask for more, such as 10KB")
        written += file.write(b"\n")
    return written


__all__ = ["CORPORA", "DOCUMENT_END", "Corpus", "State", "documents", "fables", "named", "opened", "write"]
