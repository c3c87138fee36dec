"""The commands of ``hornbook tokenizer``."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from ..errors import ConfigError, DataError
from .common import Field, Sources, check_place, meter, note, open_tokenizer, opened, size

if TYPE_CHECKING:
    from rich.table import Table

    from ..tokenizer.compare import Comparison, Measure, Ratio


def tokenizer_train(
    source: Sources,
    *,
    out: Path,
    counts: tuple[Path, ...] = (),
    vocab_size: int = 8192,
    pattern: str | None = None,
    special_tokens: tuple[str, ...] | None = None,
    tie: Literal["huggingface", "raw", "largest_content"] = "huggingface",
    min_frequency: int = 0,
    max_token_length: int | None = None,
    field: Field = "text",
    threads: int | None = None,
) -> None:
    """Train a byte-level BPE tokenizer.

    Args:
        source: text, .jsonl or .parquet files, packed as .gz or .zst or not, folders of them, or a corpus's name.
        out: the folder to write tokenizer.json to, or the file if the name ends in .json or .tiktoken.
        counts: in place of a source, files that `hornbook tokenizer count` wrote; they are added up.
        vocab_size: tokens, the 256 bytes and the special ones included.
        pattern: how text is cut before merging: gpt2, cl100k, o200k, none, or a regular expression; cl100k if not
            given, or that of the counts.
        special_tokens: tokens with a meaning of their own; <|endoftext|> if not given, or those of the counts.
        tie: of pairs that are equally frequent, which goes first: as in Hugging Face's tokenizers, as in rustbpe, or
            the greater pair of byte strings as in subword-nmt.
        min_frequency: pairs that occur less often are not joined.
        max_token_length: no token gets more bytes.
        threads: how many; all cores if not given.
    """
    import time

    from ..tokenizer import Counts, Tokenizer

    if source and counts:
        raise ConfigError("give texts to train on or --counts, not both: count the texts too, with the same options")
    check_place(out, folder=out.suffix not in (".json", ".tiktoken"))
    started = time.monotonic()
    texts = Counts.merge(map(Counts.load, counts)) if counts else opened(source, field, parted=_parted(special_tokens))
    with meter() as progress:
        tok = Tokenizer.train(
            texts, vocab_size=vocab_size, **_cut_by(pattern, special_tokens), tie=tie, min_frequency=min_frequency,
            max_token_length=max_token_length, num_threads=threads, progress=progress,
        )  # fmt: skip
    tok.save(out)
    note(f"{out}: {tok.vocab_size:,} tokens, trained in {time.monotonic() - started:.1f} s")


def tokenizer_count(
    source: Sources,
    *,
    out: Path,
    pattern: str | None = None,
    special_tokens: tuple[str, ...] | None = None,
    field: Field = "text",
    threads: int | None = None,
) -> None:
    """Count the pre-tokens of a part of a corpus, for ``hornbook tokenizer train --counts``.

    Parts can be counted on many machines; training on the files together gives the tokenizer of one run over all.

    Args:
        source: text, .jsonl or .parquet files, packed as .gz or .zst or not, folders of them, or a corpus's name.
        out: the file to write.
        pattern: how text is cut before merging: gpt2, cl100k, o200k, none, or a regular expression; cl100k if not
            given. It must be the same for all parts.
        special_tokens: tokens with a meaning of their own, the same for all parts; <|endoftext|> if not given.
        threads: how many; all cores if not given.
    """
    import time

    from ..tokenizer import Counts

    check_place(out)
    started = time.monotonic()
    with meter() as progress:
        texts = opened(source, field, parted=_parted(special_tokens))
        counts = Counts.of(texts, **_cut_by(pattern, special_tokens), num_threads=threads, progress=progress)
    counts.save(out)
    note(
        f"{out}: {len(counts):,} different pre-tokens in {counts.texts:,} texts, {size(counts.total_bytes)}, "
        f"counted in {time.monotonic() - started:.1f} s"
    )


def _cut_by(pattern: str | None, special_tokens: tuple[str, ...] | None) -> dict[str, Any]:
    """The options of training and counting that were given."""
    given: dict[str, Any] = {} if pattern is None else {"pattern": None if pattern == "none" else pattern}
    return given if special_tokens is None else {**given, "special_tokens": special_tokens}


def _parted(special_tokens: tuple[str, ...] | None) -> bool:
    """Whether <|endoftext|> parts documents, as in `Tokenizer.train`: if it is one of the special tokens."""
    from ..corpora import DOCUMENT_END

    return special_tokens is None or DOCUMENT_END in special_tokens


def tokenizer_encode(text: Positional[str] = "-", *, tokenizer: str, allow_special: bool = False) -> None:
    """Print the token ids of a text.

    Args:
        text: the text, or - to read it from standard input.
        tokenizer: a folder, a file, or gpt2, cl100k_base, o200k_base.
        allow_special: read special tokens in the text as such instead of as text.
    """
    tok = open_tokenizer(tokenizer)
    text = sys.stdin.read() if text == "-" else text
    print(*(tok.encode(text, allowed_special="all") if allow_special else tok.encode_ordinary(text)))


def tokenizer_decode(ids: Positional[Annotated[list[str], arg(metavar="ID...")]], *, tokenizer: str) -> None:
    """Print the text of token ids.

    Args:
        ids: numbers, or - to read them from standard input.
        tokenizer: a folder, a file, or gpt2, cl100k_base, o200k_base.
    """
    if not ids:
        raise ConfigError("which ids? Give numbers, or - to read them from standard input")
    words = re.split(r"[\s,]+", sys.stdin.read().strip()) if ids == ["-"] else ids
    try:
        numbers = [int(word) for word in words if word]
    except ValueError as error:
        raise DataError(f"token ids are whole numbers: {error}") from None
    sys.stdout.write(open_tokenizer(tokenizer).decode(numbers) + "\n")


def tokenizer_show(text: Positional[str] = "-", *, tokenizer: str) -> None:
    """Print a text with its tokens coloured.

    Args:
        text: the text, or - to read it from standard input.
        tokenizer: a folder, a file, or gpt2, cl100k_base, o200k_base.
    """
    from rich.console import Console

    from ..tokenizer import show

    Console().print(show(sys.stdin.read() if text == "-" else text, open_tokenizer(tokenizer)), soft_wrap=True)


def tokenizer_compare(
    tokenizers: Positional[Annotated[list[str], arg(metavar="TOKENIZER...")]],
    *,
    text: tuple[str, ...] = (),
    out: Path | None = None,
    as_json: Annotated[bool, arg(name="json")] = False,
    seed: int = 0,
) -> None:
    """Measure tokenizers on texts, and find tokens that are never used.

    Bytes per token, tokens per word, tokens that the texts do not use or that no text can become, and what the
    vocabularies share.

    Args:
        tokenizers: folders, files, or gpt2, cl100k_base, o200k_base; the others are measured against the first.
        text: files, each a row of the table; folders, of which each file of text is a row; or corpora. If none is
            given: fables, Python's sources, and the folder udhr in $HORNBOOK_DATA if there is one.
        out: a folder for compare.json and plots of it.
        as_json: print JSON with all numbers instead of tables.
        seed: of the intervals, which are from the bootstrap.
    """
    from ..tokenizer.compare import compare

    if out is not None:
        check_place(out, folder=True)
    loaded = {label: open_tokenizer(name) for label, name in _labels(tokenizers).items()}
    with meter() as progress:
        found = compare(loaded, _texts(text), seed=seed, progress=progress)
    if out is not None:
        _draw(found, out)
    if as_json:
        print(_json(found))
        return
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=240)
    for title, table in _tables(found):
        console.print(title, table, "", sep="\n", highlight=False)
    if out is not None:
        note(f"{out}: compare.json, bytes_per_token.svg, token_lengths.svg")


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
