"""How a tokenizer.json says where text is cut before merging."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .._core import known_pattern
from ..errors import TokenizerError
from .fields import Field
from .joins import Joins
from .oniguruma import from_oniguruma, to_oniguruma

if TYPE_CHECKING:
    from .exchange import Exchange

# Llama 3's. It differs from cl100k only where white space with a newline in it ends a text: this one cuts after the
# last newline. Libraries that know patterns by their spelling know this one.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# GPT-2's pattern between numbers that were cut off before, one digit at a time or whole: StarCoder's and SmolLM's.
# What stands before a digit ends a piece there, so that white space before it is not left over for it.
_BETWEEN = r"|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
DIGITS = {True: r"\p{N}" + _BETWEEN, False: r"\p{N}+" + _BETWEEN}

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def to_pre_tokenizer(tokenizer: Exchange) -> dict[str, Any]:
    """The ``pre_tokenizer``, in the spelling that most libraries know if there are several."""
    pattern, core = tokenizer.pattern, tokenizer._core
    if pattern is None:
        return {**BYTE_LEVEL, "use_regex": False}
    if pattern == "gpt2":
        return BYTE_LEVEL
    for individual, regex in DIGITS.items():
        if pattern == regex:
            digits = {"type": "Digits", "individual_digits": individual}
            return {"type": "Sequence", "pretokenizers": [digits, BYTE_LEVEL]}
    regex = core.oniguruma or ""
    if not core.known_scanner:
        regex = to_oniguruma(regex)
    elif pattern == "cl100k" and ends_alike(tokenizer.vocab.values(), tokenizer.merges, tokenizer.rule != "merges"):
        regex = LLAMA3
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    if pattern == LLAMA3 or (regex != core.oniguruma and pattern != "cl100k"):
        split["hornbook"] = pattern  # as it is to be read again; others ignore the key
    return {"type": "Sequence", "pretokenizers": [split, {**BYTE_LEVEL, "use_regex": False}]}


# The bytes of all white space in UTF-8, and some that other characters have too.
_WHITE = frozenset(b"".join(chr(c).encode() for c in range(0x3001) if chr(c).isspace()))


def ends_alike(tokens: Iterable[bytes], merges: Iterable[tuple[bytes, bytes]], whole_first: bool) -> bool:
    """Do the patterns cl100k and Llama 3's lead to the same ids on every text? Then they count as the same.

    At the end of a text they cut white space differently: one piece, or one up to the last newline and one after it.
    The ids are the same if no token lies across that place, and if the two pieces become nothing else when looked up
    whole.
    """
    white = [token for token in tokens if _WHITE.issuperset(token)]
    for token in white:
        if max(token.rfind(b"\n"), token.rfind(b"\r")) not in (-1, len(token) - 1):
            return False
    if not whole_first:
        return True
    known = set(white)
    ranks = {pair: rank for rank, pair in enumerate(merges) if pair[0] in known and pair[1] in known}
    joins = Joins(ranks)
    return all(len(joins.parts(token)) == 1 for token in white)


def from_pre_tokenizer(pre: Field, alike: Callable[[], bool]) -> str | None:
    """The pattern of a ``pre_tokenizer``: ByteLevel, alone or after one Split or Digits.

    ``alike`` says whether `ends_alike` holds. Raises TokenizerError for what no pattern here says exactly.
    """
    steps = [pre]
    if pre.value is not None and pre["type"].value == "Sequence":
        steps = list(pre.only(["type", "pretokenizers"])["pretokenizers"].list())
    kinds = [step["type"].value if step.value is not None else None for step in steps]
    if kinds not in (["ByteLevel"], ["Split", "ByteLevel"], ["Digits", "ByteLevel"]):
        raise pre.refuse(
            f"expected ByteLevel, or one Split or Digits and then ByteLevel, found {', '.join(map(str, kinds))}; "
            "use the package tokenizers for this file"
        )
    last = steps[-1].only(BYTE_LEVEL)
    if last["add_prefix_space"].flag(default=True):
        raise last["add_prefix_space"].refuse("it puts a space before every text; Hornbook encodes text as it is")
    if kinds == ["ByteLevel"]:
        return "gpt2" if last["use_regex"].flag(default=True) else None
    if kinds == ["Digits", "ByteLevel"]:
        digits = steps[0].only(["type", "individual_digits"])["individual_digits"].flag()
        if not last["use_regex"].flag(default=True):
            raise last["use_regex"].refuse("after Digits, ByteLevel is expected to cut at GPT-2's pattern (true)")
        return DIGITS[digits]
    if last["use_regex"].flag(default=True):
        raise last["use_regex"].refuse("with a Split before it, it cuts the text twice; expected false")
    return _split(steps[0].only(["type", "pattern", "behavior", "invert", "hornbook"]), alike)


def _split(split: Field, alike: Callable[[], bool]) -> str | None:
    """The pattern of a Split."""
    if list(split["pattern"].mapping()) != ["Regex"]:
        raise split["pattern"].refuse('expected {"Regex": ...}; a fixed string is not supported')
    regex = split["pattern"]["Regex"]
    text, own = regex.text(), split["hornbook"].value
    behavior, invert = split["behavior"].text(), split["invert"].flag()
    isolated = behavior == "Isolated"  # inverting it changes nothing: the parts are the same ones
    try:
        kept = isinstance(own, str) and isolated and (own == LLAMA3 or not known_pattern(own)[1])
        if kept and to_oniguruma(own) == text:
            return own
        spelling, known = known_pattern(text) if "(?m" not in text else (text, False)
        if text == LLAMA3 and alike():
            spelling = "cl100k"
        elif not known:
            spelling = known_pattern(from_oniguruma(text))[0]
    except TokenizerError as error:
        raise regex.refuse(str(error)) from None
    # Matches that cover all text can be kept by keeping the matches, too.
    if not isolated and not (known and behavior == "Removed" and invert):
        what = split["invert"] if behavior == "Removed" and known else split["behavior"]
        raise what.refuse('expected the behavior "Isolated", which keeps all text and cuts at every match')
    return spelling
