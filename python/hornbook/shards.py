"""Token ids of many documents, in memory or in files.

A file is a shard of the format that llm.c reads (https://github.com/karpathy/llm.c): 256 int32 words, of which the
first three are a magic number, a version and the number of tokens, then the tokens as uint16 or uint32. Beside each
lies a .docs.npy: where its documents begin, and the end; and for all of them a manifest.json (see docs/data.md).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import files
from .errors import CheckpointError, DataError

HEADER = 256  # int32 words before a shard's tokens
MOST_TOKENS = 2**31 - 1  # what the header can count
NUMPY_MAGIC = b"\x93NUMPY\x01\x00\x76\x00"  # version 1.0 of the format, a header of 118 bytes
BOUNDS_HEADER = 128  # bytes before a .docs.npy's numbers
SCAN_TOKENS = 1 << 22  # of shards without a manifest that are looked at together
FORMATS = {np.dtype(np.uint16): (20240520, 1), np.dtype(np.uint32): (20240801, 7)}  # llm.c's magic and version


@dataclass
class Split:
    """Token ids of many documents, one after the other, each with the end-of-text token before it.

    Attributes:
        parts: arrays of uint16 or uint32 (memory-mapped if they come from files); a document lies in one of them.
        starts: (documents + 1,) int64, where each document begins in the parts laid end to end, and the end.
        bytes: length of the text in UTF-8.
        vocab_size: one more than the greatest id there can be; not checked if not given.
    """

    parts: list[NDArray[Any]]
    starts: NDArray[np.int64]
    bytes: int
    vocab_size: int | None = None

    def __post_init__(self) -> None:
        self.bounds = np.cumsum([0] + [len(p) for p in self.parts])
        if len(self.starts) and self.starts[-1] != self.bounds[-1]:
            raise DataError(
                f"{self.bounds[-1]} tokens, but the documents end at {self.starts[-1]}: prepare the shards again"
            )

    def __len__(self) -> int:
        """Tokens."""
        return int(self.bounds[-1])

    @property
    def documents(self) -> int:
        return max(0, len(self.starts) - 1)

    def read(self, start: int, length: int) -> NDArray[np.int64]:
        """The tokens start ... start + length - 1, across parts, fewer at the end."""
        part = int(np.searchsorted(self.bounds, start, side="right")) - 1
        pieces, end = [], min(start + length, len(self))
        while start < end:
            stop = min(end, int(self.bounds[part + 1]))
            pieces.append(self.parts[part][start - self.bounds[part] : stop - self.bounds[part]])
            start, part = stop, part + 1
        ids = np.concatenate(pieces).astype(np.int64) if pieces else np.zeros(0, np.int64)
        if self.vocab_size is not None and len(ids) and ids.max() >= self.vocab_size:
            raise DataError(
                f"a shard holds the token {ids.max()}, beyond the tokenizer's {self.vocab_size}: prepare them again"
            )
        return ids


class Gathered:
    """Documents as they come, until they make a `Split`."""

    def __init__(self) -> None:
        self.parts: list[NDArray[Any]] = []
        self.bounds: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
        self.bytes = 0

    def add(self, ids: NDArray[Any], bounds: NDArray[np.int64], size: int) -> None:
        self.parts.append(ids)
        self.bounds.append(self.bounds[-1][-1] + bounds[1:])
        self.bytes += size

    def split(self) -> Split:
        return Split(self.parts, np.concatenate(self.bounds), self.bytes)


class ShardWriter:
    """Files NAME-00000.bin, NAME-00001.bin, ... and, beside each, the documents' bounds as NAME-00000.docs.npy.

    What is given to it goes to the disk at once; a file's two headers, which count, are written when it is full. Until
    then its header counts nothing, so no reader takes it for a shard.

    Args:
        shard_tokens: how many tokens a file may hold; a longer document gets a file of its own.
        state: what `state` returned, to go on from there: what was written after it is cut off.

    Attributes:
        entry: the finished shards' names, and the tokens, documents and bytes of text of all that was added.
        files: of each finished file its size and SHA-256.
    """

    def __init__(
        self, directory: Path, name: str, vocab_size: int, shard_tokens: int, state: dict[str, Any] | None = None
    ) -> None:
        self.directory, self.name, self.shard_tokens = directory, name, shard_tokens
        self.dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32).newbyteorder("<")
        self.entry: dict[str, Any] = {"shards": [], "tokens": 0, "documents": 0, "bytes": 0}
        self.files: dict[str, dict[str, Any]] = {}
        self.tokens = self.documents = 0  # in the file that is being filled
        self._open: tuple[FileIO, FileIO] | None = None
        if state is not None:
            self.entry, self.files = state["entry"], state["files"]
            self.tokens, self.documents = state["tokens"], state["documents"]
            if self.documents:
                self._open = self._reopened()

    def add(self, ids: NDArray[Any], bounds: NDArray[np.int64], size: int) -> None:
        """Documents: document i is ``ids[bounds[i]:bounds[i + 1]]``; ``size``: the bytes of their text."""
        self.entry["bytes"] += size
        while len(bounds) > 1:
            room = max(0, self.shard_tokens - self.tokens)  # one long document may be more
            fit = int(np.searchsorted(bounds, room, side="right")) - 1  # documents that still fit
            if fit == 0 and self.tokens == 0:
                fit = 1  # longer than a shard: a shard of its own
            if fit:
                self._append(ids[: bounds[fit]], bounds[1 : fit + 1])
            if fit < len(bounds) - 1:
                self._finish_shard()
            ids, bounds = ids[bounds[fit] :], bounds[fit:] - bounds[fit]

    def finish(self) -> dict[str, Any]:
        if self.tokens:
            self._finish_shard()
        return self.entry

    def state(self) -> dict[str, Any]:
        """All that is needed to go on from here, as JSON; what has been added is on the disk then."""
        for file in self._open or ():
            os.fsync(file.fileno())
        return {"entry": self.entry, "files": self.files, "tokens": self.tokens, "documents": self.documents}

    def close(self) -> None:
        for file in self._open or ():
            file.close()
        self._open = None

    def paths(self) -> tuple[Path, Path]:
        """Of the file that is being filled, and of its documents' bounds."""
        name = f"{self.name}-{len(self.entry['shards']):05d}"
        return self.directory / f"{name}.bin", self.directory / f"{name}.docs.npy"

    def _append(self, ids: NDArray[Any], ends: NDArray[np.int64]) -> None:
        if self.tokens + len(ids) > MOST_TOKENS:
            raise DataError(f"one document has {len(ids)} tokens; a shard can count {MOST_TOKENS}: cut it into parts")
        if self._open is None:
            tokens, bounds = self.paths()
            self._open = FileIO(tokens, "wb"), FileIO(bounds, "wb")
            _write(self._open[0], bytes(HEADER * 4))
            _write(self._open[1], bytes(BOUNDS_HEADER) + bytes(8))
        _write(self._open[0], ids.astype(self.dtype, copy=False).tobytes())
        _write(self._open[1], (ends + self.tokens).astype("<i8").tobytes())
        self.tokens += len(ids)
        self.documents += len(ends)
        self.entry["tokens"] += len(ids)
        self.entry["documents"] += len(ends)

    def _finish_shard(self) -> None:
        assert self._open is not None
        header = np.zeros(HEADER, dtype="<i4")
        header[:3] = *FORMATS[self.dtype.newbyteorder("=")], self.tokens
        for file, head in zip(self._open, (header.tobytes(), _bounds_header(self.documents + 1)), strict=True):
            file.seek(0)
            _write(file, head)
            os.fsync(file.fileno())
        self.close()
        paths = self.paths()
        self.files |= {path.name: {"bytes": path.stat().st_size, "sha256": files.sha256(path)} for path in paths}
        self.entry["shards"].append(paths[0].stem)
        self.tokens = self.documents = 0

    def _reopened(self) -> tuple[FileIO, FileIO]:
        lengths = HEADER * 4 + self.tokens * self.dtype.itemsize, BOUNDS_HEADER + 8 * (self.documents + 1)
        opened = []
        for path, length in zip(self.paths(), lengths, strict=True):
            file = FileIO(path, "r+b")
            opened.append(file)
            if os.fstat(file.fileno()).st_size < length:
                raise DataError(f"{path}: shorter than it was")
            file.truncate(length)
            file.seek(length)
        return opened[0], opened[1]


