"""Documents, in a row of steps, to ids: some at a time, so that a source need not fit into memory."""

from __future__ import annotations

import itertools
import logging
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..corpora import documents
from ..errors import ConfigError, DataError
from .duplicates import Seen, keys_of
from .text import Document, Name, Steps, Tally, clean

if TYPE_CHECKING:
    from ..tokenizer import TokenizerLike

Source = str | Path | Iterable[str] | Iterable[Path]

CHUNK_BYTES = 8 << 20  # of text that is encoded at a time
SPLITS: tuple[Name, Name] = ("train", "heldout")

log = logging.getLogger("hornbook")


@dataclass
class Taken:
    """How far reading has come.

    Attributes:
        documents, bytes: what has been read.
        crc: CRC-32 of all of it, so that going on can tell whether the source is still the same.
        hashes: how many documents `Seen` knows.
        steps: the rows of a `Tally`.
    """

    documents: int = 0
    bytes: int = 0
    crc: int = 0
    hashes: int = 0
    steps: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Encoded:
    """The documents of one split that were encoded together.

    Attributes:
        ids: each document's, with the end-of-text token before it.
        bounds: (documents + 1,) document i is ``ids[bounds[i]:bounds[i + 1]]``.
        bytes: of their text.
    """

    name: Name
    ids: NDArray[Any]
    bounds: NDArray[np.int64]
    bytes: int


def encoded(
    source: Source,
    tokenizer: TokenizerLike,
    heldout: float | Iterable[str],
    steps: Steps,
    *,
    seen: Seen | None = None,
    taken: Taken | None = None,
    num_threads: int | None = None,
) -> Iterator[tuple[list[Encoded], Taken]]:
    """A corpus's documents as ids, some at a time. The next ones are read and cleaned while these are encoded.

    Args:
        source: a path or corpus name, paths, or an iterable of texts, each a document.
        heldout: the share of documents to hold out, chosen by the hash of their text (of a single document, its end);
            or the held-out documents themselves, which are read first: one of the source that is the same is dropped.
        seen: for ``steps.dedup``.
        taken: go on from there; so many documents are read and thrown away.

    Yields:
        what was encoded, an `Encoded` at most for each name, and how far reading had come with it.
    """
    eot = eot_of(tokenizer)
    if isinstance(heldout, int | float) and not 0 <= heldout < 1:
        raise ConfigError(f"the held-out share must be at least 0 and below 1, not {heldout}")
    taken = Taken() if taken is None else taken
    batches = _cleaned(_read(source, heldout), heldout, steps, seen, taken)
    with ThreadPoolExecutor(1) as pool:
        ahead = None
        for batch, now in batches:
            texts = [document.text for document in batch]
            held = [document.split == "heldout" for document in batch], [len(document.data) for document in batch]
            # A mark inside a text is text.
            ids = pool.submit(tokenizer.encode_batch_to_numpy, texts, num_threads, disallowed_special=())
            del batch, texts
            if ahead is not None:
                yield _parted(*ahead[0].result(), *ahead[1], eot), ahead[2]
            ahead = ids, held, now
        if ahead is not None:
            yield _parted(*ahead[0].result(), *ahead[1], eot), ahead[2]


def eot_of(tokenizer: TokenizerLike) -> int:
    if tokenizer.eot_id is None:
        raise DataError("this tokenizer has no end-of-text token: train it with special_tokens=('<|endoftext|>',)")
    return tokenizer.eot_id


def say_if_nothing_is_held_out(wanted: float | Iterable[str], train: int, heldout: int) -> None:
    if wanted and not heldout:
        log.warning(
            "none of the %d documents was held out, so nothing will be measured on unseen text: "
            "give more documents or a larger held-out share",
            train,
        )


def _read(source: Source, heldout: float | Iterable[str]) -> Iterator[tuple[Name | None, str]]:
    """Every document, with the split it belongs to, if that is known."""
    if isinstance(heldout, int | float):
        return ((None, text) for text in documents(source))
    return itertools.chain((("heldout", text) for text in heldout), (("train", text) for text in documents(source)))


