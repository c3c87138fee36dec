"""Files that are nearly right."""

from __future__ import annotations

import random
import struct


def mutated(content: bytes, chance: random.Random) -> bytes:
    """One damage of the kinds that disks, networks and people do; ``content`` is not empty."""
    at, size = chance.randrange(len(content) + 1), len(content)
    match chance.randrange(7):
        case 0:  # a bit
            at = min(at, size - 1)
            return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]
        case 1:
            return content[:at]
        case 2:
            return content[:at] + content[min(size, at + chance.randrange(1, 64)) :]
        case 3:
            return content[:at] + chance.randbytes(chance.randrange(1, 64)) + content[at:]
        case 4:  # numbers that are too large
            word = struct.pack("<q", chance.choice([-1, 0, 1 << 31, (1 << 63) - 1, -(1 << 63), 1 << 40]))
            return content[:at] + word + content[at + 8 :]
        case 5:  # a piece from elsewhere
            other = chance.randrange(size + 1)
            return content[:at] + content[other : other + 64] + content[at + 64 :]
        case _:  # a number in text
            numbers = [i for i, c in enumerate(content) if 48 <= c < 58] or [0]
            at = chance.choice(numbers)
            return (
                content[:at]
                + chance.choice([b"-1", b"99999999999999999999", b"1e999", b"null", b"[" * 5000])
                + content[at + 1 :]
            )