def _write(file: FileIO, content: bytes) -> None:
    """All of it: a write to a disk that is nearly full may take a part and only then fail."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def digest_of(value: Any) -> str:
    """The SHA-256 of something that JSON can say, however it is laid out."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_manifest(directory: Path) -> dict[str, Any]:
    """manifest.json, with what readers rely on looked at.

    Raises:
        DataError: for a file that is no manifest, one of another format, and one that was changed.
    """
    path = directory / "manifest.json"
    try:
        manifest = files.read_json(path)
    except CheckpointError as error:
        raise DataError(f"{error}; prepare the shards again") from None
    if manifest.get("format") != 1:
        raise DataError(f"{directory}: shards of format {manifest.get('format')!r}; this version reads format 1")
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    if "digest" in manifest and manifest["digest"] != digest_of(rest):  # older ones have none
        raise DataError(f"{path} was changed after it was written; prepare the shards again")
    if missing := {"tokenizer", "splits"} - manifest.keys():
        raise DataError(f"{directory}: manifest.json lacks {missing.pop()!r}; prepare the shards again")
    if not _is_sound(manifest):
        raise DataError(f"{path} does not say what shards there are; prepare them again")
    return manifest


def _is_sound(manifest: dict[str, Any]) -> bool:
    splits, sums = manifest["splits"], manifest.get("files", {})
    if not isinstance(splits, dict) or not {"train", "heldout"} <= splits.keys() or not isinstance(sums, dict):
        return False
    for entry in (splits["train"], splits["heldout"]):
        if not isinstance(entry, dict) or not isinstance(entry.get("shards"), list):
            return False
        if not all(isinstance(name, str) and re.fullmatch(r"[\w-]{1,200}", name) for name in entry["shards"]):
            return False
        if type(entry.get("bytes")) is not int or not 0 <= entry["bytes"] < 1 << 62:
            return False
    return all(
        isinstance(known, dict) and type(known.get("bytes")) is int and isinstance(known.get("sha256"), str)
        for known in sums.values()
    )


