"""How a tokenizer comes to its tokens: from single bytes, one merge after another.

`joins` has the same rule for long texts; here every step is kept to be looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from .._core import BPE
from ..errors import TokenizerError
from .base import clean
from .bpe import Tokenizer

LONGEST = 400  # bytes of a text to replay: it is for words


@dataclass(frozen=True)
class Merge:
    """One step: two neighbours become one token.

    Attributes:
        at: which of the parts is the left one.
        rank: the merge's place in the list, from 0; under the rule "ranks" the id of the token that is made.
        parts: all parts of the pre-token after the step.
    """

    at: int
    left: bytes
    right: bytes
    rank: int
    parts: tuple[bytes, ...]


@dataclass(frozen=True)
class Replay:
    """What becomes of one pre-token.

    Attributes:
        text: the pre-token, a stretch of text inside which merges happen.
        whole: whether it is taken as it is, since it is a token, without looking at merges: they are then those that
            come to the same token, if they do.
        merges: the steps, in order.
        ids: of the tokens that come out.
    """

    text: bytes
    whole: bool
    merges: tuple[Merge, ...]
    ids: tuple[int, ...]


def replay(text: str, tokenizer: Any) -> list[Replay]:
    """The merges that turn ``text``, read as ordinary text, into tokens, pre-token by pre-token.

    Again and again the neighbours of the lowest rank are joined, of equals the leftmost, as long as any may be.

    Raises:
        TokenizerError: for a tokenizer that does not merge, and for a text of more than 400 bytes.
    """
    if not isinstance(tokenizer, Tokenizer):
        raise TokenizerError(f"a {type(tokenizer).__name__} has no merges to replay: it looks its units up in a list")
    if len(text.encode("utf-8", "replace")) > LONGEST:
        raise TokenizerError(f"merges are replayed for a word or a line, up to {LONGEST} bytes: give a shorter text")
    specials = set(tokenizer.special_tokens.values())
    vocab = {id: token for id, token in tokenizer.vocab.items() if id not in specials}
    by_bytes = {token: id for id, token in sorted(vocab.items(), reverse=True)}  # of equals the lowest id
    if tokenizer.rule == "ranks":

        def rank(left: bytes, right: bytes) -> int | None:
            return by_bytes.get(left + right)
    else:
        ranks = {pair: number for number, pair in enumerate(tokenizer.merges)}

        def rank(left: bytes, right: bytes) -> int | None:
            return ranks.get((left, right))

    found = []
    for piece in pretokens(text, tokenizer):
        whole = tokenizer.rule != "merges" and piece in by_bytes
        merges = tuple(_merges(piece, rank))
        parts = merges[-1].parts if merges else tuple(bytes([byte]) for byte in piece)
        if whole:
            merges, parts = (merges if parts == (piece,) else ()), (piece,)
        found.append(Replay(piece, whole, merges, tuple(by_bytes[part] for part in parts)))
    if (replayed := [id for part in found for id in part.ids]) != (ids := tokenizer.encode_ordinary(text)):
        raise TokenizerError(
            f"the replay of {text!r} ends at the ids {replayed}, but encoding gives {ids}: report this"
        )
    return found


def pretokens(text: str, tokenizer: Tokenizer) -> list[bytes]:
    """The pieces that the tokenizer's pattern cuts ``text`` into.

    The core has no function for it: a tokenizer that has every stretch of the text as a token, and takes whole pieces
    first, answers with the pieces.
    """
    raw = clean(text).encode()
    stretches = {raw[i:j] for i in range(len(raw)) for j in range(i + 2, len(raw) + 1)}
    tokens = [bytes([byte]) for byte in range(256)] + sorted(stretches)
    core = tokenizer._core
    merges = None if tokenizer.rule == "ranks" else []  # what the pattern does not match is a piece, or dropped
    probe = BPE(list(enumerate(tokens)), [], merges, True, core.pattern)
    probe = BPE.from_state(probe.state(), core.splits())
    return [tokens[id] for id in probe.encode(raw.decode(), (None, None, None, 0.0, 0))]


def _merges(piece: bytes, rank: Callable[[bytes, bytes], int | None]) -> Iterator[Merge]:
    parts = [bytes([byte]) for byte in piece]
    while True:
        ranked = [(number, at) for at, pair in enumerate(pairwise(parts)) if (number := rank(*pair)) is not None]
        if not ranked:
            return
        number, at = min(ranked)
        left, right = parts[at : at + 2]
        parts[at : at + 2] = [left + right]
        yield Merge(at, left, right, number, tuple(parts))
