"""What is done to a document before it becomes tokens, and the count of what that kept and dropped."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ..errors import ConfigError

Name = Literal["train", "heldout"]


@dataclass(frozen=True)
class Steps:
    """What is done to documents, in this order."""

    nfc: bool = False
    """compose characters (Unicode's form NFC), so that é is always one character"""
    boilerplate: bool = False
    """cut Project Gutenberg's header and licence and lines about cookies and terms, drop documents of lorem ipsum"""
    min_chars: int = 1
    """drop documents of fewer characters; empty ones are always dropped"""
    max_chars: int | None = None
    """drop documents of more characters"""
    dedup: bool = True
    """drop a document that is the same as an earlier one, byte for byte"""

    def __post_init__(self) -> None:
        if self.min_chars < 1:
            raise ConfigError(f"min_chars is at least 1, as an empty document teaches nothing; not {self.min_chars}")
        if self.max_chars is not None and self.max_chars < self.min_chars:
            raise ConfigError(
                f"max_chars is {self.max_chars}, below min_chars, {self.min_chars}: nothing would be left"
            )

    def described(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(slots=True)
class Document:
    """A document on its way.

    Attributes:
        split: where it belongs; None until that is decided.
        data: ``text`` in UTF-8; what is half a surrogate pair is kept as it is.
    """

    text: str
    split: Name | None
    data: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.data = self.text.encode("utf-8", "surrogatepass")

    def become(self, text: str) -> bool:
        """Take another text; whether it is another one."""
        if text == self.text:
            return False
        self.text = text
        self.__post_init__()
        return True


class Tally:
    """For each step, in order: documents kept, dropped and changed by it, and the bytes of text that it left.

    So kept + dropped of a step is kept of the step before it.
    """

    def __init__(self, rows: list[dict[str, Any]] | None = None) -> None:
        self.rows = [] if rows is None else rows

    def add(self, step: str, before: int, after: list[Document], changed: int = 0) -> None:
        row = next((row for row in self.rows if row["step"] == step), None)
        if row is None:
            row = {"step": step, "kept": 0, "dropped": 0, "changed": 0, "bytes": 0}
            self.rows.append(row)
        row["kept"] += len(after)
        row["dropped"] += before - len(after)
        row["changed"] += changed
        row["bytes"] += sum(len(document.data) for document in after)

    def copy(self) -> list[dict[str, Any]]:
        return [dict(row) for row in self.rows]

    @property
    def kept(self) -> int:
        """Documents left by all steps."""
        return self.rows[-1]["kept"] if self.rows else 0


def clean(documents: list[Document], steps: Steps, tally: Tally) -> list[Document]:
    """The documents that are left by all steps that look at one alone."""
    tally.add("read", len(documents), documents)
    if steps.nfc:
        changed = sum(document.become(unicodedata.normalize("NFC", document.text)) for document in documents)
        tally.add("nfc", len(documents), documents, changed)
    if steps.boilerplate:
        before = len(documents)
        documents = [document for document in documents if not _FILLER.search(document.text)]
        changed = sum(document.become(without_boilerplate(document.text)) for document in documents)
        tally.add("boilerplate", before, documents, changed)
    documents = _kept("min_chars", documents, (len(d.text) >= steps.min_chars for d in documents), tally)
    if steps.max_chars is not None:
        documents = _kept("max_chars", documents, (len(d.text) <= steps.max_chars for d in documents), tally)
    return documents


def _kept(step: str, documents: list[Document], keep: Iterable[bool], tally: Tally) -> list[Document]:
    kept = [document for document, good in zip(documents, keep, strict=True) if good]
    tally.add(step, len(documents), kept)
    return kept


# The lines between which Project Gutenberg puts a book; all that is outside them is about the file, not of the book.
# A long title goes on in a second line.
_BOOK_BEGINS = re.compile(
    r"^\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG E(?:BOOK|TEXT)[^*]{0,400}\*\*\*", re.M | re.I
)
_BOOK_ENDS = re.compile(
    r"^(?:\*\*\* ?END OF (?:THE|THIS) PROJECT GUTENBERG E(?:BOOK|TEXT)|End of (?:the |this )?Project Gutenberg)",
    re.M | re.I,
)
# What web pages say about themselves: a few of the phrases by which C4 leaves out lines (Raffel et al. 2020,
# https://arxiv.org/abs/1910.10683, section 2.2), in short lines only, as a longer one is a paragraph about them.
_NOTICE = re.compile(
    r"(?:terms of use|privacy policy|cookie policy|uses? (?:of )?cookies|enable javascript|javascript is disabled"
    r"|all rights reserved)",
    re.I,
)
_NOTICE_CHARS = 200
_FILLER = re.compile(r"lorem ipsum", re.I)  # C4 leaves out such documents


def without_boilerplate(text: str) -> str:
    """A text without Project Gutenberg's header and licence, and without lines of notices."""
    if begins := _BOOK_BEGINS.search(text):
        text = text[begins.end() :].lstrip("\r\n")
    if ends := _BOOK_ENDS.search(text):
        text = text[: ends.start()].rstrip()
    if _NOTICE.search(text):
        lines = text.splitlines(keepends=True)
        text = "".join(line for line in lines if len(line) > _NOTICE_CHARS or not _NOTICE.search(line))
        text = text if text.strip() else ""
    return text