def read_split(
    directory: Path, manifest: dict[str, Any], name: str, vocab_size: int, eot_id: int | None, *, verify: bool = False
) -> Split:
    """The shards of one split that a manifest names, memory-mapped.

    Their sizes, the documents' bounds and, of a few documents, the token they begin with are always looked at. With
    ``verify`` every byte is read and held against the manifest's SHA-256.
    """
    entry, known = manifest["splits"][name], manifest.get("files", {})
    parts, starts, total = [], [np.zeros(1, np.int64)], 0
    for shard in entry["shards"]:
        tokens, documents = directory / f"{shard}.bin", directory / f"{shard}.docs.npy"
        if verify and tokens.name in known:
            _check(tokens, known[tokens.name])
        if documents.name in known:
            _check(documents, known[documents.name])
        parts.append(read_shard(tokens))
        bounds = _read_bounds(documents)
        if bounds[0] != 0 or bounds[-1] != len(parts[-1]) or (np.diff(bounds) < 1).any():
            raise DataError(f"{documents} does not fit to the tokens in {tokens.name}; prepare the shards again")
        few = bounds[:-1][:: max(1, len(bounds) // 16)]
        if eot_id is not None and (parts[-1][few] != eot_id).any():
            raise DataError(f"{tokens}: documents do not begin where {documents.name} says; prepare the shards again")
        starts.append(total + bounds[1:])
        total += len(parts[-1])
    return Split(parts, np.concatenate(starts), entry["bytes"], vocab_size)


def damaged(directory: Path, manifest: dict[str, Any]) -> str | None:
    """What is wrong with a file that the manifest knows, each read to its end; None if nothing is."""
    try:
        for name, known in manifest.get("files", {}).items():
            _check(directory / Path(name).name, known)
    except DataError as error:
        return str(error)
    return None


def _check(path: Path, known: dict[str, Any]) -> None:
    try:
        size = path.stat().st_size
        if size != known["bytes"]:
            raise DataError(f"{path}: {size} bytes, but {known['bytes']} were written: prepare the shards again")
        if files.sha256(path) != known["sha256"]:
            raise DataError(f"{path}: not what was written (its SHA-256 differs): prepare the shards again")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; prepare the shards again") from None


def read_shard(path: Path) -> NDArray[Any]:
    """The tokens of one .bin file, memory-mapped."""
    try:
        with open(path, "rb") as file:
            header = np.frombuffer(file.read(HEADER * 4).ljust(HEADER * 4, b"\0"), "<i4")
        size = path.stat().st_size
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; prepare the shards again") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    kinds = {magic: dtype for dtype, magic in FORMATS.items()}
    dtype = kinds.get((int(header[0]), int(header[1])))
    if dtype is None:
        raise DataError(f"{path}: not a token shard (its header is not llm.c's)")
    count = int(header[2])
    if count < 1 or size != HEADER * 4 + count * dtype.itemsize:
        raise DataError(f"{path}: truncated: {count} tokens promised, {size} bytes found; prepare it again")
    return np.memmap(path, dtype=dtype.newbyteorder("<"), mode="r", offset=HEADER * 4, shape=(count,))


def _bounds_header(count: int) -> bytes:
    """What `numpy.save` puts before so many int64; its length does not depend on how many."""
    text = f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({count},), }}"
    return NUMPY_MAGIC + text.ljust(BOUNDS_HEADER - len(NUMPY_MAGIC) - 1).encode() + b"\n"


