"""Token ids of many documents, in memory or in files.

A file is a shard of the format that llm.c reads (https://github.com/karpathy/llm.c): 256 int32 words, of which the
first three are a magic number, a version and the number of tokens, then the tokens as uint16 or uint32. Beside each
lies a .docs.npy: where its documents begin, and the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError

HEADER = 256  # int32 words before a shard's tokens
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
    """Files NAME-00000.bin, NAME-00001.bin, ... and, beside each, the documents' bounds as NAME-00000.docs.npy."""

    def __init__(self, directory: Path, name: str, vocab_size: int, shard_tokens: int) -> None:
        self.directory, self.name, self.shard_tokens = directory, name, shard_tokens
        self.dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)
        self.held = Gathered()
        self.entry: dict[str, Any] = {"shards": [], "tokens": 0, "documents": 0, "bytes": 0}

    def add(self, ids: NDArray[Any], bounds: NDArray[np.int64], size: int) -> None:
        self.entry["bytes"] += size
        while len(bounds) > 1:
            room = max(0, self.shard_tokens - int(self.held.bounds[-1][-1]))  # one long document may be more
            fit = int(np.searchsorted(bounds, room, side="right")) - 1  # documents that still fit
            if fit == 0 and int(self.held.bounds[-1][-1]) == 0:
                fit = 1  # longer than a shard: a shard of its own
            if fit:
                self.held.add(ids[: bounds[fit]].astype(self.dtype), bounds[: fit + 1], 0)
            if fit < len(bounds) - 1:
                self._write()
            ids, bounds = ids[bounds[fit] :], bounds[fit:] - bounds[fit]

    def finish(self) -> dict[str, Any]:
        if self.held.parts:
            self._write()
        return self.entry

    def _write(self) -> None:
        split = self.held.split()
        self.held = Gathered()
        name = f"{self.name}-{len(self.entry['shards']):05d}"
        header = np.zeros(HEADER, dtype="<i4")
        header[:2] = FORMATS[self.dtype]
        header[2] = len(split)
        with open(self.directory / f"{name}.bin", "wb") as file:
            file.write(header.tobytes())
            for part in split.parts:
                file.write(part.astype(self.dtype.newbyteorder("<")).tobytes())
        np.save(self.directory / f"{name}.docs.npy", split.starts)
        self.entry["shards"].append(name)
        self.entry["tokens"] += len(split)
        self.entry["documents"] += split.documents


def read_split(directory: Path, entry: dict[str, Any], vocab_size: int) -> Split:
    """The shards that a manifest's entry names, memory-mapped."""
    parts, starts, total = [], [np.zeros(1, np.int64)], 0
    for name in entry["shards"]:
        parts.append(read_shard(directory / f"{name}.bin"))
        try:
            bounds = np.load(directory / f"{name}.docs.npy", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{directory / name}.docs.npy cannot be read ({error}); prepare the shards again") from None
        starts.append(total + bounds[1:])
        total += len(parts[-1])
    return Split(parts, np.concatenate(starts), int(entry["bytes"]), vocab_size)


def read_shard(path: Path) -> NDArray[Any]:
    """The tokens of one .bin file, memory-mapped."""
    try:
        header = np.fromfile(path, dtype="<i4", count=HEADER)
    except OSError:
        raise DataError(f"{path}: no such file; prepare the shards again") from None
    kinds = {magic: dtype for dtype, magic in FORMATS.items()}
    dtype = kinds.get((int(header[0]), int(header[1]))) if len(header) == HEADER else None
    if dtype is None:
        raise DataError(f"{path}: not a token shard (its header is not llm.c's)")
    count = int(header[2])
    if path.stat().st_size != HEADER * 4 + count * dtype.itemsize:
        raise DataError(
            f"{path}: truncated: {count} tokens promised, {path.stat().st_size} bytes found; prepare it again"
        )
    return np.memmap(path, dtype=dtype.newbyteorder("<"), mode="r", offset=HEADER * 4, shape=(count,))
