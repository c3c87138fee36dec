"""Two dialects of regexes: Oniguruma's, which Hugging Face's `tokenizers` reads, and fancy-regex's, which is ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..errors import TokenizerError

# Word characters, which Oniguruma and our regexes see a little differently: all but these are the same.
_WORD = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}"
_OURS = _WORD + r"\x{200C}\x{200D}"
_THEIRS = _WORD + r"\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE}"


_PARTS = re.compile(
    r"\\[pPxu]\{[^}]*\}?"  # a property, or a character by its number
    r"|\\."  # any other escape
    r"|\(\?m:[\^$]\)"  # the edge of a line
    r"|\(\?[a-zA-Z-]+(?=[:)])"  # flags
    r"|\{\d*,?\d*\}\+"  # possessive here, a repetition of the repetition in Oniguruma
    r"|\[:|.",
    re.DOTALL,
)
_LINE = {"(?m:^)": "^", "(?m:$)": "$"}


def to_oniguruma(regex: str) -> str:
    """A regex of ours in the spelling of Oniguruma: there ``^`` and ``$`` are about lines."""
    return _respell(regex, {"^": r"\A", "$": r"\z", **_LINE}, _OURS)


def from_oniguruma(regex: str) -> str:
    """A regex of Oniguruma's in ours."""
    return _respell(regex, {theirs: ours for ours, theirs in _LINE.items()}, _THEIRS)


def _respell(regex: str, anchors: Mapping[str, str], word: str) -> str:
    """Replaces anchors outside of classes and writes out what a word character is; refuses what else differs."""
    edge = rf"(?:(?<=[{word}])(?![{word}])|(?<![{word}])(?=[{word}]))"
    outside = {r"\w": f"[{word}]", r"\W": f"[^{word}]", r"\b": edge, r"\B": f"(?!{edge})", **anchors}
    inside = {r"\w": word, r"\W": f"[^{word}]"}
    out: list[str] = []
    depth = 0  # of brackets
    for part in _PARTS.findall(regex):
        if part in (r"\h", r"\H", r"\R", r"\X", r"\Z", r"\G", r"\K", r"\N", r"\O") or (part == "[:" and depth):
            raise _different(part)
        if not depth and part not in anchors:
            if part[0] == "{" and part[-1] == "+":
                raise _different(part)
            if part.startswith("(?") and set(part) & set("msxRU"):
                raise _different(part)
        out.append((inside if depth else outside).get(part, part))
        depth = max(0, depth + (part[0] == "[") - (part == "]"))
    return "".join(out)


def _different(what: str) -> TokenizerError:
    return TokenizerError(
        f"the pattern holds {what}, which the regexes of `tokenizers` and of Hornbook read differently; write it in "
        "another way, for instance (?>x{1,3}) for x{1,3}+"
    )
