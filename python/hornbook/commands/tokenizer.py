"""``hornbook tokenizer train | count | encode | decode | show``."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from ..errors import ConfigError, DataError
from ..machine import size
from .common import Encoding, Field, Sources, check_place, meter, note, open_tokenizer, opened


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a byte-level BPE tokenizer."""

    source: Sources
    """text, .jsonl or .parquet files, packed as .gz, .zst or .zip or not, folders of them, or a corpus's name"""
    out: Path
    """the folder to write tokenizer.json to, or the file if the name ends in .json or .tiktoken"""
    counts: tuple[Path, ...] = ()
    """in place of a source, files that `hornbook tokenizer count` wrote; they are added up"""
    vocab_size: int = 8192
    """tokens, the 256 bytes and the special ones included"""
    pattern: str | None = None
    """how text is cut before merging: gpt2, cl100k, o200k, none, or a regular expression; cl100k if not given, or that
    of the counts"""
    special_tokens: tuple[str, ...] | None = None
    """tokens with a meaning of their own; <|endoftext|> if not given, or those of the counts"""
    tie: Literal["huggingface", "raw", "largest_content"] = "huggingface"
    """of pairs that are equally frequent, which goes first: as in Hugging Face's tokenizers, as in rustbpe, or the
    greater pair of byte strings as in subword-nmt"""
    min_frequency: int = 0
    """pairs that occur less often are not joined"""
    max_token_length: int | None = None
    """no token gets more bytes"""
    field: Field = "text"
    encoding: Encoding = None
    threads: int | None = None
    """how many; all cores if not given"""

    def run(self) -> None:
        import time

        from ..tokenizer import Counts, Tokenizer

        if self.source and self.counts:
            raise ConfigError(
                "give texts to train on or --counts, not both: count the texts too, with the same options"
            )
        check_place(self.out, folder=self.out.suffix not in (".json", ".tiktoken"))
        started = time.monotonic()
        if self.counts:
            texts = Counts.merge(map(Counts.load, self.counts))
        else:
            texts = opened(self.source, self.field, parted=_parted(self.special_tokens), encoding=self.encoding)
        with meter() as progress:
            tok = Tokenizer.train(
                texts, vocab_size=self.vocab_size, **_cut_by(self.pattern, self.special_tokens), tie=self.tie,
                min_frequency=self.min_frequency, max_token_length=self.max_token_length, num_threads=self.threads,
                progress=progress,
            )  # fmt: skip
        tok.save(self.out)
        note(f"{self.out}: {tok.vocab_size:,} tokens, trained in {time.monotonic() - started:.1f} s")


@dataclass(frozen=True, kw_only=True)
class Count:
    """Count the pre-tokens of a part of a corpus, for ``hornbook tokenizer train --counts``.

    Parts can be counted on many machines; training on the files together gives the tokenizer of one run over all.
    """

    source: Sources
    """text, .jsonl or .parquet files, packed as .gz, .zst or .zip or not, folders of them, or a corpus's name"""
    out: Path
    """the file to write"""
    pattern: str | None = None
    """how text is cut before merging: gpt2, cl100k, o200k, none, or a regular expression; cl100k if not given. It must
    be the same for all parts"""
    special_tokens: tuple[str, ...] | None = None
    """tokens with a meaning of their own, the same for all parts; <|endoftext|> if not given"""
    field: Field = "text"
    encoding: Encoding = None
    threads: int | None = None
    """how many; all cores if not given"""

    def run(self) -> None:
        import time

        from ..tokenizer import Counts

        check_place(self.out)
        started = time.monotonic()
        cut = _cut_by(self.pattern, self.special_tokens)
        with meter() as progress:
            texts = opened(self.source, self.field, parted=_parted(self.special_tokens), encoding=self.encoding)
            counts = Counts.of(texts, **cut, num_threads=self.threads, progress=progress)
        counts.save(self.out)
        note(
            f"{self.out}: {len(counts):,} different pre-tokens in {counts.texts:,} texts, {size(counts.total_bytes)}, "
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


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Print the token ids of a text."""

    text: Positional[str] = "-"
    """the text, or - to read it from standard input"""
    tokenizer: str
    """a folder, a file, or gpt2, cl100k_base, o200k_base"""
    allow_special: bool = False
    """read special tokens in the text as such instead of as text"""

    def run(self) -> None:
        tok = open_tokenizer(self.tokenizer)
        text = sys.stdin.read() if self.text == "-" else self.text
        print(*(tok.encode(text, allowed_special="all") if self.allow_special else tok.encode_ordinary(text)))


@dataclass(frozen=True, kw_only=True)
class Decode:
    """Print the text of token ids."""

    ids: Positional[Annotated[list[str], arg(metavar="ID...")]]
    """numbers, or - to read them from standard input"""
    tokenizer: str
    """a folder, a file, or gpt2, cl100k_base, o200k_base"""

    def run(self) -> None:
        if not self.ids:
            raise ConfigError("which ids? Give numbers, or - to read them from standard input")
        words = re.split(r"[\s,]+", sys.stdin.read().strip()) if self.ids == ["-"] else self.ids
        try:
            numbers = [int(word) for word in words if word]
        except ValueError as error:
            raise DataError(f"token ids are whole numbers: {error}") from None
        sys.stdout.write(open_tokenizer(self.tokenizer).decode(numbers) + "\n")


@dataclass(frozen=True, kw_only=True)
class Show:
    """Print a text with its tokens coloured, write it as a page, or replay the merges that make a word's tokens.

    Without a terminal, or with NO_COLOR in the environment, bars stand between the tokens; FORCE_COLOR colours always.
    """

    text: Positional[str] = "-"
    """the text, or - to read it from standard input"""
    tokenizer: str
    """a folder, a file, or gpt2, cl100k_base, o200k_base"""
    ids: bool = False
    """write the id of each token behind it"""
    merges: str | None = None
    """a word whose merges to replay step by step, in place of a text"""
    html: str | None = None
    """a file to write a page to, with the ids where the pointer rests; or - to print the page"""

    def run(self) -> None:
        from rich.console import Console

        from .. import files
        from ..tokenizer import page, replay, show
        from ..tokenizer.show import steps

        if self.merges is not None and (self.html is not None or self.text != "-"):
            raise ConfigError("--merges replays a word of its own: give it without a text and without --html")
        if self.html not in (None, "-"):
            check_place(Path(self.html))
        tok = open_tokenizer(self.tokenizer)
        if self.merges is not None:
            Console(highlight=False).print(steps(replay(self.merges, tok)), soft_wrap=True)
            return
        text = sys.stdin.read() if self.text == "-" else self.text
        if self.html is None:
            Console(highlight=False).print(show(text, tok, ids=self.ids), soft_wrap=True, markup=False, emoji=False)
        elif self.html == "-":
            sys.stdout.write(page(text, tok, title=f"Tokens of {self.tokenizer}"))
        else:
            Path(self.html).parent.mkdir(parents=True, exist_ok=True)
            files.write(Path(self.html), page(text, tok, title=f"Tokens of {self.tokenizer}"))
            note(f"{self.html}: {len(tok.encode(text, allowed_special='all')):,} tokens")
