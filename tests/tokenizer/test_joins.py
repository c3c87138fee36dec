"""Merging in plain Python: what it makes of a piece, and that long pieces take no quadratic time."""

from __future__ import annotations

import sys
import time
from itertools import pairwise

import pytest
from hornbook import Tokenizer
from hornbook.tokenizer.joins import Joins
from hornbook.tokenizer.reach import never_reached
from hypothesis import given, settings
from hypothesis import strategies as st


def simple(piece: bytes, ranks: dict[tuple[bytes, bytes], int], below: int = sys.maxsize) -> list[bytes]:
    """The rule as it is said: look at all neighbours, join the leftmost of the lowest rank, look again."""
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 1:
        found = [ranks.get(pair, below) for pair in pairwise(parts)]
        lowest = min(found)
        if lowest >= below:
            break
        i = found.index(lowest)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


@st.composite
def vocabularies(draw) -> dict[tuple[bytes, bytes], int]:
    """Pairs of bytes and of what other pairs make, in any order; some make the same token in two ways."""
    tokens = [b"a", b"b", b"c"]
    pairs = []
    for _ in range(draw(st.integers(0, 12))):
        pair = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        pairs.append(pair)
        tokens.append(b"".join(pair))
    pairs = list(dict.fromkeys(draw(st.permutations(pairs)) if draw(st.booleans()) else pairs))
    return {pair: rank for rank, pair in enumerate(pairs)}


@settings(max_examples=500)
@given(ranks=vocabularies(), piece=st.text("abc", max_size=40).map(str.encode), below=st.integers(0, 13))
def test_parts_are_those_of_the_simple_rule(ranks, piece, below):
    joins = Joins(ranks)
    assert joins.parts(piece) == simple(piece, ranks)
    assert joins.parts(piece, below) == simple(piece, ranks, below)


@pytest.mark.parametrize("text", ["a" * (1 << 15), "ab" * (1 << 14), "aab" * 12_000])
def test_writing_long_tokens_takes_no_quadratic_time(text, tmp_path, caplog):
    tok = Tokenizer.train([text], 300, pattern=None)
    assert max(map(len, tok.vocab.values())) > 10_000
    start = time.perf_counter()
    tok.save(tmp_path / "x.tiktoken")
    took = time.perf_counter() - start
    assert took < 10, "0.3 s alone; by the simple rule, minutes"
    assert "tiktoken's rule" not in caplog.text
    tok.save(tmp_path / "x.json")
    Tokenizer.load(tmp_path / "x.json").save(tmp_path / "y.tiktoken")
    ranks = Tokenizer.load(tmp_path / "x.tiktoken")
    assert Tokenizer.load(tmp_path / "y.tiktoken") == ranks
    assert ranks.encode(text) == tok.encode(text)


def test_looking_for_long_tokens_takes_no_quadratic_time():
    vocab = {i: bytes([i]) for i in range(256)} | {256: b"xy", 257: b"xy" * 5000}
    tok = Tokenizer.from_vocab(vocab, [(b"x", b"y")])
    start = time.perf_counter()
    (found,) = (token for token in never_reached(tok) if len(token.token) > 2)
    assert time.perf_counter() - start < 30
    assert (found.reason, found.becomes) == ("merges", (b"xy",) * 5000)
