"""`Counts`: how often each pre-token occurs, which is all that training needs to know of a text."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .. import files
from .._core import Counts as Core
from .._core import known_pattern
from ..documents import Files
from ..errors import DataError, HornbookError, TokenizerError
from .base import EOT, Progress, Source, source_of, special_list, thread_count


class _Default(str):
    """A default value that can be told from the same string given by hand."""

    __slots__ = ()


PATTERN = _Default("cl100k")
SPECIALS = (EOT,)


class Counts:
    """How often each pre-token of a text occurs, by a pattern and special tokens.

    Training joins pairs inside of pre-tokens, so that it sees of a text only which there are and how often. Counts of
    the parts of a corpus, made on any number of machines, add up to those of the whole, and the merges learnt
    from the sum are those of one run over everything:

    >>> from hornbook.tokenizer import Counts, Tokenizer
    >>> parts = [Counts.of(["so much depends"]), Counts.of(["upon a red wheel", "barrow"])]
    >>> tok = Tokenizer.train(parts[0] + parts[1], vocab_size=260)
    >>> tok == Tokenizer.train(["so much depends", "upon a red wheel", "barrow"], vocab_size=260)
    True

    Immutable. Two are equal if everything that they count is.
    """

    _core: Core

    def __init__(self) -> None:
        raise TypeError("use Counts.of, .load or .merge")

    @classmethod
    def _wrap(cls, core: Core) -> Counts:
        self = cls.__new__(cls)
        self._core = core
        return self

    @classmethod
    def of(
        cls,
        source: Source,
        pattern: str | None = PATTERN,
        special_tokens: Sequence[str] = SPECIALS,
        *,
        field: str = "text",
        num_threads: int | None = None,
        progress: Progress | None = None,
    ) -> Counts:
        """Counts a source; everything as for `Tokenizer.train`, progress only with "count". It may have no text.

        Where a corpus is parted matters only inside of a text: to count a long text in parts, part it at special
        tokens, or between texts of their own.

        Raises DataError for a missing or broken source, and TokenizerError for options that do not fit.
        """
        specials = special_list(special_tokens)
        threads = thread_count(num_threads)
        if pattern is not None and not isinstance(pattern, str):
            raise TokenizerError(f"pattern is {pattern!r}; expected a name, a regex, or None for not cutting at all")
        if pattern is not None and any("\ud800" <= character <= "\udfff" for character in pattern):
            raise TokenizerError(f"pattern is {pattern!r}, which holds half a character; expected a name or a regex")
        found = source_of(source, field, specials)
        if isinstance(found, Files):
            where = (found.described(), found.document_end, found.others(), found.total_bytes)
        else:
            where = ([], None, found, None)
        return cls._wrap(Core.count(*where, pattern, specials, threads, progress))

    @classmethod
    def merge(cls, counts: Iterable[Counts]) -> Counts:
        """The sum of one or more. They are taken one after another, so that a generator need not hold them all.

        Raises TokenizerError if their patterns or special tokens differ, and DataError if there is none.
        """

        def cores() -> Iterable[Core]:
            for item in counts:
                if not isinstance(item, Counts):
                    raise TokenizerError(f"expected several Counts, got one that is {type(item).__name__}")
                yield item._core

        return cls._wrap(Core.merge(cores()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Counts:
        """Reads a count file. Raises DataError for one that is missing, damaged or none."""
        path = Path(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}; expected a count file") from None
        try:
            return cls._wrap(Core.from_bytes(data))
        except HornbookError as error:
            raise type(error)(f"{path}: {error}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a count file; it is whole or not there, whatever happens. Equal counts make equal files."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, self._core.to_bytes())

    def __add__(self, other: object) -> Counts:
        return Counts.merge([self, other]) if isinstance(other, Counts) else NotImplemented

    def most_common(self, n: int = 10) -> list[tuple[str, int]]:
        """The n most frequent pre-tokens and their counts; of equally frequent ones the first in the order of bytes."""
        if not isinstance(n, int) or n < 0:
            raise TokenizerError(f"n is {n!r}; how many pre-tokens, a whole number?")
        return self._core.most_common(min(n, len(self)))

    @property
    def pattern(self) -> str | None:
        """What text was cut by: the name of a pattern, a regex, or None."""
        return self._core.pattern

    @property
    def special_tokens(self) -> list[str]:
        """The strings at which text was cut and which were not counted."""
        return self._core.special_tokens

    @property
    def texts(self) -> int:
        """How many texts were counted."""
        return self._core.texts

    @property
    def total_bytes(self) -> int:
        """How many bytes of UTF-8 these texts have, special tokens included."""
        return self._core.bytes

    @property
    def total(self) -> int:
        """How many pre-tokens there are, each counted as often as it occurs."""
        return self._core.pieces[1]

    def __len__(self) -> int:
        """How many different pre-tokens there are."""
        return self._core.pieces[0]

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return (
            f"Counts({len(self):,} different pre-tokens of {self.total:,} in {self.texts:,} texts, "
            f"{self.total_bytes:,} bytes; pattern={self.pattern!r})"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Counts):
            return NotImplemented
        return self._core is other._core or self._core.to_bytes() == other._core.to_bytes()

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_bytes, (self._core.to_bytes(),)

    def same(self, pattern: str | None, special_tokens: Sequence[str]) -> list[str]:
        """The special tokens. Raises TokenizerError if others, or another pattern, were asked for than these."""
        if not isinstance(pattern, _Default) and pattern != self.pattern and _spelt(pattern) != self.pattern:
            raise TokenizerError(
                f"these counts were made with pattern={self.pattern!r}, which pattern={pattern!r} does not change; "
                "leave it out, or count again"
            )
        if special_tokens is not SPECIALS and special_list(special_tokens) != self.special_tokens:
            raise TokenizerError(
                f"these counts were made with special_tokens={self.special_tokens}, which "
                f"special_tokens={list(special_tokens)} does not change; leave it out, or count again"
            )
        return self.special_tokens


def _spelt(pattern: str | None) -> str | None:
    """A regex that is known to mean the same as a name as that name."""
    return known_pattern(pattern)[0]


def _from_bytes(data: bytes) -> Counts:
    return Counts._wrap(Core.from_bytes(data))
