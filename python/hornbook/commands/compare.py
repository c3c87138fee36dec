"""``hornbook tokenizer compare``."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ..errors import ConfigError
from .common import check_place, meter, note, open_tokenizer

if TYPE_CHECKING:
    from rich.table import Table

    from ..tokenizer.compare import Comparison, Measure, Ratio


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Measure tokenizers on texts, and find tokens that are never used.

    Bytes per token, tokens per word, tokens that the texts do not use or that no text can become, and what the
    vocabularies share.
    """

    tokenizers: Positional[Annotated[list[str], arg(metavar="TOKENIZER...")]]
    """folders, files, or gpt2, cl100k_base, o200k_base; the others are measured against the first"""
    text: tuple[str, ...] = ()
    """files, each a row of the table; folders, of which each file of text is a row; or corpora. If none is given:
    fables, Python's sources, and the folder udhr in $HORNBOOK_DATA if there is one"""
    out: Path | None = None
    """a folder for compare.json and plots of it"""
    json: bool = False
    """print JSON with all numbers instead of tables"""
    seed: int = 0
    """of the intervals, which are from the bootstrap"""

    def run(self) -> None:
        from ..tokenizer.compare import compare

        if self.out is not None:
            check_place(self.out, folder=True)
        loaded = {label: open_tokenizer(name) for label, name in _labels(self.tokenizers).items()}
        with meter() as progress:
            found = compare(loaded, _texts(self.text), seed=self.seed, progress=progress)
        if self.out is not None:
            _draw(found, self.out)
        if self.json:
            print(_json(found))
            return
        from rich.console import Console

        console = Console() if sys.stdout.isatty() else Console(width=240)
        for title, table in _tables(found):
            console.print(title, table, "", sep="\n", highlight=False)
        if self.out is not None:
            note(f"{self.out}: compare.json, bytes_per_token.svg, token_lengths.svg")


def _labels(names: list[str]) -> dict[str, str]:
    """A short name for each tokenizer, and what it was called."""
    if not names:
        raise ConfigError("which tokenizers? Give folders, files, or gpt2, cl100k_base, o200k_base")
    if len(set(names)) < len(names):
        raise ConfigError(f"a tokenizer is given twice: {' '.join(names)}")
    short = [Path(name).name or name for name in names]
    return {name if short.count(label) > 1 else label: name for label, name in zip(short, names, strict=True)}


def _texts(sources: tuple[str, ...]) -> dict[str, list[str]]:
    """The documents of each text that is to be a row."""
    from ..corpora import documents, fables
    from ..documents import Files, exists

    rows: dict[str, list[str]] = {}
    places: list[Path] = []
    for source in sources:
        if exists(source):
            places += Files([source]).files
        else:
            rows[source] = list(documents(source))
    if not sources:
        rows = {"fables": [story.text for story in fables.generate(500_000)], "python": _python_sources(1_000_000)}
        places = sorted(Path(os.environ.get("HORNBOOK_DATA") or "-", "udhr").glob("*.txt"))
    places = list(dict.fromkeys(places))
    short = [path.name.split(".")[0] or path.name for path in places]
    for path, label in zip(places, short, strict=True):
        rows[label if short.count(label) == 1 and label not in rows else str(path)] = list(documents(path))
    return rows


def _python_sources(size: int) -> list[str]:
    """Modules of the standard library, up to so many characters."""
    import sysconfig

    texts: list[str] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if size > 0:
            texts.append(path.read_text("utf-8"))
            size -= len(texts[-1])
    return texts


