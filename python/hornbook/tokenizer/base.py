"""What every tokenizer can do, and the parts that are the same for all."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from ..documents import Files, exists
from ..errors import DataError, TokenizerError

Ids = Any  # a sequence of int, a numpy array or a torch tensor of any integer type, one-dimensional
Source = str | os.PathLike[str] | Iterable[str] | Sequence[os.PathLike[str]]  # a path, paths, or texts
Allowed = Literal["all"] | AbstractSet[str]
Disallowed = Literal["all"] | Collection[str]
Progress = Callable[[str, int, int | None], Any]  # the phase, how much is done, and of how much
Choice = bool | list[str] | None  # of special tokens, for the core: all, none, or these
Choices = tuple[Choice, Choice, int | None, float, int]  # and: ids at most, dropout, seed
EOT = "<|endoftext|>"


@runtime_checkable
class TokenizerLike(Protocol):
    """The interface that `Tokenizer`, `CharTokenizer` and `WordTokenizer` share."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def special_tokens(self) -> dict[str, int]: ...
    @property
    def eot_id(self) -> int | None: ...
    @property
    def hash(self) -> str: ...
    def encode(
        self, text: str, *, allowed_special: Allowed = frozenset(), disallowed_special: Disallowed = "all"
    ) -> list[int]: ...
    def encode_ordinary(self, text: str) -> list[int]: ...
    def encode_to_numpy(self, text: str) -> np.ndarray: ...
    def encode_batch(self, texts: Iterable[str], num_threads: int | None = None) -> list[list[int]]: ...
    def encode_batch_to_numpy(
        self, texts: Iterable[str], num_threads: int | None = None, *, disallowed_special: Disallowed = "all"
    ) -> tuple[np.ndarray, np.ndarray]: ...
    def encode_stream_to_numpy(
        self,
        texts: Iterable[str],
        num_threads: int | None = None,
        *,
        disallowed_special: Disallowed = "all",
        chunk_bytes: int = 1 << 24,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]: ...
    def encode_iterable(self, chunks: Iterable[str]) -> Iterator[int]: ...
    def decode(self, ids: Ids, errors: str = "replace") -> str: ...
    def decode_bytes(self, ids: Ids) -> bytes: ...
    def stream_decoder(self) -> StreamDecoder: ...
    def save(self, path: str | os.PathLike[str]) -> None: ...
    def __len__(self) -> int: ...


class _Decodes(Protocol):
    def decode_bytes(self, ids: Ids) -> bytes: ...


class StreamDecoder:
    """Ids in, text out, one at a time, never half a character.

    A token can end inside a character; its bytes wait for the next one. Bytes that can no longer become a
    character turn into U+FFFD. All the text returned, ``finish()`` included, is what ``decode`` gives for the ids.

    >>> decoder = tok.stream_decoder()                                      # doctest: +SKIP
    >>> text = "".join(decoder.push(id) for id in ids) + decoder.finish()   # doctest: +SKIP
    """

    def __init__(self, tokenizer: _Decodes) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        """The text that ``id`` completes, often one token's, sometimes none."""
        return self._decoder.decode(self._tokenizer.decode_bytes([int(id)]))

    def finish(self) -> str:
        """What is left: U+FFFD if the ids ended inside a character, else nothing. The decoder starts anew."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text


def id_dtype(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """The smallest of uint16 and uint32 that holds all ids: what `encode_to_numpy` returns and shards hold."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def plain_ids(ids: Ids) -> Sequence[int] | np.ndarray:
    """``ids`` as a sequence of int, or as an array of integers that lie side by side.

    Raises TokenizerError for other shapes and types."""
    if isinstance(ids, (list, tuple)):
        return ids
    if hasattr(ids, "detach"):  # a torch tensor, without importing torch
        ids = ids.detach().cpu().numpy()
    if isinstance(ids, np.ndarray):
        if ids.ndim != 1 or (ids.dtype.kind not in "iu" and ids.size):
            raise TokenizerError(
                f"ids have shape {ids.shape} and type {ids.dtype}; expected one dimension of integers. "
                "For several sequences use decode_batch"
            )
        if ids.dtype in (np.int64, np.uint32, np.uint16, np.int32):  # in the byte order of this machine
            return np.ascontiguousarray(ids)  # what the core reads as it is
        return np.ascontiguousarray(ids, dtype=np.int64)
    if isinstance(ids, int):
        raise TokenizerError(f"expected a sequence of ids, got the single id {ids}; write [{ids}]")
    return list(ids)


