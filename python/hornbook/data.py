"""Documents → token shards → batches.

A corpus is encoded once and kept as arrays of token ids, in memory or in `shards`. Every document
begins with the end-of-text token: a model that is shown this token alone begins a document, and one that has
come to a document's end predicts it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import DataError
from .prepare import SHARD_TOKENS, Source, Steps, encoded, eot_of, run, say_if_nothing_is_held_out
from .shards import Gathered, Split, read_foreign, read_manifest, read_split
from .tokenizer import load as load_tokenizer

if TYPE_CHECKING:
    from .tokenizer import TokenizerLike

Packing = Literal["auto", "documents", "stream"]

# What llm.c's scripts (..._val_000000.bin) and we (heldout-00000.bin) call what is not for training.
_HELD_OUT = re.compile(r"(?<![a-z])(val|valid|validation|heldout|test)(?![a-z])")


class TokenData:
    """A corpus as token ids, in a part for training and a held-out part.

    Args:
        directory: what `prepare` (or ``hornbook prepare``) wrote; or a .bin file, or a folder of them, of the kind that
            llm.c's scripts write. Of such a folder the files with "val" in their names are held out.
        tokenizer: of shards that llm.c's scripts wrote, if no tokenizer.json lies beside them.
        verify: read every byte and hold it against the SHA-256 in the manifest. Without it sizes, bounds and the
            manifest itself are checked, and ids when they are read, but not whether an id was changed into another.

    Attributes:
        train, heldout: the two `Split` s.
        tokenizer: what made the ids.
        eot_id: the token before every document.
        directory: where the shards lie; None if the ids are in memory only.

    Raises:
        DataError: for what is missing or damaged, and for a tokenizer that did not make these ids.
    """

    train: Split
    heldout: Split
    directory: Path | None = None

    def __init__(self, directory: str | Path, *, tokenizer: TokenizerLike | None = None, verify: bool = False) -> None:
        self.directory = directory = Path(directory)
        if not (directory / "manifest.json").is_file():
            self._read_foreign(directory, tokenizer)
            return
        manifest = read_manifest(directory)
        self.tokenizer = load_tokenizer(directory)
        if manifest["tokenizer"] != self.tokenizer.hash or (tokenizer and tokenizer.hash != self.tokenizer.hash):
            which = "tokenizer.json" if manifest["tokenizer"] != self.tokenizer.hash else "the tokenizer given"
            raise DataError(f"{directory}: {which} is not the one that made these shards; prepare them again")
        size, eot = self.tokenizer.vocab_size, self.eot_id
        self.train, self.heldout = (
            read_split(directory, manifest, name, size, eot, verify=verify) for name in ("train", "heldout")
        )

    @classmethod
    def from_text(cls, source: Source, tokenizer: TokenizerLike, *, heldout: float | Iterable[str] = 0.05) -> TokenData:
        """Encode a corpus into memory, as it is: nothing is cleaned, and duplicates stay.

        Args:
            source: a path or corpus name, paths, or an iterable of texts, each a document.
            tokenizer: with an end-of-text token.
            heldout: the share of documents to hold out, chosen by the hash of their text (of a single document,
                its end); or the held-out documents themselves.
        """
        self = cls.__new__(cls)
        self.tokenizer = tokenizer
        memory = {"train": Gathered(), "heldout": Gathered()}
        for splits, _ in encoded(source, tokenizer, heldout, Steps(dedup=False)):
            for split in splits:
                memory[split.name].add(split.ids, split.bounds, split.bytes)
        self.train, self.heldout = memory["train"].split(), memory["heldout"].split()
        say_if_nothing_is_held_out(heldout, self.train.documents, self.heldout.documents)
        return self

    def _read_foreign(self, place: Path, tokenizer: TokenizerLike | None) -> None:
        paths = [place] if place.suffix == ".bin" and place.is_file() else sorted(place.glob("*.bin"))
        if not paths:
            raise DataError(
                f"{place}: no token shards here (no manifest.json, no .bin file); "
                f"make them with: hornbook prepare TEXT --tokenizer TOKENIZER --out {place}"
            )
        folder = place.parent if place.is_file() else place
        if tokenizer is None and not (folder / "tokenizer.json").is_file():
            raise DataError(
                f"{place}: shards without a manifest, which do not say what tokenizer made them: put its "
                "tokenizer.json beside them, or give it, such as tokenizer=Tokenizer.from_tiktoken('gpt2')"
            )
        self.tokenizer = load_tokenizer(folder) if tokenizer is None else tokenizer
        size, eot, token_bytes = self.tokenizer.vocab_size, self.eot_id, self.token_bytes()
        held = [path for path in paths if path != place and _HELD_OUT.search(path.stem.lower())]
        train = [path for path in paths if path not in held]
        self.train, self.heldout = (read_foreign(part, size, eot, token_bytes) for part in (train, held))

    @property
    def eot_id(self) -> int:
        return eot_of(self.tokenizer)

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
    steps: Steps | None = None,
    heldout: float | Iterable[str] = 0.05,
    shard_tokens: int = SHARD_TOKENS,
    num_threads: int | None = None,
    about: str | None = None,
    fresh: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> TokenData:
    """Clean and encode a corpus into shards on the disk, holding some documents in memory at a time.

    An interrupted call goes on where it was when it is made again (``OUT.partial`` holds what is done), and ends with
    the same shards, byte for byte; one that was done finds its shards, reads them to their end, and does nothing if
    they are whole. That needs a source that can be known again: files (by their paths, sizes and times of change), a
    corpus by its name, or a list of texts.

    Args:
        source, tokenizer: as for `TokenData.from_text`.
        out: a new folder, or one with other shards, which are replaced once the new ones are whole.
        steps: what is done to documents before; by default duplicates and empty ones are dropped.
        heldout: the share of documents to hold out, chosen by the hash of their text, after all steps (of a single
            document, its end); or the held-out documents themselves, which go through the same steps first: one of the
            source that is the same is dropped as a duplicate.
        shard_tokens: how many tokens a file may hold; a longer document gets a file of its own.
        num_threads: for encoding; all cores if None.
        about: what the source is, for the manifest, if it is a generator; the same words must mean the same documents.
        fresh: begin anew, whatever is there.
        progress: called now and then with the documents and bytes read so far.

    Raises:
        DataError: for a source that is empty, or of which nothing is left, and when the disk is full or read-only: with
            what to do, and the shards that are whole stay.
    """
    run(
        source, tokenizer, out, steps=steps, heldout=heldout, shard_tokens=shard_tokens, num_threads=num_threads,
        about=about, fresh=fresh, progress=progress,
    )  # fmt: skip
    return TokenData(out)


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
