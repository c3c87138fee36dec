"""Whether a document was there before, for as many documents as fit into memory at about 20 bytes each.

A document is known by 128 bits of BLAKE2b. That two of a billion different ones have the same is less likely than
1 in 10²⁰.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]  # (n, 2)

FULLEST = 0.85  # share of a table's places that are taken before it grows
GROWTH = 1.2
LOG_KEYS = 1 << 16  # of the file that are read at a time


def keys_of(texts: Iterable[bytes]) -> Keys:
    """(n, 2): 128 bits of each text."""
    digests = b"".join(hashlib.blake2b(text, digest_size=16).digest() for text in texts)
    keys = np.frombuffer(digests, "<u8").astype(np.uint64).reshape(-1, 2)
    keys[keys[:, 0] == 0, 0] = 1  # zero marks a free place of the table
    return keys


class Seen:
    """A set of keys: a table of 16-byte places, of which 71 to 85 % are taken, so 19 to 23 bytes a document.

    A key stands at the first free place of those that its halves name (double hashing: Knuth, volume 3, section 6.4,
    algorithm D). When the table gets too full a larger one is made, from a file that has the keys one after the other:
    there are never two tables in memory. From the same file a set is made again after the process has ended.

    Args:
        path: the file.
        count: how many keys of it to take; what is behind them is cut off.
    """

    def __init__(self, path: Path, count: int = 0) -> None:
        self.count = 0
        self._log = open(path, "r+b" if count else "w+b")  # noqa: SIM115 (close closes it)
        self._log.truncate(16 * count)
        self._grow(count)
        self.count = count

    def add(self, keys: Keys) -> NDArray[np.bool_]:
        """(n,): which of the keys are new, each at its first place; they are in the set from now on."""
        order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: of equal ones the first comes first
        ordered = keys[order]
        firsts = np.ones(len(keys), bool)
        firsts[1:] = (ordered[1:, 0] != ordered[:-1, 0]) | (ordered[1:, 1] != ordered[:-1, 1])
        candidates = np.sort(order[firsts])
        if self.count + len(candidates) > FULLEST * len(self._first):
            self._grow(self.count + len(candidates))
        new = np.zeros(len(keys), bool)
        new[candidates] = self._insert(keys[candidates])
        self._log.seek(16 * self.count)
        self._log.write(keys[new].astype("<u8").tobytes())
        self._log.flush()
        self.count += int(new.sum())
        return new

    def sync(self) -> None:
        """See that the file is on the disk."""
        self._log.flush()
        os.fsync(self._log.fileno())

    def close(self) -> None:
        self._log.close()

    @property
    def bytes(self) -> int:
        """The size of the table in memory."""
        return self._first.nbytes + self._second.nbytes

    def _grow(self, count: int) -> None:
        """A table with room for so many keys, filled with those of the file."""
        growth = GROWTH if self.count > 1 << 20 else 2.0  # of a small table it costs nothing
        places = _prime(max(1021, math.ceil(count / FULLEST), round(self.count * growth / FULLEST)))
        self._first = self._second = np.zeros(0, np.uint64)  # the old table goes before the new one comes
        self._first, self._second = np.zeros(places, np.uint64), np.zeros(places, np.uint64)
        self._log.seek(0)
        while block := self._log.read(16 * LOG_KEYS):
            self._insert(np.frombuffer(block, "<u8").astype(np.uint64).reshape(-1, 2))

    def _insert(self, keys: Keys) -> NDArray[np.bool_]:
        """Put keys, no two alike, into the table: all at once to where each should be, then those that found another
        key there to their next places. Returns which were not in it."""
        places = np.uint64(len(self._first))
        first, second = keys[:, 0].copy(), keys[:, 1].copy()
        slot, step = first % places, second % (places - np.uint64(1)) + np.uint64(1)
        new = np.zeros(len(keys), bool)
        waiting = np.arange(len(keys))
        while len(waiting):
            free = self._first[slot] == 0
            where = slot[free]
            self._first[where] = first[free]  # of several for one place, the last
            self._second[where] = second[free]
            here = (self._first[slot] == first) & (self._second[slot] == second)
            new[waiting[free & here]] = True
            other = ~here
            waiting, first, second, step = waiting[other], first[other], second[other], step[other]
            slot = (slot[other] + step) % places
        return new


def _prime(least: int) -> int:
    """The smallest prime of at least ``least``: every step then comes by every place."""
    number = least | 1
    while not all(number % divisor for divisor in range(3, math.isqrt(number) + 1, 2)):
        number += 2
    return number
