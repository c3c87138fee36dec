"""Making tokens visible."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

# Backgrounds that black letters can be read on; neighbours differ.
COLORS = ("#a8d8ea", "#f9d6a0", "#c3e6b5", "#f7c1c9", "#d9c7ee")
VISIBLE = str.maketrans({"\n": "⏎", "\t": "⇥", "\r": "␍", "\0": "␀"})


def pieces(text: str, tokenizer: Any) -> list[tuple[int, str]]:
    """Each id of ``text`` with its token, readable: bytes that are no whole character as <e4>."""
    ids = tokenizer.encode(text, allowed_special="all")
    return [(id, readable(tokenizer.decode_bytes([id]))) for id in ids]


def show(text: str, tokenizer: Any, *, color: bool | None = None, ids: bool = False) -> Text | str:
    """``text`` cut into its tokens: coloured (a `rich.text.Text` to print with rich), or with bars between them.

    color: None means as stdout is: coloured on a terminal, else plain, so that pipes and files stay clean.
    ids: write the id of each token behind it.

    >>> print(show("hidden", tok, color=False))             # doctest: +SKIP
    h|id|den
    """
    parts = [f"{token}·{id}" if ids else token for id, token in pieces(text, tokenizer)]
    if color is None:
        color = sys.stdout.isatty()
    if not color:
        return "|".join(parts)
    from rich.text import Text

    out = Text()
    for index, part in enumerate(parts):
        out.append(part, style=f"black on {COLORS[index % len(COLORS)]}")
        if part.endswith("⏎"):
            out.append("\n")
    return out


def readable(token: bytes) -> str:
    """The token as text; a byte that is part of no whole character here becomes <..> in hex."""
    text = token.decode("utf-8", "surrogateescape")
    return "".join(f"<{ord(c) - 0xDC00:02x}>" if "\udc80" <= c <= "\udcff" else c for c in text).translate(VISIBLE)
