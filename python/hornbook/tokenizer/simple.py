"""The two tokenizers that everybody thinks of first, to see what BPE gains over them.

A character is a short unit: the vocabulary is tiny, and sequences are long. A word is a long one: sequences are
short, the vocabulary has no end, and what is not in it is lost. Both have the interface of `Tokenizer`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from ..errors import DataError, TokenizerError, nearest
from .base import (
    EOT,
    Allowed,
    Disallowed,
    Ids,
    Source,
    StreamDecoder,
    check_text,
    chunks_of,
    clean,
    id_dtype,
    places,
    plain_ids,
    source_of,
    special_list,
)
from .bpe import Tokenizer

UNK = "<|unk|>"


class _Table:
    """A list of strings; the id of a string is its place. Special tokens come after the others."""

    kind: ClassVar[str]

    def __init__(self, units: Sequence[str], special_tokens: Sequence[str] = ()) -> None:
        self._units = [*units, *special_list(special_tokens)]
        self._ids = {unit: id for id, unit in enumerate(units)}
        self.special_tokens = {token: len(units) + i for i, token in enumerate(special_tokens)}
        if len(self._ids) < len(units) or not all(self._units):
            raise TokenizerError("the units of a vocabulary are different from each other, and none is empty")

    @staticmethod
    def split(text: str) -> Sequence[str]:
        """``text`` as the units that make it up."""
        raise NotImplementedError

    def _unknown(self, unit: str) -> int:
        """The id for a unit outside the vocabulary."""
        raise NotImplementedError

    # ---- text to ids ----

    def encode(
        self, text: str, *, allowed_special: Allowed = frozenset(), disallowed_special: Disallowed = "all"
    ) -> list[int]:
        """The ids of ``text``; special tokens as in `Tokenizer.encode`."""
        return [id for id, _ in self._pieces(text, allowed_special, disallowed_special)]

    def encode_ordinary(self, text: str) -> list[int]:
        """The ids of ``text``, special tokens read as ordinary text."""
        return self.encode(text, disallowed_special=())

    def encode_to_numpy(self, text: str, **special: Any) -> np.ndarray:
        """`encode` into an array (n,) of uint16, or uint32 if the vocabulary is large."""
        return np.array(self.encode(text, **special), id_dtype(self.vocab_size))

    def encode_batch(self, texts: Iterable[str], num_threads: int | None = None, **special: Any) -> list[list[int]]:
        """`encode` for many texts (on one thread: this is Python)."""
        return [self.encode(text, **special) for text in texts]

    def encode_batch_to_numpy(
        self,
        texts: Iterable[str],
        num_threads: int | None = None,
        *,
        disallowed_special: Disallowed = "all",
        **special: Any,
    ) -> tuple[np.ndarray, np.ndarray]:
        """All ids in one array, and int64 offsets: text i is ``ids[offsets[i]:offsets[i + 1]]``."""
        batch = self.encode_batch(texts, num_threads, disallowed_special=disallowed_special, **special)
        offsets = np.array([0, *accumulate(map(len, batch))], np.int64)
        return np.array(list(chain.from_iterable(batch)), id_dtype(self.vocab_size)), offsets

    def encode_stream_to_numpy(
        self,
        texts: Iterable[str],
        num_threads: int | None = None,
        *,
        disallowed_special: Disallowed = "all",
        chunk_bytes: int = 1 << 24,
        **special: Any,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`encode_batch_to_numpy` for some texts at a time, of about ``chunk_bytes`` characters."""
        for chunk in chunks_of(texts, chunk_bytes):
            yield self.encode_batch_to_numpy(chunk, num_threads, disallowed_special=disallowed_special, **special)

    def encode_iterable(self, chunks: Iterable[str], **special: Any) -> Iterator[int]:
        """The ids of the text that the chunks make together, which is held whole: these are for learning."""
        yield from self.encode("".join(chunks), **special)

    def encode_with_offsets(
        self, text: str, unit: Literal["char", "byte"] = "char", **special: Any
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids, and for each the (start, end) of what it stands for: of characters, or of bytes in UTF-8.

        Lone surrogates, which UTF-8 does not have, count as the three bytes of U+FFFD."""
        if unit not in ("char", "byte"):
            raise TokenizerError(f"unit is {unit!r}{nearest(str(unit), ['char', 'byte'])}")
        pieces = list(self._pieces(text, special.get("allowed_special", ()), special.get("disallowed_special", "all")))
        ends = list(accumulate(len(piece if unit == "char" else piece.encode()) for _, piece in pieces))
        if unit == "char" and ends and ends[-1] < len(text):
            ends = places(text)[ends].tolist()
        return [id for id, _ in pieces], list(zip([0, *ends], ends, strict=False))

    def _pieces(self, text: str, allowed: Collection[str], disallowed: Collection[str]) -> Iterator[tuple[int, str]]:
        """The ids and the text that each of them stands for."""
        check_text(text)
        text = clean(text)
        known = self.special_tokens.keys()
        allow = set(known) if allowed == "all" else known & set(allowed)
        refuse = known - allow if disallowed == "all" else set(disallowed)
        if refuse and (found := _finder(refuse).search(text)):
            raise TokenizerError(
                f"the text holds the special token {found[0]!r} at character {found.start()}, which is not allowed; "
                'pass allowed_special="all", or disallowed_special=() to read it as ordinary text'
            )
        for part in _finder(allow).split(text) if allow else [text]:
            if part in allow:
                yield self.special_tokens[part], part
                continue
            for unit in self.split(part):
                id = self._ids.get(unit)
                yield self._unknown(unit) if id is None else id, unit

    # ---- ids to text ----

    def decode(self, ids: Ids, errors: str = "replace") -> str:
        """The text of ``ids``; ``errors`` is there for the interface: these ids are never half a character."""
        numbers = [int(id) for id in plain_ids(ids)]
        for id in numbers:
            if not 0 <= id < len(self._units):
                raise TokenizerError(f"no token has the id {id}: ids are in 0..{len(self._units)} (vocab_size)")
        return "".join([self._units[id] for id in numbers])

    def decode_bytes(self, ids: Ids) -> bytes:
        """The text of ``ids`` in UTF-8."""
        return self.decode(ids).encode()

    def decode_batch(self, batch: Iterable[Ids], errors: str = "replace") -> list[str]:
        """`decode` for many sequences."""
        return [self.decode(ids) for ids in batch]

    def stream_decoder(self) -> StreamDecoder:
        """Decodes ids one at a time."""
        return StreamDecoder(self)

    # ---- what it is ----

    @property
    def vocab(self) -> dict[int, bytes]:
        """The bytes of every id, special tokens included."""
        return {id: unit.encode() for id, unit in enumerate(self._units)}

    @property
    def vocab_size(self) -> int:
        """How many ids there are, special tokens included."""
        return len(self._units)

    @property
    def eot_id(self) -> int | None:
        """The id of ``<|endoftext|>``, or None."""
        return self.special_tokens.get(EOT)

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of everything that decides ids."""
        return hashlib.sha256(json.dumps(self._content(), ensure_ascii=False).encode()).hexdigest()

    def _content(self) -> dict[str, Any]:
        units = self._units[: len(self._units) - len(self.special_tokens)]
        return {"type": f"hornbook.{self.kind}", "units": units, "special_tokens": list(self.special_tokens)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes tokenizer.json into a directory, or a file whose path ends in .json. Only Hornbook reads it."""
        from .formats import save_json

        save_json(Path(path), self._content())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Any:
        """Reads what `save` wrote."""
        made = load(path)
        if not isinstance(made, cls):
            raise TokenizerError(f"{path} holds a {type(made).__name__}, not a {cls.__name__}")
        return made

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, special_tokens={list(self.special_tokens)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Table) and self._content() == other._content()

    def __hash__(self) -> int:
        return hash(self.hash)


class CharTokenizer(_Table):
    """One id for each character of the training text, in the order of code points.

    A character that the training text did not have is a TokenizerError.
    """

    kind = "char"

    @classmethod
    def train(cls, source: Source, special_tokens: Sequence[str] = ()) -> CharTokenizer:
        """``source`` as in `Tokenizer.train`: a path, paths, or texts."""
        characters: set[str] = set()
        for text in _texts(source, special_tokens):
            characters.update(text)
        return cls(sorted(characters), special_tokens)

    @staticmethod
    def split(text: str) -> Sequence[str]:
        """``text`` as characters."""
        return text

    def _unknown(self, unit: str) -> int:
        raise TokenizerError(
            f"the character {unit!r} (U+{ord(unit):04X}) was not in the text that this CharTokenizer was trained on; a "
            "byte-level Tokenizer knows every text"
        )


class WordTokenizer(_Table):
    """One id for each word, punctuation mark and stretch of white space; the rest is ``<|unk|>``, and lost.

    >>> tok = WordTokenizer.train(["the cat sat on the mat"])
    >>> tok.decode(tok.encode("the cat ate"))
    'the cat <|unk|>'
    """

    kind = "word"

    @classmethod
    def train(
        cls, source: Source, vocab_size: int | None = None, special_tokens: Sequence[str] = (UNK,)
    ) -> WordTokenizer:
        """Keeps the most frequent words, of equals the one that sorts first; all of them if ``vocab_size`` is None.

        ``vocab_size`` counts the special tokens; ``<|unk|>`` is added to them if it is missing.
        """
        tokens = special_list(special_tokens)
        tokens = tokens if UNK in tokens else [UNK, *tokens]
        if vocab_size is not None and vocab_size <= len(tokens):
            raise TokenizerError(f"vocab_size is {vocab_size}, and {len(tokens)} of them are special tokens: take more")
        counts: Counter[str] = Counter()
        for text in _texts(source, tokens):
            counts.update(cls.split(text))
        words = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(words[: None if vocab_size is None else vocab_size - len(tokens)], tokens)

    def __init__(self, units: Sequence[str], special_tokens: Sequence[str] = (UNK,)) -> None:
        super().__init__(units, special_tokens)
        if UNK not in self.special_tokens:
            raise TokenizerError(f"a WordTokenizer needs the special token {UNK} for unknown words")

    @staticmethod
    def split(text: str) -> Sequence[str]:
        """``text`` as words, single punctuation marks and stretches of white space."""
        return re.findall(r"\w+|\s+|[^\w\s]", text)

    def _unknown(self, unit: str) -> int:
        return self.special_tokens[UNK]


def load(path: str | os.PathLike[str]) -> Tokenizer | CharTokenizer | WordTokenizer:
    """Any tokenizer that Hornbook can read, of whichever kind the file says."""
    path = Path(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.suffix == ".json" and file.is_file():
        try:
            content = json.loads(file.read_bytes())
        except (ValueError, RecursionError):
            content = None  # Tokenizer.load says what is wrong
        if isinstance(content, dict):
            for cls in (CharTokenizer, WordTokenizer):
                if content.get("type") == f"hornbook.{cls.kind}":
                    return cls(_strings(content, "units", file), _strings(content, "special_tokens", file))
    return Tokenizer.load(path)


def _strings(content: dict[str, Any], key: str, file: Path) -> list[str]:
    found = content.get(key)
    if not isinstance(found, list) or not all(isinstance(s, str) for s in found):
        raise TokenizerError(f"{file}: {key} must be a list of strings; save the tokenizer again")
    return found


def _finder(tokens: Collection[str]) -> re.Pattern[str]:
    """Finds any of the tokens, the longest of those that start at the same place."""
    return re.compile("(" + "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) + ")")


def _texts(source: Source, special_tokens: Sequence[str]) -> Iterator[str]:
    """The texts of a source, without special tokens. Raises DataError if there is nothing."""
    empty = True
    for text in source_of(source, special_tokens=special_tokens):
        check_text(text)
        empty = empty and not text
        finder = _finder(special_tokens) if special_tokens else None
        for part in finder.split(clean(text)) if finder else [clean(text)]:
            if part not in special_tokens:
                yield part
    if empty:
        raise DataError("there is no text to train on: the source gave nothing but empty texts")
