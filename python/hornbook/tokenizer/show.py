"""Making tokens visible: on a terminal, as plain text, and as a page."""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.text import Text

    from .replay import Replay

# Backgrounds that black letters can be read on; neighbours differ. The second are those of a terminal with few colours.
COLORS = ("#a8d8ea", "#f9d6a0", "#c3e6b5", "#f7c1c9", "#d9c7ee")
FEW_COLORS = ("cyan", "yellow", "green", "magenta", "white")
# The same hues, dark, for a page with light letters.
DARK_COLORS = ("#1f5468", "#6b4a12", "#2f5a20", "#6e2f3a", "#4b3a66")

# What would move the cursor, or do worse, becomes a character that can be seen.
VISIBLE = {code: chr(0x2400 + code) for code in range(0x20)} | {code: f"<U+{code:04X}>" for code in range(0x80, 0xA0)}
VISIBLE |= {ord("\n"): "⏎", ord("\t"): "⇥", 0x7F: "␡"}


def pieces(text: str, tokenizer: Any) -> list[tuple[int, str]]:
    """Each id of ``text`` with its token, readable: bytes that are no whole character as <e4>."""
    ids = tokenizer.encode(text, allowed_special="all")
    return [(id, readable(tokenizer.decode_bytes([id]))) for id in ids]


def show(text: str, tokenizer: Any, *, color: bool | None = None, ids: bool = False) -> Text | str:
    """``text`` cut into its tokens: coloured (a `rich.text.Text` to print with rich), or with bars between them.

    color: None means as stdout is: coloured on a terminal, else plain, so that pipes and files stay clean. The
        environment's NO_COLOR and FORCE_COLOR count.
    ids: write the id of each token behind it.

    >>> print(show("hidden", tok, color=False))             # doctest: +SKIP
    h|id|den
    """
    parts = [f"{token}·{id}" if ids else token for id, token in pieces(text, tokenizer)]
    known = colors()
    if not (known != "none" if color is None else color):
        return "|".join(parts)
    from rich.text import Text

    backgrounds = FEW_COLORS if known == "few" else COLORS
    out = Text()
    for index, part in enumerate(parts):
        out.append(part, style=f"black on {backgrounds[index % len(backgrounds)]}")
        if part.partition("·")[0].endswith("⏎"):
            out.append("\n")
    return out


def colors() -> Literal["none", "few", "many"]:
    """What stdout can show: "few" are the sixteen of old terminals."""
    from rich.console import Console

    console = Console(file=sys.stdout)
    if not console.is_terminal or console.no_color or console.color_system is None:
        return "none"
    return "few" if console.color_system == "standard" else "many"


def steps(replays: Iterable[Replay], *, color: bool | None = None) -> Text:
    """Replayed merges as a table. A line is a step: which two parts are joined, the rank of that merge after a #, and
    all parts of the pre-token after it. Spaces are written ␣.

    Args:
        replays: of `replay`.
        color: as in `show`; what a step made is marked with a colour.
    """
    from rich.text import Text

    marked = colors() != "none" if color is None else color

    def seen(token: bytes) -> str:
        return readable(token).replace(" ", "␣")

    out = Text()
    for number, found in enumerate(replays):
        out.append("\n" if number else "").append(seen(found.text), "bold" if marked else "")
        out.append(f"   {len(found.text)} byte{'s' * (len(found.text) != 1)}\n")
        names = [f"{seen(m.left)} + {seen(m.right)}" for m in found.merges]
        wide = max(map(len, names), default=0)
        rank = max((len(f"{m.rank:,}") for m in found.merges), default=0)
        before = "|".join(seen(bytes([byte])) for byte in found.text)
        out.append(f"{'':{wide + rank + 11}}{before}\n")
        for step, (name, merge) in enumerate(zip(names, found.merges, strict=True), 1):
            out.append(f"{step:4}  {name:{wide}}  #{merge.rank:<{rank},}  ")
            for index, part in enumerate(merge.parts):
                out.append("|" if index else "")
                out.append(seen(part), f"black on {FEW_COLORS[1]}" if marked and index == merge.at else "")
            out.append("\n")
        if found.whole:
            same = "; step by step it comes to the same" if found.merges else ""
            out.append(f"      the whole is a token, and such are taken at once{same}\n")
        parts = found.merges[-1].parts if found.merges else _parts(found)
        out.append("      → " + "  ".join(f"{seen(part)}·{id}" for part, id in zip(parts, found.ids, strict=True)))
        out.append("\n")
    out.rstrip()
    return out


def _parts(found: Replay) -> tuple[bytes, ...]:
    """Of a pre-token without merges: itself, or its bytes."""
    return (found.text,) if found.whole else tuple(bytes([byte]) for byte in found.text)


def page(text: str, tokenizer: Any, *, title: str = "Tokens") -> str:
    """``text`` with its tokens coloured, as a page of HTML that needs nothing else, light or dark as the reader has it.

    The id and the bytes of a token appear where the pointer rests on it.
    """
    ids = tokenizer.encode(text, allowed_special="all")
    spans = []
    for index, id in enumerate(ids):
        token = tokenizer.decode_bytes([id])
        about = f"id {id} · {len(token)} byte{'s' * (len(token) != 1)}: {token.hex(' ')}"
        shown = html.escape(readable(token)).replace("⏎", "<i>⏎</i>\n")
        spans.append(f'<span class="t{index % len(COLORS)}" title="{about}">{shown}</span>')
    size = len(text.encode("utf-8", "replace"))
    facts = f"{len(ids):,} tokens for {len(text):,} characters, {size:,} bytes"
    rate = f": {size / len(ids):.2f} bytes a token" if ids else ""
    return PAGE.format(
        title=html.escape(title),
        light="\n".join(f".t{i} {{ background: {c} }}" for i, c in enumerate(COLORS)),
        dark="\n".join(f".t{i} {{ background: {c} }}" for i, c in enumerate(DARK_COLORS)),
        about=html.escape(f"{facts}{rate}. {tokenizer!r}"),
        tokens="".join(spans),
    )


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
body {{ margin: 2rem auto; max-width: 60rem; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif;
  background: #ffffff; color: #1b1f24 }}
h1 {{ font-size: 1.3rem }}
pre {{ font: 1rem/1.9 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere }}
pre span {{ border-radius: 3px; padding: 0.15em 0 }}
pre span:hover {{ outline: 2px solid currentColor }}
pre i {{ font-style: normal; opacity: 0.6 }}
{light}
@media (prefers-color-scheme: dark) {{
body {{ background: #14171c; color: #e6e9ee }}
{dark}
}}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{about}</p>
<pre>{tokens}</pre>
</body>
</html>
"""


def readable(token: bytes) -> str:
    """The token as text; a byte that is part of no whole character here becomes <..> in hex, and control characters
    become signs for them."""
    text = token.decode("utf-8", "surrogateescape").translate(VISIBLE)
    return "".join(f"<{ord(c) - 0xDC00:02x}>" if "\udc80" <= c <= "\udcff" else c for c in text)
