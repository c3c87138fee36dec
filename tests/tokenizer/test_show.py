"""Tokens made visible: on terminals of every kind, as a page, and how merges come to them."""

from __future__ import annotations

import ast
import html
import html.parser
import itertools
import re
from pathlib import Path

import pytest
import tiktoken
from hornbook import CharTokenizer, Tokenizer, WordTokenizer
from hornbook.errors import TokenizerError
from hornbook.tokenizer import Counts, page, replay, show
from hornbook.tokenizer.replay import pretokens
from hornbook.tokenizer.show import COLORS, colors, readable, steps
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken._educational import bpe_encode

TEXTS = ["so much depends upon a red wheel barrow", "glazed with rain water beside the white chickens", "naïve café"]
TRAINED = {pattern: Tokenizer.train(TEXTS * 3, 300, pattern=pattern) for pattern in ("gpt2", "cl100k", "o200k", None)}


@pytest.fixture(scope="module")
def gpt2(shared_data: Path) -> Tokenizer:
    return Tokenizer.from_tiktoken("gpt2")


# Merges, step by step


@pytest.mark.parametrize("word", ["tokenization", " antidisestablishmentarianism", "wörld", "中文", "x" * 50, "hello"])
def test_the_steps_are_those_of_tiktoken_s_teaching_code(gpt2: Tokenizer, shared_data: Path, word: str, capsys) -> None:
    ranks = tiktoken.get_encoding("gpt2")._mergeable_ranks
    ids = bpe_encode(ranks, word.encode(), visualise="simple")
    shown = [tuple(ast.literal_eval(line)) for line in capsys.readouterr().out.splitlines() if line]
    (found,) = replay(word, gpt2)
    single = tuple(bytes([byte]) for byte in word.encode())
    assert [single, *(merge.parts for merge in found.merges)] == shown
    assert list(found.ids) == ids
    for merge, parts in zip(found.merges, shown, strict=False):
        assert parts[merge.at : merge.at + 2] == (merge.left, merge.right)
        assert ranks[merge.left + merge.right] == merge.rank


@settings(max_examples=200)
@given(text=st.text(max_size=40), pattern=st.sampled_from(list(TRAINED)))
def test_a_replay_ends_at_the_ids_of_encode(text: str, pattern: str | None) -> None:
    """`replay` compares; here with merges by their place in the list."""
    tok = TRAINED[pattern]
    found = replay(text, tok)
    assert [id for part in found for id in part.ids] == tok.encode_ordinary(text)
    for part in found:
        assert all(tok.merges[m.rank] == (m.left, m.right) for m in part.merges)


@settings(max_examples=200)
@given(text=st.text("ab 1é中\n!", max_size=30), pattern=st.sampled_from(list(TRAINED)))
def test_pretokens_are_those_that_training_counts(text: str, pattern: str | None) -> None:
    found = pretokens(text, TRAINED[pattern])
    assert b"".join(found) == text.encode()
    counted = dict(Counts.of([text], pattern, ()).most_common(100))
    assert sorted(found) == sorted(itertools.chain.from_iterable([p.encode()] * n for p, n in counted.items()))


def test_what_cannot_be_replayed() -> None:
    for made in (CharTokenizer.train(TEXTS), WordTokenizer.train(TEXTS)):
        with pytest.raises(TokenizerError, match=f"{type(made).__name__} has no merges"):
            replay("so", made)
    with pytest.raises(TokenizerError, match="shorter text"):
        replay("so " * 200, TRAINED["gpt2"])
    assert replay("", TRAINED["gpt2"]) == []
    assert [part.text.decode() for part in replay("\ud800x", TRAINED["gpt2"])] == ["\ufffd", "x"]


