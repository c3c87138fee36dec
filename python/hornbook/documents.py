"""Files of text as documents: what an ending means, and how each kind is read, little by little.

=====================  ================================================================
.jsonl, .ndjson        on each line an object of JSON; one of its fields is a document
.parquet               a table; each row of one of its columns is a document
.zip                   an archive of such files, but of no tables; read in place
anything else          plain text: one document, or several with a mark between them
=====================  ================================================================

Behind it .gz or .zst may stand, but not behind .parquet or .zip. The core reads all but tables, on a thread of its
own: unpacking and finding a field in JSON are as fast there as the reading itself, and counting need not pass through
Python. What it cannot open itself, an archive or text that is not UTF-8, comes to it by way of `unpack`. Tables are
read by pyarrow, which is optional, as it is larger than all else that Hornbook needs but PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from copy import copy
from itertools import groupby
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, Any

from ._core import Reading
from .errors import DataError
from .unpack import Archive, encoding_of, pieces, to_utf8, unpacked

PACKED = (".gz", ".zst")
LINES = (".jsonl", ".ndjson")
TABLE = ".parquet"
ARCHIVE = ".zip"
KNOWN = (".txt", ".md", *LINES, TABLE, ARCHIVE)  # what is taken of a folder
INSIDE = (".txt", ".md", *LINES)  # and of an archive

# How much of a table is made into Python's strings at a time, in bytes.
TABLE_BATCH = 4 << 20


class Files:
    """The documents of files, in order; it can be iterated any number of times, and nothing is kept.

    Args:
        paths: files, and folders, of which every file below that ends in .txt, .md, .jsonl, .ndjson, .parquet or .zip
            is read, those packed as .gz or .zst too, in order of path. Of an archive the files with such endings are
            read as of a folder. What is hidden (``.name``) is left out.
        field: the field of JSON Lines, or the column of a table, that is the document.
        document_end: a line with this mark alone ends a document of plain text. The line break before it belongs to
            the mark; so does the one at the end of a file that has marks. Without marks a file is one document.
        encoding: of text and JSON Lines, by a name that Python's `codecs` knows, such as "cp1252"; UTF-8 if None.

    Attributes:
        files: the files that will be read.
        total_bytes: their size, packed as they are; None if one, such as a pipe, does not tell.
        bytes_read: how much of this has been read by the iteration that is going on.

    Raises:
        DataError: for a path that is not there, a folder without such files or an unknown encoding; and during
            iteration, for a file that is not of its encoding (with the byte's offset in the unpacked text), is binary,
            cut short or not what its ending says, or lacks the field or column (with the line or row, and with those
            that are there).
    """

    def __init__(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        field: str = "text",
        document_end: str | None = None,
        encoding: str | None = None,
    ):
        self.paths = [Path(path) for path in paths]
        self.field, self.document_end, self.encoding = field, document_end, encoding_of(encoding)
        self.files = [file for path in self.paths for file in _found(path)]
        sizes = [_size(file) for file in self.files]
        self.total_bytes = None if None in sizes else sum(size or 0 for size in sizes)
        self.bytes_read = self._before = 0

    def __iter__(self) -> Iterator[str]:
        before = self.bytes_read = self._before
        for core, group in groupby(self.files, self._for_core):
            for files in [list(group)] if core else [[file] for file in group]:
                for texts, read in self._batches(files, core):
                    self.bytes_read = before + read
                    yield from texts
                before += sum(_size(file) or 0 for file in files)
                self.bytes_read = before

    def __str__(self) -> str:
        return ", ".join(map(str, self.paths))

    def described(self) -> list[tuple[Path, str, str | None]]:
        """The files that the core opens, as it wants them: path, packing ("", "gz" or "zst"), the field or None."""
        return self._described([file for file in self.files if self._for_core(file)])

    def others(self) -> Files | None:
        """The others, if there are any; what is read of them is counted as if the core's had been read before."""
        others = copy(self)
        others.files = [file for file in self.files if not self._for_core(file)]
        others._before = sum(_size(file) or 0 for file in self.files if self._for_core(file))
        return others if others.files else None

    def _for_core(self, file: Path) -> bool:
        return self.encoding is None and _endings(file)[0] not in (TABLE, ARCHIVE)

    def _described(self, files: list[Path]) -> list[tuple[Path, str, str | None]]:
        endings = [_endings(file) for file in files]
        return [
            (file, packed[1:], self.field if form in LINES else None)
            for file, (form, packed) in zip(files, endings, strict=True)
        ]

    def _batches(self, files: list[Path], core: bool) -> Iterator[tuple[list[str], int]]:
        """Texts, some at a time, and how many bytes of these files have been read by then."""
        if core:
            reading = Reading(self._described(files), self.document_end)
            while (batch := reading.next()) is not None:
                yield batch
            return
        (file,) = files
        form, packed = _endings(file)
        if form == TABLE:
            yield from _rows(file, self.field)
            return
        try:
            opened = open(file, "rb")  # noqa: SIM115 (closed below, whatever comes of the documents)
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None
        with opened:
            if form == ARCHIVE:
                texts = self._of_archive(file, opened)
            else:
                texts = self._fed(file, str(file), pieces(opened, str(file)), packed)
            for some in texts:
                yield some, opened.tell() if opened.seekable() else 0

    def _of_archive(self, path: Path, opened: IO[bytes]) -> Iterator[list[str]]:
        archive = Archive(path, opened)
        members = [(PurePosixPath(member.filename), member) for member in archive.members()]
        members = [(Path(name), member) for name, member in members if _is_known(name, INSIDE)]
        if not members:
            raise DataError(f"{path}: no {', '.join(INSIDE)} files in this archive, nor such with .gz or .zst behind")
        for name, member in members:
            yield from self._fed(name, archive.where(member), archive.read(member), _endings(name)[1])

    def _fed(self, name: Path, called: str, data: Iterator[bytes], packed: str) -> Iterator[list[str]]:
        """The texts of bytes that are read here, and unpacked and decoded if they are not of UTF-8."""
        if self.encoding is not None:
            data, packed = to_utf8(unpacked(data, packed[1:], called), self.encoding, called), ""
        field = self.field if _endings(name)[0] in LINES else None
        reading = Reading.fed((called, packed[1:], field), self.document_end)
        for chunk in data:
            reading.push(chunk)
            while (batch := reading.next(wait=False)) is not None:
                yield batch[0]
        reading.push(None)
        while (batch := reading.next()) is not None:
            yield batch[0]


def _rows(path: Path, column: str) -> Iterator[tuple[list[str], int]]:
    """The texts of a Parquet file some at a time; the share of all rows up to there is that of the bytes read."""
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
                yield texts, round(done / meta.num_rows * (_size(path) or 0))
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
    found = sorted(file for file in path.rglob("*") if _is_known(file.relative_to(path), KNOWN) and file.is_file())
    if not found:
        raise DataError(f"{path}: no {', '.join(KNOWN)} files in this folder, nor such with .gz or .zst behind")
    yield from found


def _is_known(inside: PurePath, known: tuple[str, ...]) -> bool:
    name = inside.name.lower()
    packed = name.endswith(PACKED)
    form = Path(inside.stem if packed else name).suffix.lower()
    return (form in known or (packed and not form)) and not any(part.startswith(".") for part in inside.parts)


def _endings(path: Path) -> tuple[str, str]:
    """What a file's name says: the ending that tells its form, and .gz, .zst or nothing."""
    name = path.name.lower()
    packed = next((ending for ending in PACKED if name.endswith(ending)), "")
    form = Path(name.removesuffix(packed)).suffix
    if form in (".tar", ".tgz"):
        raise DataError(f"{path}: an archive of files, not a file of text; unpack it and give the folder")
    if form in (TABLE, ARCHIVE) and packed:
        what = "Parquet" if form == TABLE else "a zip archive"
        raise DataError(f"{path}: {what} packed once more, which cannot be read in parts; unpack it first")
    return form, packed


def _size(path: Path) -> int | None:
    """The size of a file; None for what is no file, or not any more: reading it will say so."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None
