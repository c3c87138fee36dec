"""The commands of ``hornbook tokenizer``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from ..errors import ConfigError, DataError
from .common import Sources, named, note, open_tokenizer, spinner


def tokenizer_train(
    source: Sources,
    *,
    out: Path,
    vocab_size: int = 8192,
    pattern: str = "cl100k",
    special_tokens: tuple[str, ...] = ("<|endoftext|>",),
    threads: int | None = None,
) -> None:
    """Train a byte-level BPE tokenizer.

    Args:
        source: text files, folders, or a corpus's name.
        out: the folder to write tokenizer.json to.
        vocab_size: tokens, the 256 bytes and the special ones included.
        pattern: how text is cut before merging: gpt2, cl100k, o200k, none, or a regular expression.
        special_tokens: tokens with a meaning of their own.
        threads: how many; all cores if not given.
    """
    import time

    from ..corpora import files_or_documents
    from ..tokenizer import Tokenizer

    texts = files_or_documents(named(source))
    started = time.monotonic()
    with spinner() as progress:
        tok = Tokenizer.train(
            texts, vocab_size=vocab_size, pattern=None if pattern == "none" else pattern,
            special_tokens=special_tokens, num_threads=threads, progress=progress,
        )  # fmt: skip
    tok.save(out)
    note(f"{out}: {tok.vocab_size:,} tokens, trained in {time.monotonic() - started:.1f} s")


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
