"""Documents → token shards → batches.

A corpus is encoded once and kept as arrays of token ids, in memory or in `shards`. Every document
begins with the end-of-text token: a model that is shown this token alone begins a document, and one that has
come to a document's end predicts it.
"""

from __future__ import annotations

import itertools
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import files
from .corpora import documents
from .documents import Files
from .errors import ConfigError, DataError
from .shards import Gathered, ShardWriter, Split, read_split
from .tokenizer import load as load_tokenizer

if TYPE_CHECKING:
    from .tokenizer import TokenizerLike

Source = str | Path | Iterable[str] | Iterable[Path]
Packing = Literal["auto", "documents", "stream"]

SHARD_TOKENS = 100_000_000
CHUNK_BYTES = 8 << 20  # of text that is encoded at a time

log = logging.getLogger("hornbook")


class TokenData:
    """A corpus as token ids, in a part for training and a held-out part.

    Args:
        directory: what `prepare` (or ``hornbook prepare``) wrote.

    Attributes:
        train, heldout: the two `Split` s.
        tokenizer: what made the ids.
        eot_id: the token before every document.
        directory: where the shards lie; None if the ids are in memory only.
    """

    train: Split
    heldout: Split
    directory: Path | None = None

    def __init__(self, directory: str | Path) -> None:
        self.directory = directory = Path(directory)
        if not (directory / "manifest.json").is_file():
            raise DataError(
                f"{directory}: no token shards here (no manifest.json); "
                f"make them with: hornbook prepare TEXT --tokenizer TOKENIZER --out {directory}"
            )
        manifest = files.read_json(directory / "manifest.json")
        if manifest.get("format") != 1:
            raise DataError(f"{directory}: shards of format {manifest.get('format')!r}; this version reads format 1")
        self.tokenizer = load_tokenizer(directory)
        if missing := {"tokenizer", "splits"} - manifest.keys():
            raise DataError(f"{directory}: manifest.json lacks {missing.pop()!r}; prepare the shards again")
        if self.tokenizer.hash != manifest["tokenizer"]:
            raise DataError(f"{directory}: tokenizer.json is not the one that made these shards; prepare them again")
        size, splits = self.tokenizer.vocab_size, manifest["splits"]
        self.train, self.heldout = (read_split(directory, splits[name], size) for name in ("train", "heldout"))

    @classmethod
    def from_text(cls, source: Source, tokenizer: TokenizerLike, *, heldout: float | Iterable[str] = 0.05) -> TokenData:
        """Encode a corpus into memory.

        Args:
            source: a path or corpus name, paths, or an iterable of texts, each a document.
            tokenizer: with an end-of-text token.
            heldout: the share of documents to hold out, chosen by the hash of their text (of a single document,
                its end); or the held-out documents themselves.
        """
        self = cls.__new__(cls)
        self.tokenizer = tokenizer
        memory: dict[str, Gathered] = {"train": Gathered(), "heldout": Gathered()}
        _encode(
            _assign(source, heldout),
            tokenizer,
            lambda split, ids, bounds, size: memory[split].add(ids, bounds, size),
        )
        self.train, self.heldout = memory["train"].split(), memory["heldout"].split()
        self._say_if_nothing_is_held_out(heldout)
        return self

    def _say_if_nothing_is_held_out(self, heldout: float | Iterable[str]) -> None:
        if heldout and not self.heldout.documents:
            log.warning(
                "none of the %d documents was held out, so nothing will be measured on unseen text: "
                "give more documents or a larger held-out share",
                self.train.documents,
            )

    @property
    def eot_id(self) -> int:
        return _eot(self.tokenizer)

    def token_bytes(self) -> NDArray[np.int64]:
        """(vocab_size,): how many bytes of text each token stands for; 0 for special tokens."""
        special = set(self.tokenizer.special_tokens.values())
        sizes = [0 if i in special else len(self.tokenizer.decode_bytes([i])) for i in range(self.tokenizer.vocab_size)]
        return np.array(sizes, dtype=np.int64)