def clean(text: str) -> str:
    """``text`` without lone surrogates: they become U+FFFD, and pairs of them the character they mean."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def places(text: str) -> np.ndarray:
    """Where in ``text`` each character of ``clean(text)`` begins, and the end: (len(clean(text)) + 1,) int64."""
    begins = np.ones(len(text) + 1, bool)
    begins[[pair.start() + 1 for pair in re.finditer("[\ud800-\udbff][\udc00-\udfff]", text)]] = False
    return np.flatnonzero(begins)


def check_text(text: object) -> None:
    """Raises TokenizerError unless ``text`` is a str."""
    if not isinstance(text, str):
        hint = "; decode it first" if isinstance(text, (bytes, bytearray)) else ""
        raise TokenizerError(f"expected text (str), got {type(text).__name__}{hint}")


def chunks_of(texts: Iterable[str], chunk_bytes: int) -> Iterator[list[str]]:
    """Some texts at a time, of about so many characters together; the list is emptied before the next ones are read."""
    if isinstance(texts, (str, bytes)):
        raise TokenizerError("expected several texts, got a single one; pass [text]")
    if not isinstance(chunk_bytes, int) or chunk_bytes < 1:
        raise TokenizerError(f"chunk_bytes is {chunk_bytes!r}; it is a number of at least 1")
    chunk: list[str] = []
    size = 0
    for text in texts:
        check_text(text)
        chunk.append(text)
        size += len(text) + 64  # many tiny texts are much, too
        del text
        if size >= chunk_bytes:
            yield chunk
            chunk.clear()
            size = 0
    if chunk:
        yield chunk


def special_list(tokens: Sequence[str]) -> list[str]:
    """Special tokens, checked."""
    if isinstance(tokens, str):
        raise TokenizerError(f"special_tokens is a sequence of strings; write ({tokens!r},)")
    if not isinstance(tokens, Iterable):
        raise TokenizerError(f"special_tokens is a sequence of strings, not {tokens!r}")
    out = list(tokens)
    for token in out:
        if not isinstance(token, str) or not token:
            raise TokenizerError(f"a special token is a str that is not empty, not {token!r}")
        if re.search("[\ud800-\udfff]", token):
            raise TokenizerError(f"the special token {token!r} holds half of a surrogate pair, which no text does")
    if len(set(out)) < len(out):
        raise TokenizerError(f"a special token is given twice: {out}")
    return out


def thread_count(wanted: int | None) -> int:
    """How many threads: all cores if None. Raises TokenizerError for a number that is none."""
    if wanted is None:
        return os.cpu_count() or 1
    if not isinstance(wanted, int) or not 1 <= wanted <= 4096:
        raise TokenizerError(f"num_threads is {wanted!r}; give a number from 1 to 4096, or None for all cores")
    return wanted


def source_of(source: Source, field: str = "text", special_tokens: Collection[str] = ()) -> Files | Iterable[str]:
    """The files to read, or the texts. In plain files <|endoftext|> parts documents if it is a special token."""
    mark = EOT if EOT in special_tokens else None
    if isinstance(source, (bytes, bytearray)):
        raise DataError("the source is bytes; decode it and pass [text], or pass the path of a file")
    if isinstance(source, (str, os.PathLike)):
        try:
            return Files([source], field=field, document_end=mark)
        except DataError as error:
            if exists(source):
                raise
            raise DataError(f"{error}; a str is read as a path: to train on a text, pass [text]") from None
    if isinstance(source, (list, tuple)) and source and all(isinstance(s, os.PathLike) for s in source):
        return Files(source, field=field, document_end=mark)
    if isinstance(source, Iterable):
        return source  # type: ignore[return-value]
    raise DataError(f"the source is {type(source).__name__}; expected a path, a list of Path, or texts")
