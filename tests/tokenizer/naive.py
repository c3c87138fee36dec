"""A trainer that is easy to believe: it counts everything again before each merge, and a token is its bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

Pair = tuple[bytes, bytes]
PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
GPT2_ORDER = [*PRINTABLE, *(byte for byte in range(256) if byte not in PRINTABLE)]  # what the ids 0-255 are


def train(
    pieces: Mapping[bytes, int], merges: int, tie: str, min_frequency: int = 0, max_token_length: int | None = None
) -> list[Pair]:
    """The merges, at most so many, for pieces with their counts."""
    order = GPT2_ORDER if tie == "huggingface" else range(256)
    ids = {bytes([byte]): id for id, byte in enumerate(order)}
    split = [([bytes([byte]) for byte in piece], count) for piece, count in pieces.items()]
    found: list[Pair] = []
    while len(found) < merges:
        counts: Counter[Pair] = Counter()
        for tokens, count in split:
            for pair in pairwise(tokens):
                counts[pair] += count
        allowed = [p for p in counts if max_token_length is None or len(p[0] + p[1]) <= max_token_length]
        most = max((counts[pair] for pair in allowed), default=0)
        if most < max(min_frequency, 1):
            break
        tied = [pair for pair in allowed if counts[pair] == most]
        best = max(tied) if tie == "largest_content" else min(tied, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        ids[best[0] + best[1]] = 256 + len(found)
        found.append(best)
        split = [(join(tokens, best), count) for tokens, count in split]
    return found


def join(tokens: list[bytes], pair: Pair) -> list[bytes]:
    """The tokens with each occurrence of the pair joined, from left to right."""
    out, at = [], 0
    while at < len(tokens):
        width = 2 if tuple(tokens[at : at + 2]) == pair else 1
        out.append(b"".join(tokens[at : at + width]))
        at += width
    return out
