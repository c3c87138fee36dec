"""Special tokens: tiktoken's meaning of allowed and disallowed, and what tiktoken leaves to chance."""

from __future__ import annotations

import itertools
import random

import pytest
from hornbook import Tokenizer
from hornbook.errors import TokenizerError

EOT, EOP = "<|endoftext|>", "<|endofprompt|>"


def result(encode, *args, **options):
    try:
        return encode(*args, **options)
    except ValueError:
        return "ValueError"


@pytest.fixture(scope="module")
def small(stdlib_text):
    return Tokenizer.train([stdlib_text[:100_000]], 600, special_tokens=[EOT, EOP, "<|fim_prefix|>"])


def test_equal_to_tiktoken_for_all_choices(small):
    pytest.importorskip("tiktoken")
    theirs = small.to_tiktoken()
    rng = random.Random(3)
    parts = [EOT, EOP, "<|fim_prefix|>", "<|endof", "text|>", "a b", " ", "  \n ", "'s", "<|", "é"]
    choices = ["all", set(), {EOT}, {EOP, "<|fim_prefix|>"}, {"unknown"}]
    refusals = ["all", (), [EOT], {"a b", EOP}, frozenset({"unknown"})]
    for _ in range(150):
        text = "".join(rng.choices(parts, k=rng.randint(0, 8)))
        for allowed, refused in itertools.product(choices, refusals):
            options = {"allowed_special": allowed, "disallowed_special": refused}
            expected = result(theirs.encode, text, **options)
            assert result(small.encode, text, **options) == expected, (text, options)
            if expected != "ValueError":
                assert small.encode_to_numpy(text, **options).tolist() == expected
                assert small.encode_batch([text], **options) == [expected]
                assert small.encode_with_offsets(text, **options)[0] == expected
            stream = result(lambda: list(small.encode_iterable(text, **options)))  # noqa: B023
            assert stream == expected


def test_the_default_refuses_and_says_what_to_do(small):
    with pytest.raises(TokenizerError, match=r"'?<\|endoftext\|>.*at byte 6.*allowed_special") as caught:
        small.encode(f"hello {EOT}")
    assert isinstance(caught.value, ValueError)
    assert small.encode(EOT, allowed_special="all") == [small.eot_id]
    assert small.eot_id == small.special_tokens[EOT] == 597
    assert small.encode_ordinary(EOT) == small.encode(EOT, disallowed_special=())
    assert small.eot_id not in small.encode_ordinary(EOT)
    assert small.decode([small.eot_id]) == EOT


def test_a_string_is_no_set(small):
    with pytest.raises(TokenizerError, match="set"):
        small.encode("x", allowed_special=EOT)
    with pytest.raises(TokenizerError, match="collection"):
        small.encode("x", disallowed_special=EOT)


def test_of_overlapping_special_tokens_the_longest_counts():
    tok = Tokenizer.train(["x"], 260, special_tokens=["<a>", "<a><b>", "<b>"])
    a, ab, b = tok.special_tokens.values()
    assert tok.encode("<a><b><b><a>", allowed_special="all") == [ab, b, a]
    assert tok.encode("<a><b>", allowed_special={"<a>"}, disallowed_special=()) == [a, *tok.encode_ordinary("<b>")]
    for cut in range(1, 12):
        text = "<a><b><b><a>"
        assert list(tok.encode_iterable([text[:cut], text[cut:]], allowed_special="all")) == [ab, b, a]


def test_a_stream_refuses_a_token_that_comes_in_pieces(small):
    with pytest.raises(TokenizerError, match="endoftext"):
        list(small.encode_iterable(["word word <|endo", "ft", "ext|> word"]))


def test_no_special_tokens():
    tok = Tokenizer.train(["x"], 256, special_tokens=())
    assert tok.special_tokens == {}
    assert tok.eot_id is None
    assert tok.decode(tok.encode(EOT)) == EOT
