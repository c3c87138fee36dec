"""Patterns for the rule "ranks", where what a regex does not match is dropped."""

from __future__ import annotations

import re
from itertools import product

from .._core import BPE
from ..errors import TokenizerError

BYTES = [(byte, bytes([byte])) for byte in range(256)]
AROUND = "aA \n\t1!é'中\u0301"
MOST = 100  # of a regex's characters and words that are tried


def ranked_pattern(core: BPE) -> str | None:
    """The pattern by which the rule "ranks" cuts text into the pieces that ``core`` makes of it.

    Raises TokenizerError for a regex that can match nothing: tiktoken panics there, or drops what stands there.
    """
    regex = core.regex
    if regex is None or core.known_scanner:
        return core.pattern
    place = matches_nothing(regex)
    if place is not None:
        raise TokenizerError(
            f"the pattern {regex!r} can match nothing, for instance in {place!r}; tiktoken panics at such a match, or "
            "drops text. Train with one that always takes a character (x+ in place of x*), or save as tokenizer.json"
        )
    if core.rule == "ranks":
        return core.pattern
    return rf"{regex}|(?:(?!{regex})[\s\S])+"


def matches_nothing(regex: str) -> str | None:
    """A text in which the regex has an empty match, as far as trying finds one.

    Tried are one or two characters, and the regex's own words and characters, as what it looks behind or ahead for.
    """
    chars = sorted({*AROUND, *regex[:MOST]})
    before = ["", *chars, *re.findall(r"\w\w+", regex)[:MOST]]
    texts = ["".join(pair) for pair in product(before, chars)]
    # Before the last character, where one is left over before and after; and at the end.
    for probe in (rf"(?=[\s\S]\z)(?>{regex})(?=[\s\S]\z)[\s\S]", rf"[\s\S]\z(?>{regex})"):
        try:
            found = BPE(BYTES, [], None, False, probe).encode_batch(texts, (None, None, None, 0.0, 0), 1)
        except TokenizerError:  # what a regex may hold that does not bear to be put into another one
            continue
        for text, ids in zip(texts, found, strict=True):
            if ids:
                return text
    return None
