"""Which tokens of a vocabulary no text can become, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Literal

import numpy as np

from .bpe import Tokenizer
from .joins import Joins

Reason = Literal["bytes", "merges", "pattern", "neighbours"]
REASONS: dict[Reason, str] = {
    "bytes": "no UTF-8 text has its bytes",
    "merges": "merges of lower rank take its bytes to other tokens first",
    "pattern": "the pattern cuts its text in every context that was tried",
    "neighbours": "in every context that was tried, the bytes that complete its characters join with it",
}
# What may stand beside a token: one of each kind, and for the few that are then left, many of each kind.
AROUND = ("", "a", "A", " ", "\n", "\t", "1", "!", "é", "'")
_MORE = "§€…—«ßǅʰ中のไהд한\u0301\u0903²٣Ⅷ☃😀\xa0\u2028\u3000\u200d\x7f\ue000"
MORE = (
    *map(chr, range(1, 127)),
    *_MORE,
    "S",
    "LL",
    "VE",
    "RE",
    "ll",
    "ve",
    "re",
    "  ",
    "\n\n",
    "\r\n",
    "...",
    "aA",
    "Aa",
)
ROUNDS = (40, 1000)  # contexts for a token that is no whole text: a few, and then many for those that are left
MOST_TEXTS = 2_000_000  # to try in a round, if so many tokens are left that all contexts would be too many


@dataclass(frozen=True)
class Unreached:
    """A token that no text was found for.

    Attributes:
        becomes: the tokens that merging makes of its bytes, itself if it is not the merges that keep it away.
    """

    id: int
    token: bytes
    reason: Reason
    becomes: tuple[bytes, ...]


def never_reached(tokenizer: Tokenizer) -> list[Unreached]:
    """The ordinary tokens that ``tokenizer.encode`` gives for no text, as far as can be told, by id.

    A token is reached if some text was found that has it: its own bytes, or these with something around them. For one
    that is not, "bytes" is certain, and so is "merges" under the rule "merges": between two edges of tokens, the merges
    below its rank do the same in every text. The others say that nothing was found.
    """
    specials = set(tokenizer.special_tokens.values())
    left = {id: token for id, token in tokenizer.vocab.items() if id not in specials}
    whole = {id: text for id, token in left.items() if (text := _text(token)) is not None}
    impossible = left.keys() - whole.keys()
    for before, after in ((("",), ("",)), (AROUND, AROUND), (MORE, AROUND), (AROUND, MORE)):
        tried = [id for id in left if id in whole]
        pairs = list(product(before, after))[: max(1, MOST_TEXTS // max(1, len(tried)))]
        for id in _found(tokenizer, ((id, [a + whole[id] + b for a, b in pairs]) for id in tried)):
            del left[id]
    for most in ROUNDS:
        tried = [id for id in left if id not in whole]
        most = min(most, max(1, MOST_TEXTS // max(1, len(tried))))
        texts = {id: list(islice(_completed(left[id]), most)) for id in tried}
        impossible -= {id for id, found in texts.items() if found}
        for id in _found(tokenizer, texts.items()):
            del left[id]
    longest = max(map(len, left.values()), default=0)
    merges = tokenizer.merges if longest > 1 else ()
    joins = Joins({pair: rank for rank, pair in enumerate(merges) if len(pair[0]) + len(pair[1]) <= longest})
    out = []
    for id, token in sorted(left.items()):
        becomes = tuple(joins.parts(token))
        reason: Reason = "bytes" if id in impossible else "merges" if len(becomes) > 1 else "neighbours"
        if reason == "neighbours" and id in whole:
            reason = "pattern"
        out.append(Unreached(id, token, reason, becomes))
    return out


def _found(tokenizer: Tokenizer, texts: Iterable[tuple[int, Sequence[str]]]) -> set[int]:
    """The ids that occur in the ids of one of their texts."""
    found: set[int] = set()
    for owners, batch in _batches(texts):
        flat, offsets = tokenizer.encode_batch_to_numpy(batch, disallowed_special=())
        owner = np.repeat(np.array(owners), np.diff(offsets))
        found.update(owner[flat == owner].tolist())
    return found


def _batches(texts: Iterable[tuple[int, Sequence[str]]]) -> Iterator[tuple[list[int], list[str]]]:
    """Some hundred thousand texts at a time, and the id that each is for."""
    owners: list[int] = []
    batch: list[str] = []
    for id, several in texts:
        owners += [id] * len(several)
        batch += several
        if len(batch) >= 100_000:
            yield owners, batch
            owners, batch = [], []
    if batch:
        yield owners, batch


def _text(token: bytes) -> str | None:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return None


def _completed(token: bytes) -> Iterator[str]:
    """Texts that have the bytes of a token which begins or ends inside a character."""
    begun = len(token) - len(token.lstrip(_CONTINUES))  # bytes that continue a character which began before
    last = max((i for i, byte in enumerate(token) if byte >= 0xC0), default=-1)  # where the last one begins
    missing = 0 if last < 0 else _length(token[last]) - (len(token) - last)
    befores = list(_befores(begun))
    afters = list(_bytes(max(missing, 0)))
    for i in range(max(len(befores), len(afters)) * 4):
        # Runs through both, and through other pairs of them the second time.
        before = befores[(i + i // len(befores)) % len(befores)]
        text = _text(before + token + afters[i % len(afters)])
        if text is not None:
            yield text


_CONTINUES = bytes(range(0x80, 0xC0))


def _length(first: int) -> int:
    """Of a character in UTF-8, by its first byte."""
    return 2 if first < 0xE0 else 3 if first < 0xF0 else 4


def _befores(begun: int) -> Iterator[bytes]:
    """The bytes with which a character may begin of which so many are left."""
    if not begun:
        yield b""
    for first in range(0xC2, 0xF5) if begun else ():
        between = _length(first) - 1 - begun
        if between >= 0:
            yield from (bytes([first]) + rest for rest in _bytes(between))


def _bytes(count: int) -> Iterable[bytes]:
    """Ways to continue a character by so many bytes: all values of the first of them, some of the others."""
    if not count:
        return [b""]
    return [bytes([0x80 + i, *(0x80 + (23 * i + 7) % 64 for _ in range(count - 1))]) for i in range(64)]
