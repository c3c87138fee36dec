"""Bytes of text that the core cannot open by itself: members of zip archives, and encodings other than UTF-8.

Everything is read a little at a time, by the libraries of Python. What comes out are the bytes of UTF-8 text (or, of a
member that is packed once more, those that the core unpacks), which `documents` hands over to the core.
"""

from __future__ import annotations

import codecs
import encodings.aliases
import importlib
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from .errors import DataError, nearest

CHUNK = 1 << 16

# What is packed is unpacked a kilobyte at a time, as that may become some tens of megabytes.
SLICE = 1 << 10

# A member that says of itself that it unpacks to more than this, and to more than RATIO times its size, is taken for a
# bomb. English text is packed to a third by deflate and to a fifth by xz; the largest ratio of deflate is 1032.
BOMB = 100_000_000
RATIO = 200

# Encodings of Python that are no encodings of files: they are for parts of names, or for source code.
NOT_FOR_FILES = {"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"}


def encoding_of(name: str | None) -> str | None:
    """The encoding of that name, as Python's `codecs` knows it; None for UTF-8, which the core reads by itself.

    Raises:
        DataError: for an unknown one, with the nearest known.
    """
    if name is None:
        return None
    try:
        found = codecs.lookup(name)
    except (LookupError, ValueError):  # ValueError: a NUL in the name
        found = None
    if not (found and found._is_text_encoding and found.incrementaldecoder and found.name not in NOT_FOR_FILES):
        names = {alias.replace("_", "-") for pair in encodings.aliases.aliases.items() for alias in pair}
        close = nearest(name.lower().replace("_", "-"), names)
        hint = close if close.startswith("; did") else "; such as utf-8, utf-16, cp1252, latin-1, shift-jis, koi8-r"
        raise DataError(f"there is no text encoding {name!r}{hint}")
    return None if found.name == "utf-8" else found.name


def to_utf8(chunks: Iterable[bytes], encoding: str, where: str) -> Iterator[bytes]:
    """Text of another encoding as UTF-8.

    Raises:
        DataError: for bytes that are no text in it, with their offset; ``where`` is the file's name.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    done = 0
    for chunk, final in _with_last(chunks):
        try:
            text = decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            # What it objects to is this chunk behind bytes that it has kept, or without the byte order mark.
            at = done + len(chunk) - len(error.object) + error.start
            byte = f"byte 0x{error.object[error.start]:02x}" if error.start < len(error.object) else "the end"
            raise DataError(f"{where}: not {encoding}: {byte} at offset {at}: {error.reason}") from None
        except UnicodeError as error:  # UTF-16 without the mark that its decoder needs, and the like
            raise DataError(f"{where}: not {encoding}: {error}") from None
        done += len(chunk)
        yield text.encode("utf-8", "replace")  # some decoders let half a surrogate pair through


def _with_last(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    for chunk in chunks:
        yield chunk, False
    yield b"", True


def pieces(file: IO[bytes], where: str) -> Iterator[bytes]:
    """What is in an open file.

    Raises:
        DataError: if the system cannot read it; ``where`` is its name.
    """
    try:
        while chunk := file.read(CHUNK):
            yield chunk
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror or error}") from None


def unpacked(chunks: Iterable[bytes], packed: str, where: str) -> Iterator[bytes]:
    """What is in bytes that are packed as "gz" or "zst", or as they are ("").

    Raises:
        DataError: if they are cut short or broken; ``where`` is the file's name.
    """
    if not packed:
        yield from chunks
        return
    new, Broken = (partial(zlib.decompressobj, 31), zlib.error) if packed == "gz" else _zstd(where)
    done, part, ended = 0, None, False
    try:
        for chunk in chunks:
            for at in range(0, len(chunk), SLICE):
                data = chunk[at : at + SLICE]
                while data:
                    if part is None:
                        if ended and not (data := data.lstrip(b"\0")):
                            break  # zeros may follow the last part
                        part = new()
                    out = part.decompress(data)
                    done += len(out)
                    yield out
                    data, ended = part.unused_data, part.eof
                    if ended:
                        part = None
        if not ended:
            raise EOFError("its last part has no end")
    except (Broken, EOFError) as error:
        name, what = (
            {"gz": "gzip", "zst": "zstd"}[packed],
            "is cut short" if isinstance(error, EOFError) else "is broken",
        )
        raise DataError(
            f"{where}: the {name} data {what} ({error}) after {done} bytes of text; copy or download the file again"
        ) from None


def _zstd(where: str) -> tuple[Callable[[], Any], type[Exception]]:
    """What makes something that unpacks a frame of zstd, and the error that says that it is broken."""
    try:
        module: Any = importlib.import_module("compression.zstd")  # Python 3.14
        return module.ZstdDecompressor, module.ZstdError
    except ImportError:
        pass
    try:
        module = importlib.import_module("zstandard")
    except ImportError:
        raise DataError(
            f"{where}: zstd of another encoding than UTF-8 is unpacked by zstandard, which is not here: "
            "pip install 'hornbook[data]', or unpack it first"
        ) from None
    return module.ZstdDecompressor().decompressobj, module.ZstdError


class Archive:
    """A zip archive whose members are read in place: nothing of it is written anywhere.

    Raises:
        DataError: for what is no archive, and from `read` for a member that is encrypted, broken, packed in a way that
            Python cannot unpack, or a bomb.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError) as error:
            raise DataError(f"{path}: cannot be read as a zip archive: {error}; copy or download it again") from None
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error}") from None

    def members(self) -> list[zipfile.ZipInfo]:
        """Its files, in order of their names."""
        return sorted((member for member in self._zip.infolist() if not member.is_dir()), key=lambda m: m.filename)

    def where(self, member: zipfile.ZipInfo) -> str:
        """How a member is called in messages; a name may hold anything, a line break too."""
        name = member.filename if member.filename.isprintable() else repr(member.filename)
        return f"{self.path}/{name}"

    def read(self, member: zipfile.ZipInfo) -> Iterator[bytes]:
        """The bytes of a member."""
        where = self.where(member)
        if member.flag_bits & 1:
            raise DataError(f"{where}: is encrypted; unpack the archive with its password and give the folder")
        if member.file_size > max(BOMB, RATIO * member.compress_size):
            raise DataError(
                f"{where}: {member.compress_size} bytes would unpack to {member.file_size}, which no text does: it "
                "looks like a bomb. If you trust it, unpack it and give the folder"
            )
        try:
            with self._zip.open(member) as stream:
                while chunk := stream.read(CHUNK):
                    yield chunk
        except NotImplementedError as error:
            raise DataError(f"{where}: {str(error).lower()}; unpack the archive and give the folder") from None
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RuntimeError) as error:
            if getattr(error, "errno", None):
                raise DataError(f"{where}: cannot be read: {error}") from None
            raise DataError(
                f"{where}: is broken ({error or 'it is cut short'}); copy or download the archive again"
            ) from None