def _tables(found: Comparison) -> list[tuple[str, Table]]:
    """What is printed, each with what stands above it."""
    from rich.table import Table

    from ..tokenizer.reach import REASONS
    from ..tokenizer.show import readable

    first = found.tokenizers[0].name
    names = [report.name for report in found.tokenizers]

    def table(*columns: str) -> Table:
        made = Table(header_style="bold")
        for index, column in enumerate(columns):
            made.add_column(column, justify="right" if index else "left", no_wrap=True)
        return made

    def measures(text: str) -> list[Measure]:
        return [report.measures[text] for report in found.tokenizers]

    reasons = [Counter(token.reason for token in report.never_reached) for report in found.tokenizers]
    about = table("", "tokens", "special", "unused here", *(f"never: {reason}" for reason in REASONS))
    for report, counts in zip(found.tokenizers, reasons, strict=True):
        unused = len(report.unused) / sum(report.lengths.values())
        about.add_row(
            *(report.name, f"{report.vocab_size:,}", f"{report.special_tokens:,}"),
            *(f"{len(report.unused):,} ({unused:.0%})", *(f"{counts[reason]:,}" for reason in REASONS)),
        )
    sizes = table("", "bytes", *names)
    ratios = table("", *names[1:])
    fertility = table("", "words", *names)
    for text, facts in found.texts.items():
        sizes.add_row(text, f"{facts.bytes:,}", *(f"{m.bytes_per_token:.3f}" for m in measures(text)))
        ratios.add_row(text, *(_ratio(m.ratio) for m in measures(text)[1:]))
        words = "" if facts.words is None else f"{facts.words:,}"
        fertility.add_row(text, words, *(_fertility(m) for m in measures(text)))
    never = table("", "id", "token", "reason", "its bytes become")
    for report in found.tokenizers:
        for token in [token for token in report.never_reached if token.reason != "bytes"][:10]:
            parts = " | ".join(readable(part) for part in token.becomes)
            never.add_row(report.name, str(token.id), readable(token.token), token.reason, parts)
    shared = table("", "", "tokens", "of all that either has")
    for pair in found.shared:
        shared.add_row(pair.first, pair.second, f"{pair.tokens:,}", f"{pair.share:.0%}")
    reached = "".join(f"\n  never: {reason}: {why}" for reason, why in REASONS.items())
    tables = {
        f"Vocabularies, and how many of their tokens no text was found for{reached}": about,
        "Bytes per token": sizes,
        f"Tokens, divided by those of {first} (95 % interval)": ratios,
        "Tokens per word (share of words that are one token)": fertility,
        "Never reached, the first ten, other than for their bytes": never,
        "In both vocabularies": shared,
    }
    return [(title, made) for title, made in tables.items() if made.row_count and len(made.columns) > 1]


def _ratio(ratio: Ratio) -> str:
    return f"{ratio.value:.3f}" + ("" if ratio.low is None else f" ({ratio.low:.3f}–{ratio.high:.3f})")


def _fertility(measure: Measure) -> str:
    if measure.tokens_per_word is None:
        return ""
    return f"{measure.tokens_per_word:.2f} ({measure.whole_words:.0%})"


def _json(found: Comparison) -> str:
    """Indented, but a list of numbers in one line."""
    import json

    text = json.dumps(found.to_json(), ensure_ascii=False, indent=1)
    return re.sub(r"\[[\d\s,]+\]", lambda match: re.sub(r"\s+", "", match[0]).replace(",", ", "), text)


def _draw(found: Comparison, out: Path) -> None:
    """compare.json and the plots of it."""
    from .. import files, plots

    out.mkdir(parents=True, exist_ok=True)
    files.write(out / "compare.json", _json(found) + "\n")
    texts = list(found.texts)
    rates = {r.name: [r.measures[text].bytes_per_token for text in texts] for r in found.tokenizers}
    plots.bars(out / "bytes_per_token.svg", rates, texts, unit="bytes per token")
    shares = {r.name: _shares(r.lengths) for r in found.tokenizers}
    plots.histogram(
        out / "token_lengths.svg", shares, xlabel="bytes of a token", ylabel="share of the vocabulary", most=20
    )


def _shares(counts: Mapping[int, int]) -> dict[int, float]:
    total = sum(counts.values())
    return {key: count / total for key, count in counts.items()}
