"""Which merges training finds: those of a trainer that recounts everything, and those of Hugging Face."""

from __future__ import annotations

import logging
import random
from collections import Counter

import pytest
from hornbook import Tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from . import naive

TIES = ("huggingface", "raw", "largest_content")

# Few letters, so that counts tie and runs overlap; characters of several bytes; bytes whose order by id is not theirs.
letters = st.sampled_from(["a", "ab", "aab", "abc", "a b", "aé中", " !~\x7f\xa0\xad", "\0\n\t z"])
texts = letters.flatmap(lambda some: st.lists(st.text(some, max_size=40), min_size=1, max_size=12)).filter(any)


def pieces(texts: list[str], pattern: str | None) -> Counter[bytes]:
    """Cut by the package `regex`, which is neither Rust nor ours."""
    regex = Tokenizer.train(["x"], 256, pattern=pattern, special_tokens=())._core.regex
    if regex is None:
        return Counter(text.encode() for text in texts)
    cut = pytest.importorskip("regex").compile(regex.replace("$", r"\Z"))
    return Counter(piece.encode() for text in texts for piece in cut.findall(text))


def train(texts: list[str], merges: int, pattern: str | None, **options) -> list[tuple[bytes, bytes]]:
    return Tokenizer.train(texts, 256 + merges, pattern=pattern, special_tokens=(), **options).merges


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.ERROR)  # few pairs, and a warning that they ran out, thousands of times


@pytest.mark.parametrize("tie", TIES)
@settings(max_examples=150)
@given(texts=texts, merges=st.integers(1, 40), pattern=st.sampled_from([None, "gpt2", "cl100k", "o200k"]))
def test_merges_are_those_of_the_naive_trainer(texts, merges, pattern, tie):
    assert train(texts, merges, pattern, tie=tie) == naive.train(pieces(texts, pattern), merges, tie)


@pytest.mark.parametrize("tie", TIES)
@settings(max_examples=100)
@given(texts=texts, least=st.integers(0, 9), longest=st.none() | st.integers(1, 9))
def test_limits_are_those_of_the_naive_trainer(texts, least, longest, tie):
    limits = {"min_frequency": least, "max_token_length": longest}
    assert train(texts, 60, None, tie=tie, **limits) == naive.train(pieces(texts, None), 60, tie, **limits)


@pytest.mark.parametrize("tie", TIES)
def test_merges_on_text(stdlib_text, tie):
    found = train([stdlib_text[:30_000]], 200, "gpt2", tie=tie)
    assert found == naive.train(pieces([stdlib_text[:30_000]], "gpt2"), 200, tie)


def test_the_naive_trainer_is_hugging_face(hf_trained):
    rng = random.Random(7)
    for _ in range(60):
        alphabet = rng.choice(["a", "ab", "aab", "abc", "a b", "é中a"])
        texts = ["".join(rng.choices(alphabet, k=rng.choice([3, 8, 30]))) for _ in range(rng.choice([1, 4, 15]))]
        merges = rng.randint(1, 40)
        least, longest = rng.randint(0, 6), rng.choice([None, 2, 3, 5, 8])
        # They join what is shorter than their limit, and two bytes always.
        options = {} if longest is None else {"max_token_length": longest + 1}
        _, theirs, _ = hf_trained(texts, 256 + merges, None, min_frequency=least, **options)
        assert naive.train(pieces(texts, None), merges, "huggingface", least, longest) == theirs, (
            texts,
            least,
            longest,
        )