def _read_bounds(path: Path) -> NDArray[np.int64]:
    """A .docs.npy, whose header must be as `numpy.save` writes it: what numpy itself would take is wider than safe."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); prepare the shards again") from None
    header, values = content[:BOUNDS_HEADER], content[BOUNDS_HEADER:]
    count = len(values) // 8
    if header != _bounds_header(count) or len(values) % 8 or count < 2:
        raise DataError(f"{path} is not a whole array of bounds; prepare the shards again")
    return np.frombuffer(values, "<i8").astype(np.int64, copy=False)


def read_foreign(paths: list[Path], vocab_size: int, eot_id: int, token_bytes: NDArray[np.int64]) -> Split:
    """Shards without a manifest, as llm.c's scripts write them: documents begin where the end-of-text token stands.

    They may go on from one file to the next. What stands before the first of them is the end of a document that began
    elsewhere, and is left out. All tokens are read once, some millions at a time.

    Raises:
        DataError: for a token beyond the vocabulary, and for no end-of-text token at all: another tokenizer made them.
    """
    parts = [read_shard(path) for path in paths]
    counts, starts, total = np.zeros(vocab_size, np.int64), [], 0
    for path, part in zip(paths, parts, strict=True):
        for block in (part[at : at + SCAN_TOKENS] for at in range(0, len(part), SCAN_TOKENS)):
            if (most := int(block.max())) >= vocab_size:
                raise DataError(
                    f"{path}: holds the token {most}, beyond the tokenizer's {vocab_size}: another one made it"
                )
            starts.append(total + np.flatnonzero(block == eot_id))
            counts += np.bincount(block, minlength=vocab_size)
            total += len(block)
    found = np.concatenate(starts) if starts else np.zeros(0, np.int64)
    if paths and not len(found):
        raise DataError(f"{paths[0]}: no end-of-text token ({eot_id}) anywhere: another tokenizer made it")
    rest = int(found[0]) if len(found) else 0
    while rest:
        cut = min(rest, len(parts[0]))
        counts -= np.bincount(parts[0][:cut], minlength=vocab_size)
        parts = [parts[0][cut:], *parts[1:]] if cut < len(parts[0]) else parts[1:]
        rest -= cut
    starts_and_end = np.append(found, total) - (found[0] if len(found) else 0)
    return Split(parts, starts_and_end, int(counts @ token_bytes), vocab_size)