def prepare(
    source: Source,
    tokenizer: TokenizerLike,
    out: str | Path,
    *,
    heldout: float | Iterable[str] = 0.05,
    shard_tokens: int = SHARD_TOKENS,
    progress: Callable[[int, int], None] | None = None,
) -> TokenData:
    """Encode a corpus into shards on the disk, holding one shard in memory at a time.

    Args:
        source, tokenizer, heldout: as for `TokenData.from_text`.
        out: a new folder (or one with shards, which are replaced once the new ones are whole).
        shard_tokens: how many tokens a file may hold; a longer document gets a file of its own.
        progress: called now and then with the documents and bytes read so far.
    """
    out = Path(out)
    if out.exists() and not (out / "manifest.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and holds no token shards; choose another folder")

    def fill(directory: Path) -> None:
        writers = {
            name: ShardWriter(directory, name, tokenizer.vocab_size, shard_tokens) for name in ("train", "heldout")
        }
        seen = [0, 0]

        def take(split: str, ids: NDArray[Any], bounds: NDArray[np.int64], size: int) -> None:
            writers[split].add(ids, bounds, size)
            seen[0] += len(bounds) - 1
            seen[1] += size
            if progress is not None:
                progress(seen[0], seen[1])

        _encode(_assign(source, heldout), tokenizer, take)
        tokenizer.save(directory)
        manifest = {
            "format": 1,
            "tokenizer": load_tokenizer(directory).hash,  # of what lies here: ranks are written as merges
            "vocab_size": tokenizer.vocab_size,
            "eot_id": _eot(tokenizer),
            "source": str(source) if isinstance(source, str | Path | Files) else None,
            "splits": {name: writer.finish() for name, writer in writers.items()},
        }
        files.write_json(directory / "manifest.json", manifest)

    files.write_directory(out, fill)
    data = TokenData(out)
    data._say_if_nothing_is_held_out(heldout)
    return data


class Batches:
    """An endless, shuffled, repeatable order of a split's rows.

    Row n of epoch e depends on the seed, e and n alone, and rows are handed out in order, so two numbers say
    how far reading has come: `cursor`.

    Args:
        split: what to read.
        batch_size: B, rows in a batch.
        context_length: T, tokens in a row.
        seed: of the shuffles.
        packing: "documents": a row starts where a document starts, further ones follow until it is full, and
            the last is cut. "stream": a row is any T + 1 neighbouring tokens. "auto": documents, if on average
            they are no longer than a row.
    """

    def __init__(
        self, split: Split, batch_size: int, context_length: int, *, seed: int = 0, packing: Packing = "auto"
    ) -> None:
        if len(split) < context_length + 2:
            raise DataError(
                f"{len(split)} tokens of training text do not fill one row of {context_length + 1}: "
                "give more text or a smaller context_length"
            )
        if packing == "auto":
            packing = "documents" if len(split) <= split.documents * context_length else "stream"
        self.split, self.batch_size, self.width, self.seed, self.packing = (
            split,
            batch_size,
            context_length + 1,
            seed,
            packing,
        )
        self.cursor = {"epoch": 0, "row": 0}
        self._plan: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None
        if packing == "documents":
            self._pieces = _pieces(split.starts, context_length)

    def next(self) -> tuple[Tensor, Tensor]:
        """The next batch: ids and targets, each (B, T) int64; a target is the token after its id."""
        rows = np.stack([self._next_row() for _ in range(self.batch_size)])
        batch = torch.from_numpy(rows)
        return batch[:, :-1].clone(), batch[:, 1:].clone()

    def seek(self, cursor: Mapping[str, int]) -> None:
        """Go to where ``cursor`` was read.

        Raises:
            DataError: if there is no such row: the cursor is then of other data.
        """
        if not 0 <= cursor["row"] < (rows := len(self._epoch(cursor["epoch"])[1])):
            raise DataError(f"row {cursor['row']} of an epoch that has {rows}: the cursor is not of this data")
        self.cursor = {"epoch": cursor["epoch"], "row": cursor["row"]}

    def _next_row(self) -> NDArray[np.int64]:
        epoch, row = self.cursor["epoch"], self.cursor["row"]
        order, firsts = self._epoch(epoch)
        if row + 1 < len(firsts):
            self.cursor["row"] = row + 1
        else:
            self.cursor = {"epoch": epoch + 1, "row": 0}
        if self.packing == "stream":
            return self.split.read(int(firsts[row]), self.width)
        starts, lengths = self._pieces
        pieces, filled = [], 0
        for piece in order[firsts[row] :]:
            pieces.append(self.split.read(int(starts[piece]), min(int(lengths[piece]), self.width - filled)))
            filled += len(pieces[-1])
            if filled == self.width:
                break
        return np.concatenate(pieces)

    def _epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The order of pieces and, for each row, its first piece (or token, for a stream) in this epoch."""
        if self._plan is None or self._plan[0] != epoch:
            random = np.random.default_rng((self.seed, epoch))
            if self.packing == "stream":
                T = self.width - 1
                shift = int(random.integers(min(T, len(self.split) - self.width) + 1))
                firsts = shift + T * random.permutation((len(self.split) - shift - 1) // T)
                self._plan = epoch, np.zeros(0, np.int64), firsts
            else:
                lengths = self._pieces[1]
                order = random.permutation(len(lengths))
                ends = np.cumsum(lengths[order])
                # Where the row after one that starts with piece i would start; a row that cannot be filled is no row.
                follows = np.searchsorted(ends, ends - lengths[order] + self.width, side="left") + 1
                firsts, i = [], 0
                while i < len(order) and follows[i] <= len(order):
                    firsts.append(i)
                    i = int(follows[i])
                self._plan = epoch, order, np.array(firsts, dtype=np.int64)
        return self._plan[1], self._plan[2]


def copy_batch(batch_size: int, context_length: int, vocab_size: int, *, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """A batch that nothing but copying can predict: the warm-up before real text.

    A model learns to look back for what followed the same token earlier only when that pays, and in a small corpus
    of stories it pays late. Here it pays at once: half of the rows are a random sequence and its repetition, half
    are drawn from a handful of tokens. What cannot be known counts for nothing.

    Returns:
        ids and targets, each (B, T) int64, T ≥ 8.
    """
    random = np.random.default_rng((seed, step, 0xC0))
    T = context_length
    half = (T + 2) // 2
    rows = np.empty((batch_size, T + 1), dtype=np.int64)
    for i in range(batch_size):
        if i % 2:
            rows[i] = random.choice(random.integers(vocab_size, size=6), size=T + 1)
        else:
            rows[i] = np.resize(random.integers(vocab_size, size=half), T + 1)
    targets = rows[:, 1:].copy()
    targets[::2, :half] = -100  # the first time, and the first token again, which nothing announces
    return torch.from_numpy(rows[:, :-1].copy()), torch.from_numpy(targets)


def heldout_rows(split: Split, context_length: int, limit: int | None = None) -> Iterator[NDArray[np.int64]]:
    """Every document once, for scoring, until ``limit`` tokens (or a few more, the end of a row) are given out.

    Yields:
        (t + 1,) ids with t ≤ context_length: a document's tokens and the end-of-text token after them. A longer
        document comes in several rows, each token scored once.
    """
    taken, eot = 0, split.read(0, 1)
    for start, end in itertools.pairwise(split.starts.tolist()):
        document = np.concatenate((split.read(start, end - start), eot))
        for at in range(0, len(document) - 1, context_length):
            if limit is not None and taken >= limit:
                return
            row = document[at : at + context_length + 1]
            yield row
            taken += len(row) - 1


def _pieces(starts: NDArray[np.int64], context_length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Documents, the long ones cut into pieces of at most context_length tokens: their starts and lengths."""
    counts = -(-np.diff(starts) // context_length)
    document = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)  # which piece of its document
    begin = starts[document] + number * context_length
    return begin, np.minimum(starts[document + 1] - begin, context_length)


