"""Files of text as documents: what an ending means, and how each kind is read, little by little.

=====================  ================================================================
.jsonl, .ndjson        on each line an object of JSON; one of its fields is a document
.parquet               a table; each row of one of its columns is a document
anything else          plain text: one document, or several with a mark between them
=====================  ================================================================

Behind it .gz or .zst may stand, but not behind .parquet. The core reads all but tables, on a thread of its own:
unpacking and finding a field in JSON are as fast there as the reading itself, and counting need not pass through
Python. Tables are read by pyarrow, which is optional, as it is larger than all else that Hornbook needs but PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from ._core import Reading
from .errors import DataError

PACKED = (".gz", ".zst")
LINES = (".jsonl", ".ndjson")
TABLE = ".parquet"
KNOWN = (".txt", ".md", *LINES, TABLE)  # what is taken of a folder

# How much of a table is made into Python's strings at a time, in bytes.
TABLE_BATCH = 4 << 20


class Files:
    """The documents of files, in order; it can be iterated any number of times, and nothing is kept.

    Args:
        paths: files, and folders, of which every file below that ends in .txt, .md, .jsonl, .ndjson or .parquet is
            read, those packed as .gz or .zst too, in order of path. What is hidden (``.name``) is left out.
        field: the field of JSON Lines, or the column of a table, that is the document.
        document_end: a line with this mark alone ends a document of plain text. The line break before it belongs to
            the mark; so does the one at the end of a file that has marks. Without marks a file is one document.

    Attributes:
        files: the files that will be read.
        total_bytes: their size, packed as they are; None if one, such as a pipe, does not tell.
        bytes_read: how much of this has been read by the iteration that is going on.

    Raises:
        DataError: for a path that is not there or a folder without such files; and during iteration, for a file
            that is not UTF-8 (with the byte's offset in the unpacked text), is cut short, is not what its ending
            says, or lacks the field or column (with the line or row, and with those that are there).
    """

    def __init__(
        self, paths: Iterable[str | os.PathLike[str]], *, field: str = "text", document_end: str | None = None
    ):
        self.paths = [Path(path) for path in paths]
        self.field, self.document_end = field, document_end
        self.files = [file for path in self.paths for file in _found(path)]
        sizes = [_size(file) for file in self.files]
        self.total_bytes = None if None in sizes else sum(size or 0 for size in sizes)
        self.bytes_read = 0

    def __iter__(self) -> Iterator[str]:
        before = self.bytes_read = 0
        for table, group in groupby(self.files, _is_table):
            files = list(group)
            part = Tables(files, self.field) if table else _Read(self._described(files), self.document_end)
            for text in part:
                self.bytes_read = before + part.bytes_read
                yield text
            before += sum(_size(file) or 0 for file in files)
            self.bytes_read = before

    def __str__(self) -> str:
        return ", ".join(map(str, self.paths))

    def described(self) -> list[tuple[Path, str, str | None]]:
        """The files that the core reads, as it wants them: path, packing ("", "gz" or "zst"), the field or None."""
        return self._described([file for file in self.files if not _is_table(file)])

    def tables(self) -> Tables | None:
        """The others, if there are any."""
        tables = [file for file in self.files if _is_table(file)]
        before = sum(_size(file) or 0 for file in self.files if file not in tables)
        return Tables(tables, self.field, before) if tables else None

    def _described(self, files: list[Path]) -> list[tuple[Path, str, str | None]]:
        endings = [_endings(file) for file in files]
        return [
            (file, packed[1:], self.field if form in LINES else None)
            for file, (form, packed) in zip(files, endings, strict=True)
        ]


class _Read:
    """What the core reads."""

    def __init__(self, files: list[tuple[Path, str, str | None]], document_end: str | None) -> None:
        self._reading = Reading(files, document_end)
        self.bytes_read = 0

    def __iter__(self) -> Iterator[str]:
        while (batch := self._reading.next()) is not None:
            texts, self.bytes_read = batch
            yield from texts


class Tables:
    """The texts of Parquet files, each row of a column one.

    Attributes:
        bytes_read: ``before``, and the share of the files that the rows given out so far are.
    """

    def __init__(self, paths: list[Path], column: str, before: int = 0) -> None:
        self._paths, self._column, self._before = paths, column, before
        self.bytes_read = before

    def __iter__(self) -> Iterator[str]:
        before = self._before
        for path in self._paths:
            size = _size(path) or 0
            for share, texts in _rows(path, self._column):
                self.bytes_read = before + round(share * size)
                yield from texts
            before = self.bytes_read = before + size


def _rows(path: Path, column: str) -> Iterator[tuple[float, list[str]]]:
    """The texts of a Parquet file some at a time, each time with the share of all rows up to there."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{path}: Parquet is read by pyarrow, which is not here: pip install 'hornbook[data]'"
        ) from None
    done = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            schema = table.schema_arrow
            if column not in schema.names:
                there = f"it has: {', '.join(schema.names[:20])}" if schema.names else "it has none"
                raise DataError(f"{path}: has no column {column!r}; {there}")
            kind = _value_type(schema.field(column).type)
            if kind not in ("string", "large_string", "string_view"):
                raise DataError(f"{path}: the column {column!r} holds {kind}, not text")
            meta = table.metadata
            groups = (meta.row_group(i) for i in range(meta.num_row_groups))
            size = sum(group.total_byte_size for group in groups)
            step = max(1, meta.num_rows * TABLE_BATCH // max(size, TABLE_BATCH))
            for batch in table.iter_batches(batch_size=step, columns=[column]):
                texts = batch.column(0).to_pylist()
                if None in texts:
                    raise DataError(
                        f"{path}: row {done + texts.index(None) + 1} has no text in the column {column!r}; "
                        "leave such rows out, or make them empty texts"
                    )
                done += len(texts)
                yield done / meta.num_rows, texts
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: a text after row {done} is not UTF-8 at its byte {error.start}") from None
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from None


def _value_type(kind: Any) -> str:
    """The name of a column's type; of a dictionary's, that of its values."""
    return str(getattr(kind, "value_type", kind))


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is something of this name; a whole text taken for one is too long to be one."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def _found(path: Path) -> Iterator[Path]:
    """A file as it is, and in place of a folder its files."""
    if not exists(path):
        shown = str(path) if len(str(path)) <= 100 else f"{str(path)[:60]!r}..."
        raise DataError(f"{shown}: no such file or folder")
    if not path.is_dir():
        _endings(path)
        yield path
        return
    found = sorted(file for file in path.rglob("*") if _is_known(file.relative_to(path)) and file.is_file())
    if not found:
        raise DataError(f"{path}: no {', '.join(KNOWN)} files in this folder, nor such with .gz or .zst behind")
    yield from found


def _is_known(inside: Path) -> bool:
    name = inside.name.lower()
    packed = name.endswith(PACKED)
    form = Path(inside.stem if packed else name).suffix.lower()
    return (form in KNOWN or (packed and not form)) and not any(part.startswith(".") for part in inside.parts)


def _is_table(path: Path) -> bool:
    return _endings(path)[0] == TABLE


def _endings(path: Path) -> tuple[str, str]:
    """What a file's name says: the ending that tells its form, and .gz, .zst or nothing."""
    name = path.name.lower()
    packed = next((ending for ending in PACKED if name.endswith(ending)), "")
    form = Path(name.removesuffix(packed)).suffix
    if form in (".tar", ".tgz"):
        raise DataError(f"{path}: an archive of files, not a file of text; unpack it and give the folder")
    if form == TABLE and packed:
        raise DataError(f"{path}: Parquet packed once more, which cannot be read in parts; unpack it first")
    return form, packed


def _size(path: Path) -> int | None:
    """The size of a file; None for what is no file, or not any more: reading it will say so."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None