def _cleaned(
    texts: Iterator[tuple[Name | None, str]],
    heldout: float | Iterable[str],
    steps: Steps,
    seen: Seen | None,
    taken: Taken,
) -> Iterator[tuple[list[Document], Taken]]:
    """Documents that all steps leave, each with its split."""
    _skip(texts, taken)
    tally = Tally(taken.steps)
    waiting: list[Document] = []  # a single document: there may be no other
    alone = isinstance(heldout, int | float) and tally.kept == 0
    for chunk in _chunks(texts):
        for document in chunk:
            taken.documents += 1
            taken.bytes += len(document.data)
            taken.crc = zlib.crc32(document.data, taken.crc)
        kept = clean(chunk, steps, tally)
        if seen is not None:
            new = seen.add(keys_of(document.data for document in kept))
            before, kept = len(kept), [d for d, first in zip(kept, new.tolist(), strict=True) if first]
            tally.add("duplicates", before, kept)
            taken.hashes = seen.count
        kept, waiting = waiting + kept, []
        if alone and tally.kept < 2:
            waiting = kept
            continue
        alone = False
        for document in kept:
            if document.split is None:
                assert isinstance(heldout, int | float)
                document.split = "heldout" if zlib.crc32(document.data) < heldout * 2**32 else "train"
        yield kept, _copy(taken, tally)
    if tally.kept == 0:
        raise DataError(_nothing(tally))
    if waiting:
        assert isinstance(heldout, int | float)
        yield _in_two(waiting[0].text, heldout), _copy(taken, tally)


def _skip(texts: Iterator[tuple[Name | None, str]], taken: Taken) -> None:
    """Read what was taken before, and see that it is the same."""
    crc, count = 0, 0
    for _, text in itertools.islice(texts, taken.documents):
        crc, count = zlib.crc32(text.encode("utf-8", "surrogatepass"), crc), count + 1
    if (crc, count) != (taken.crc, taken.documents):
        raise ChangedError(
            f"the first {taken.documents} documents are not those that were read before the interruption; "
            "what was made of them is removed, and the same command begins anew"
        )


class ChangedError(DataError):
    """The source is not the one of the shards to go on with."""


def _chunks(texts: Iterator[tuple[Name | None, str]]) -> Iterator[list[Document]]:
    """Some documents at a time, of about `CHUNK_BYTES` together."""
    chunk: list[Document] = []
    size = 0
    for split, text in texts:
        chunk.append(Document(text, split))
        size += len(chunk[-1].data) + 64  # many tiny texts are much, too
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _in_two(text: str, heldout: float) -> list[Document]:
    """A single document: its end is held out, from the start of a line if there is one near."""
    cut = round(len(text) * (1 - heldout))
    cut = (text.find("\n", cut, cut + 2000) + 1) or cut
    return [Document(text[:cut], "train"), *([Document(text[cut:], "heldout")] if text[cut:] else [])]


def _copy(taken: Taken, tally: Tally) -> Taken:
    return Taken(taken.documents, taken.bytes, taken.crc, taken.hashes, tally.copy())


def _nothing(tally: Tally) -> str:
    dropped = [f"{row['step']} dropped {row['dropped']}" for row in tally.rows if row["dropped"]]
    if not dropped:
        return "the corpus is empty: there is nothing to learn from"
    read = tally.rows[0]["kept"]
    return (
        f"the corpus is empty after cleaning, there is nothing to learn from: of {read} documents {', '.join(dropped)}"
    )


def _parted(
    ids: NDArray[Any], offsets: NDArray[np.int64], held: list[bool], sizes: list[int], eot: int
) -> list[Encoded]:
    """What was encoded together, each split's for itself, the end-of-text token before every document."""
    lengths, is_held, byte_counts = np.diff(offsets), np.array(held), np.array(sizes, np.int64)
    splits = []
    for name in SPLITS:
        chosen = is_held == (name == "heldout")
        if chosen.any():
            some = ids if chosen.all() else ids[np.repeat(chosen, lengths)]
            ends = np.cumsum(np.append(0, lengths[chosen]))
            with_eot = np.insert(some, ends[:-1], eot)
            splits.append(Encoded(name, with_eot, ends + np.arange(len(ends)), int(byte_counts[chosen].sum())))
    return splits
