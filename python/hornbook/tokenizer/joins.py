"""Merging in plain Python: slow, and easy to ask why a token came out or did not."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from heapq import heappop, heappush


class Joins:
    """What merges make of pieces: of all neighbours that may join, those of the lowest rank do, leftmost first, again
    and again, as long as there are any.

    Args:
        ranks: of the pairs that may join.
    """

    def __init__(self, ranks: Mapping[tuple[bytes, bytes], int]) -> None:
        # Numbers stand for tokens: to look a pair of long tokens up by their bytes would take time for every byte.
        numbers = {bytes([byte]): byte for byte in range(256)}

        def number(token: bytes) -> int:
            return numbers.setdefault(token, len(numbers))

        self._ranks = {
            (number(left), number(right)): (rank, number(left + right)) for (left, right), rank in ranks.items()
        }

    def parts(self, piece: bytes, below: int = sys.maxsize) -> list[bytes]:
        """What becomes of a piece by the joins of a rank below ``below``; in n log n steps for n bytes."""
        ranks, end = self._ranks, len(piece)
        tokens = list(piece)  # at the place where each part begins; elsewhere what was there before
        after = list(range(1, end + 1))  # where the next part begins
        before = list(range(-1, end))  # and the one before
        heap: list[tuple[int, int]] = []  # the rank of a pair of neighbours, and where its left one begins

        def look(left: int, right: int) -> None:
            found = ranks.get((tokens[left], tokens[right]))
            if found is not None and found[0] < below:
                heappush(heap, (found[0], left))

        for left in range(end - 1):
            look(left, left + 1)
        while heap:
            rank, left = heappop(heap)
            right = after[left]
            if right < 0 or right == end:
                continue  # no part begins there any more, or it is the last one now
            found = ranks.get((tokens[left], tokens[right]))
            if found is None or found[0] != rank:
                continue  # one of the two has become another
            tokens[left] = found[1]
            follows = after[left] = after[right]
            after[right] = -1
            if follows < end:
                before[follows] = left
                look(left, follows)
            if before[left] >= 0:
                look(before[left], left)
        parts, at = [], 0
        while at < end:
            parts.append(piece[at : after[at]])
            at = after[at]
        return parts