def _assign(source: Source, heldout: float | Iterable[str]) -> Iterator[tuple[str, str]]:
    """Documents, each with the split it belongs to."""
    if not isinstance(heldout, int | float):
        yield from (("train", text) for text in documents(source))
        yield from (("heldout", text) for text in heldout)
        return
    if not 0 <= heldout < 1:
        raise ConfigError(f"the held-out share must be at least 0 and below 1, not {heldout}")
    texts = filter(None, documents(source))
    first, second = next(texts, None), next(texts, None)
    if first is None:
        raise DataError("the corpus is empty: there is nothing to learn from")
    if second is None:  # one document: keep its end back, from the start of a line if there is one near
        cut = round(len(first) * (1 - heldout))
        cut = (first.find("\n", cut, cut + 2000) + 1) or cut
        yield "train", first[:cut]
        if first[cut:]:
            yield "heldout", first[cut:]
        return
    for text in itertools.chain((first, second), texts):
        yield ("heldout" if zlib.crc32(text.encode("utf-8", "surrogatepass")) < heldout * 2**32 else "train"), text


def _encode(
    assigned: Iterable[tuple[str, str]],
    tokenizer: TokenizerLike,
    take: Callable[[str, NDArray[Any], NDArray[np.int64], int], None],
) -> None:
    """Encode documents some at a time, handing them to ``take``: split, ids, document bounds, bytes of text."""
    eot = _eot(tokenizer)
    waiting: list[tuple[str, int]] = []  # the split and the size of each document that has been asked for

    def texts() -> Iterator[str]:
        for split, text in assigned:
            if text:
                waiting.append((split, _size(text)))
                yield text

    # A mark inside a text is text.
    for ids, offsets in tokenizer.encode_stream_to_numpy(texts(), disallowed_special=(), chunk_bytes=CHUNK_BYTES):
        count = len(offsets) - 1
        splits = np.array([split for split, _ in waiting[:count]])
        sizes = np.array([size for _, size in waiting[:count]], np.int64)
        del waiting[:count]
        lengths = np.diff(offsets)
        for split in ("train", "heldout"):
            chosen = splits == split
            if not chosen.any():
                continue
            some = ids if chosen.all() else ids[np.repeat(chosen, lengths)]
            ends = np.cumsum(np.append(0, lengths[chosen]))
            with_eot = np.insert(some, ends[:-1], eot)
            take(split, with_eot, ends + np.arange(len(ends)), int(sizes[chosen].sum()))


def _size(text: str) -> int:
    """Bytes in UTF-8; a lone surrogate becomes U+FFFD, which is as long."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _eot(tokenizer: TokenizerLike) -> int:
    if tokenizer.eot_id is None:
        raise DataError("this tokenizer has no end-of-text token: train it with special_tokens=('<|endoftext|>',)")
    return tokenizer.eot_id