def test_a_table_of_steps(gpt2: Tokenizer) -> None:
    assert steps(replay(" wörld", gpt2), color=False).plain.splitlines() == [
        "␣wörld   7 bytes",
        "                            ␣|w|<c3>|<b6>|r|l|d",
        "   1  ␣ + w        #266     ␣w|<c3>|<b6>|r|l|d",
        "   2  l + d        #335     ␣w|<c3>|<b6>|r|ld",
        "   3  <c3> + <b6>  #9,101   ␣w|ö|r|ld",
        "   4  ö + r        #30,570  ␣w|ör|ld",
        "      → ␣w·266  ör·30570  ld·335",
    ]
    text = steps(replay("hello", gpt2), color=True)
    assert "the whole is a token, and such are taken at once; step by step it comes to the same" in text.plain
    assert [text.plain[span.start : span.end] for span in text.spans] == ["hello", "he", "ll", "hell", "hello"]


# Colours


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "none"),  # the tests' stdout is no terminal
        ({"FORCE_COLOR": "1"}, "many"),
        ({"FORCE_COLOR": "1", "TERM": "xterm", "COLORTERM": ""}, "few"),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, "none"),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, "none"),
    ],
)
def test_what_a_terminal_can_show(monkeypatch, capsys, environment: dict[str, str], expected: str) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm-256color", "COLORTERM": "truecolor"} | environment).items():
        monkeypatch.setenv(name, value)
    assert colors() == expected
    shown = show("so much", TRAINED["gpt2"])
    assert (shown == "so| mu|ch") == (expected == "none")
    if not isinstance(shown, str):
        assert shown.plain == "so much"
        assert len({str(span.style) for span in shown.spans}) == 3


def test_nothing_moves_the_cursor(gpt2: Tokenizer) -> None:
    assert readable(b"\x1b[31m\n\t\x00\x7f") == "␛[31m⏎⇥␀␡"
    assert readable("a\x9b1m".encode()) == "a<U+009B>1m"
    assert readable("中".encode()[:2] + b"a") == "<e4><b8>a"
    everything = "".join(map(chr, range(0x100)))
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", show(everything, gpt2, color=False))  # type: ignore[arg-type]


def test_ids_are_written_behind(gpt2: Tokenizer) -> None:
    assert show("so much", gpt2, color=False, ids=True) == "so·568| much·881"


# The page


class Reader(html.parser.HTMLParser):
    """What a browser makes of the page: the spans' titles and texts, and whatever tags there are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.spans: list[list[str]] = []
        self.within = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "span":
            self.within = True
            self.spans.append([dict(attrs)["title"] or "", ""])

    def handle_endtag(self, tag: str) -> None:
        self.within = self.within and tag != "span"

    def handle_data(self, data: str) -> None:
        if self.within:
            self.spans[-1][1] += data


def test_the_page(gpt2: Tokenizer) -> None:
    text = "<script>alert('&amp;')</script>\nwörld 中 <|endoftext|>"
    made = page(text, gpt2, title="<b>&")
    found = Reader(made)
    ids = gpt2.encode(text, allowed_special="all")
    assert [int(title.split()[1]) for title, _ in found.spans] == ids
    assert [shown for _, shown in found.spans] == [readable(gpt2.decode_bytes([id])).replace("⏎", "⏎\n") for id in ids]
    assert set(found.tags) == {"html", "head", "meta", "title", "style", "body", "h1", "p", "pre", "span", "i"}
    assert "prefers-color-scheme: dark" in made
    assert not re.search(r"(src|href)=|url\(|https?:", made), "it needs nothing else"
    assert f"{len(ids):,} tokens" in made
    empty = Reader(page("", gpt2))
    assert not empty.spans


def contrast(a: str, b: str) -> float:
    """By the W3C's formula (WCAG 2.1)."""

    def light(color: str) -> float:
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(a), light(b)))
    return (high + 0.05) / (low + 0.05)


def test_letters_can_be_read_on_every_background(gpt2: Tokenizer) -> None:
    light, _, dark = page("x", gpt2).partition("prefers-color-scheme")
    for part, most in ((light, "#1b1f24"), (dark, "#e6e9ee")):
        backgrounds = re.findall(r"background: (#\w{6})", part)
        assert len(backgrounds) == 1 + len(COLORS)
        assert all(contrast(most, background) >= 4.5 for background in backgrounds)
