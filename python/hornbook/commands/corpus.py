"""``hornbook corpus list | show | write``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from .common import check_place, note, parse_size

Name = Positional[Annotated[str, arg(metavar="CORPUS")]]


@dataclass(frozen=True, kw_only=True)
class List:
    """The corpora that Hornbook knows."""

    def run(self) -> None:
        from ..corpora import CORPORA

        for corpus in CORPORA.values():
            print(f"{corpus.name:12} {corpus.about} ({corpus.licence})")


@dataclass(frozen=True, kw_only=True)
class Show:
    """Print the beginning of a corpus."""

    name: Name
    """a corpus of ``hornbook corpus list``, a file or a folder"""
    count: int = 3
    """documents to print"""
    seed: int = 0
    """of a generated corpus"""

    def run(self) -> None:
        from itertools import islice

        from ..corpora import CORPORA, documents, fables

        if self.name in CORPORA and not Path(self.name).exists():
            texts = (story.text for story in fables.stories(seed=self.seed))
        else:
            texts = documents(self.name)
        print("\n\n".join(islice(texts, max(0, self.count))))


@dataclass(frozen=True, kw_only=True)
class Write:
    """Write a corpus as one text file, with a line <|endoftext|> between documents."""

    name: Name
    """a corpus of ``hornbook corpus list``"""
    out: Path
    """the file"""
    size: str | None = None
    """such as 500KB, 5MB, 1GB; the corpus's own if not given"""
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
