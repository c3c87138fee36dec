"""Ids equal tiktoken's on every code point, and on random strings of all of them."""

from __future__ import annotations

import os
import random
import unicodedata
from pathlib import Path

import pytest
from hornbook import Tokenizer
from hornbook.errors import TokenizerError
from hornbook.tokenizer import Counts

NAMES = ("gpt2", "cl100k_base", "o200k_base")
LAST = 0x10FFFF
THREADS = os.cpu_count() or 1


def differing(theirs, ours, texts: list[str]) -> list[str]:
    """Texts whose ids are not tiktoken's."""
    expected = theirs.encode_ordinary_batch(texts, num_threads=THREADS)
    found = ours.encode_batch(texts, THREADS, disallowed_special=())
    return [text for text, a, b in zip(texts, expected, found, strict=True) if a != b]


def around(char: str) -> list[str]:
    """A character alone, and between letters, digits and spaces, once and several times."""
    return [char, f"a{char}b1{char}2 {char} A{char}{char}A {char}b{char}'s{char}!{char} ", f" {char}9{char}"]


@pytest.mark.parametrize("name", NAMES)
def test_code_points_of_each_kind(tiktoken_encoding, name):
    """Some of each category in each block of 4096, and the edges of planes and of surrogates."""
    kinds: dict[tuple[str, int], list[str]] = {}
    for code in range(LAST + 1):
        kinds.setdefault((unicodedata.category(chr(code)), code >> 12), []).append(chr(code))
    rng = random.Random(1)
    chars = [char for kind in kinds.values() for char in rng.sample(kind, min(6, len(kind)))]
    edges = [plane << 16 | low for plane in range(17) for low in (0, 1, 0xFFFD, 0xFFFE, 0xFFFF)]
    chars += [chr(code) for code in [*edges, *range(256), 0xD7FF, 0xD800, 0xDBFF, 0xDC00, 0xDFFF, 0xE000]]
    theirs, ours = tiktoken_encoding(name), Tokenizer.from_tiktoken(name)
    assert differing(theirs, ours, [text for char in chars for text in around(char)]) == []


# What Unicode 16.0 (September 2024) added, and what 17.0 did.
LETTERS_16 = [0x1C89, 0x1C8A, 0xA7CB, 0xA7CD, 0xA7DA, 0xA7DC, 0x105C0, 0x10D50, 0x10D70, 0x11380, 0x13460, 0x1E5D0]
NUMBERS_16 = [0x10D40, 0x116D0, 0x11BF0, 0x16130, 0x16D70, 0x1CCF0, 0x1E5F1]
LETTERS_17 = [0x088F, 0x0C5C, 0x0CDC, 0xA7CE, 0xA7D2, 0xA7D4, 0xA7F1, 0x10940, 0x11DB0, 0x16EA0, 0x1E6C0, 0x323B0]
NUMBERS_17 = [0x11DE0]


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k", r"\p{L}+|\p{N}+|[^\p{L}\p{N}]+"])
def test_the_version_of_unicode_is_the_one_that_is_stated(pattern):
    """16.0, as docs/tokenizer.md, rust/src/unicode.rs and the class say: change them too if this fails."""

    def pieces(text: str) -> int:
        return Counts.of([text], pattern, ()).total

    assert {pieces(f"A{chr(code)}a") for code in LETTERS_16} == {1}
    assert {pieces(f"1{chr(code)}1") for code in NUMBERS_16} == {1}
    for code in LETTERS_17 + NUMBERS_17:  # neither, so that it parts both
        assert pieces(f"A{chr(code)}a") > 1
        assert pieces(f"1{chr(code)}1") == 3
    Counts.of(["a"], r"\p{Age=16.0}", ())
    with pytest.raises(TokenizerError, match="Age"):
        Counts.of(["a"], r"\p{Age=17.0}", ())
    root = Path(__file__).parents[2]
    for path in ("docs/tokenizer.md", "rust/src/unicode.rs", "python/hornbook/tokenizer/exchange.py"):
        assert "Unicode 16.0" in (root / path).read_text("utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_the_version_of_unicode_is_that_of_tiktoken(tiktoken_encoding, name):
    theirs, ours = tiktoken_encoding(name), Tokenizer.from_tiktoken(name)
    chars = map(chr, LETTERS_16 + NUMBERS_16 + LETTERS_17 + NUMBERS_17)
    assert differing(theirs, ours, [text for char in chars for text in around(char)]) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_code_point(tiktoken_encoding, name):
    """Alone, and between others: those in long texts, as calling tiktoken costs more than what it does."""
    theirs, ours = tiktoken_encoding(name), Tokenizer.from_tiktoken(name)
    for plane in range(17):
        chars = [chr(code) for code in range(plane << 16, (plane + 1) << 16)]
        assert differing(theirs, ours, chars) == []
        lines = [text for char in chars for text in around(char)[1:]]
        bad = differing(theirs, ours, ["\n".join(lines[i : i + 512]) for i in range(0, len(lines), 512)])
        assert [line for text in bad for line in differing(theirs, ours, text.split("\n"))] == []
        assert bad == []


class Strings:
    """Random strings of 1 to 24 characters: of all planes, a block, a category, ASCII, or several of these."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.everything = range(LAST + 1)  # surrogates too, which both read as U+FFFD
        by_kind: dict[str, list[int]] = {}
        for code in self.everything:
            by_kind.setdefault(unicodedata.category(chr(code)), []).append(code)
        assigned = [code for kind, codes in by_kind.items() if kind not in ("Cn", "Co", "Cs") for code in codes]
        spaces = [code for code in range(0x3001) if chr(code).isspace()]
        edges = [0xD7FF, 0xD800, 0xDBFF, 0xDC00, 0xDFFF, 0xE000, 0xFFFE, 0xFFFF, 0x10000, LAST]
        self.kinds = list(by_kind.values())
        self.pools = [self.everything, assigned, range(128), spaces, edges, by_kind["Mn"], by_kind["Nd"]]
        self.pools += [[0x20, 0x0A, 0x27], [0x27, 0x73, 0x74, 0x4C, 0x6C, 0x17F]]

    def some(self, count: int) -> list[str]:
        rng, out = self.rng, []
        for _ in range(count):
            start = rng.randrange(LAST - 255)
            pools = rng.choices([*self.pools, range(start, start + 256), rng.choice(self.kinds)], k=rng.randint(1, 3))
            codes = [code for pool in pools for code in rng.choices(pool, k=rng.randint(1, 8))]
            rng.shuffle(codes)
            out.append("".join(map(chr, codes)))
        return out


@pytest.mark.slow
def test_a_million_random_strings(tiktoken_encoding):
    """HORNBOOK_SEED=... makes others."""
    seed = int(os.environ.get("HORNBOOK_SEED", "20260101"))
    print("seed", seed)
    both = {name: (tiktoken_encoding(name), Tokenizer.from_tiktoken(name)) for name in NAMES}
    strings = Strings(seed)
    for _ in range(20):
        some = strings.some(50_000)
        for name, (theirs, ours) in both.items():
            assert differing(theirs, ours, some) == [], name
