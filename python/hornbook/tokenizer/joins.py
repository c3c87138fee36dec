"""Merging in plain Python: slow, and easy to ask why a token came out or did not."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import pairwise


def join(piece: bytes, ranks: Mapping[tuple[bytes, bytes], int], below: int = sys.maxsize) -> list[bytes]:
    """What becomes of a piece: of all neighbours that may join, those of the lowest rank do, leftmost first, again
    and again, as long as there are any (of a rank below ``below``). Quadratic in the length of the piece."""
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 1:
        found = [ranks.get(pair, below) for pair in pairwise(parts)]
        lowest = min(found)
        if lowest >= below:
            break
        i = found.index(lowest)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts
