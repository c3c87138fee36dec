"""What a corpus is: a stream of documents, and what to know of it before reading."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError

LEAST_HELDOUT = 4000  # bytes: a few documents at least, however small the share


@dataclass(frozen=True)
class State:
    """Whether a corpus can be read at once, and where it is or what to do."""

    here: bool
    words: str


HERE = State(True, "here")


@dataclass(frozen=True)
class Corpus:
    """A corpus that Hornbook knows.

    Attributes:
        about: one line: what it is, and what a document is.
        licence: who may use it.
        source: where it comes from.
        size: bytes of its documents; of one without end, as many as are read if not told otherwise; None where that
            depends on the machine (see `measure`) or is not known.
        read: its documents, in an order that is always the same. With ``splits`` it takes a seed and a split.
        state: whether it is here already.
        splits: parts that were made to be held apart, such as ("train", "heldout"); such a corpus has no end.
        file: for a corpus that is one file of plain text, what finds that file or downloads it.
    """

    name: str
    about: str
    licence: str
    source: str
    size: int | None
    read: Callable[..., Iterable[str]]
    state: Callable[[], State] = lambda: HERE
    splits: tuple[str, ...] = ()
    file: Callable[[], Path] | None = None
    measured: Callable[[], int | None] = lambda: None

    def measure(self) -> int | None:
        """Its bytes, about, on this machine; None if it has no end, or if that is not known."""
        return None if self.splits else self.measured() if self.size is None else self.size

    def documents(self, size: int | None = None, *, seed: int = 0, split: str = "train") -> Iterator[str]:
        """Its documents.

        Args:
            size: of the first documents as many as fit into so many bytes of UTF-8, each counted with one more that
                parts it from the next; all if None, of a corpus without end as many as fit into its ``size``.
            seed, split: of a corpus with splits.

        Raises:
            DataError: for a split or seed that it does not have, and for a corpus that is not here and cannot be had.
        """
        size = self.size if size is None and self.splits else size
        texts = self.all_documents(seed=seed, split=split)
        return texts if size is None else _first(texts, size)

    def parted(
        self, share: float, size: int | None = None, *, seed: int = 0
    ) -> tuple[Iterator[str], float | Iterator[str], str]:
        """For `prepare`: documents to learn from (see `documents`), those to measure on beside them, and what tells
        both from others. Of a corpus without a held-out part the second is ``share`` itself."""
        size = self.size if size is None and self.splits else size
        whole = "" if self.splits else f" of {self.measure()}"  # another Python has another stdlib
        about = f"{self.name}, {'all' if size is None else size} bytes{whole}, seed {seed}"
        texts = self.documents(size, seed=seed)
        if "heldout" not in self.splits or not share:
            return texts, share, about
        most = max(LEAST_HELDOUT, round((size or 0) * share))
        return texts, self.documents(most, seed=seed, split="heldout"), f"{about}, {share} held out"

    def all_documents(self, *, seed: int = 0, split: str = "train") -> Iterator[str]:
        """All of them; of a corpus with splits there is no end. Raises DataError as `documents` does."""
        if split not in (self.splits or ("train",)):
            has = " and ".join(map(repr, self.splits)) if self.splits else "'train' only"
            raise DataError(f"{self.name} has the splits {has}, not {split!r}")
        if self.splits:
            return iter(self.read(seed=seed, split=split))
        if seed != 0:
            raise DataError(f"{self.name} is always the same; a seed is for generated corpora")
        return iter(self.read())


def _first(texts: Iterator[str], size: int) -> Iterator[str]:
    for text in texts:
        size -= len(text.encode("utf-8", "surrogatepass")) + 1
        if size < 0:
            return
        yield text
