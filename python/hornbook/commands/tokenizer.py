"""The commands of ``hornbook tokenizer``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from ..errors import ConfigError, DataError
from .common import Field, Sources, check_place, meter, note, open_tokenizer, opened, size


def tokenizer_train(
    source: Sources,
    *,
    out: Path,
    counts: tuple[Path, ...] = (),
    vocab_size: int = 8192,
    pattern: str | None = None,
    special_tokens: tuple[str, ...] | None = None,
    field: Field = "text",
    threads: int | None = None,
) -> None:
    """Train a byte-level BPE tokenizer.

    Args:
        source: text, .jsonl or .parquet files, packed as .gz or .zst or not, folders of them, or a corpus's name.
        out: the folder to write tokenizer.json to.
        counts: in place of a source, files that `hornbook tokenizer count` wrote; they are added up.
        vocab_size: tokens, the 256 bytes and the special ones included.
        pattern: how text is cut before merging: gpt2, cl100k, o200k, none, or a regular expression; cl100k if not
            given, or that of the counts.
        special_tokens: tokens with a meaning of their own; <|endoftext|> if not given, or those of the counts.
        threads: how many; all cores if not given.
    """
    import time

    from ..tokenizer import Counts, Tokenizer

    if source and counts:
        raise ConfigError("give texts to train on or --counts, not both: count the texts too, with the same options")
    check_place(out, folder=True)
    started = time.monotonic()
    texts = Counts.merge(map(Counts.load, counts)) if counts else opened(source, field)
    with meter() as progress:
        tok = Tokenizer.train(
            texts, vocab_size=vocab_size, **_cut_by(pattern, special_tokens), num_threads=threads, progress=progress
        )
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
        counts = Counts.of(
            opened(source, field), **_cut_by(pattern, special_tokens), num_threads=threads, progress=progress
        )
    counts.save(out)
    note(
        f"{out}: {len(counts):,} different pre-tokens in {counts.texts:,} texts, {size(counts.total_bytes)}, "
        f"counted in {time.monotonic() - started:.1f} s"
    )


def _cut_by(pattern: str | None, special_tokens: tuple[str, ...] | None) -> dict[str, Any]:
    """The options of training and counting that were given."""
    given: dict[str, Any] = {} if pattern is None else {"pattern": None if pattern == "none" else pattern}
    return given if special_tokens is None else {**given, "special_tokens": special_tokens}


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
