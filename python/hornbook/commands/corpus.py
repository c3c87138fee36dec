"""``hornbook corpus list | show | write``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from ..errors import DataError
from ..machine import size as readable
from .common import Encoding, Field, check_place, note, parse_size

if TYPE_CHECKING:
    from ..corpora import Corpus

Name = Positional[Annotated[str, arg(metavar="CORPUS")]]


@dataclass(frozen=True, kw_only=True)
class List:
    """The corpora that Hornbook knows: size, whether each is here or what to do, licence, source, and what it is.

    A table on a terminal; elsewhere a line each, with tabs between.
    """

    def run(self) -> None:
        from ..corpora import CORPORA

        rows = [(corpus, _size(corpus), corpus.state()) for corpus in CORPORA.values()]
        if not sys.stdout.isatty():
            for corpus, size, state in rows:
                here = "yes" if state.here else f"no: {state.words}"
                print(corpus.name, size, here, corpus.licence, corpus.source, corpus.about, sep="\t")
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table("corpus", "size", "here?", "what it is", header_style="bold", box=None, padding=(0, 2, 0, 0))
        for column in table.columns[:2]:
            column.no_wrap = True
        table.columns[1].justify = "right"
        for column in table.columns[2:]:
            column.overflow = "fold"
        for corpus, size, state in rows:
            here = Text("yes", "green") if state.here else Text(state.words)
            about = Text(corpus.about).append(f"\n{corpus.licence}; from: {corpus.source}", "dim")
            table.add_row(Text(corpus.name, "bold"), size, here, about)
        Console().print(table, highlight=False)


def _size(corpus: Corpus) -> str:
    size = corpus.measure()
    return "any" if corpus.splits else readable(size)


@dataclass(frozen=True, kw_only=True)
class Show:
    """Print the beginning of a corpus, and on stderr what is known of it."""

    name: Name
    """a corpus of ``hornbook corpus list``, a file or a folder"""
    count: int = 3
    """documents to print"""
    characters: int = 2000
    """of a document that has more, print so many"""
    seed: int = 0
    """of a generated corpus"""
    field: Field = "text"
    encoding: Encoding = None

    def run(self) -> None:
        from itertools import islice

        texts = islice(self._documents(), max(0, self.count))
        for number, text in enumerate(texts):
            print("\n" * (number > 0) + text[: max(0, self.characters)])
            if (more := len(text) - max(0, self.characters)) > 0:
                print(f"[... {more:,} characters more]")

    def _documents(self) -> Iterator[str]:
        from ..corpora import CORPORA, documents
        from ..documents import exists

        if self.name in CORPORA and not exists(self.name):
            corpus = CORPORA[self.name]
            where = f"licence: {corpus.licence}; from: {corpus.source}; {corpus.state().words}"
            note(f"{corpus.name}: {corpus.about}\nsize: {_size(corpus)}; {where}\n")
            texts = corpus.all_documents(seed=self.seed)
        else:
            texts = documents(self.name, field=self.field, encoding=self.encoding)
        first = next(texts, None)
        if first is None:
            raise DataError(f"{self.name}: there is no text in it")
        yield first
        yield from texts


@dataclass(frozen=True, kw_only=True)
class Write:
    """Write a corpus as one text file, with a line <|endoftext|> between documents."""

    name: Name
    """a corpus of ``hornbook corpus list``"""
    out: Path
    """the file"""
    size: str | None = None
    """the most to write, such as 500KB, 10MB, 1GB; if not given 5MB of a generated corpus, and all of another"""
    seed: int = 0
    """of a generated corpus"""
    split: Literal["train", "heldout"] = "train"
    """which part"""

    def run(self) -> None:
        from ..corpora import write

        check_place(self.out)
        size = None if self.size is None else parse_size(self.size)
        written = write(self.name, self.out, size, seed=self.seed, split=self.split)
        note(f"{self.out}: {written:,} bytes")
