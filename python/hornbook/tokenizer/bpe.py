"""`Tokenizer`: byte-level BPE, trained here or loaded from the files of others. The work is done in Rust."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from .._core import BPE
from ..errors import TokenizerError, nearest
from .base import (
    Allowed,
    Choice,
    Choices,
    Disallowed,
    Ids,
    Progress,
    Source,
    StreamDecoder,
    check_text,
    chunks_of,
    clean,
    id_dtype,
    places,
    plain_ids,
    special_list,
)
from .base import thread_count as _threads
from .counts import PATTERN, SPECIALS, Counts
from .exchange import Exchange
from .template import Extras

log = logging.getLogger(__name__)
T = TypeVar("T")
TIES = ("huggingface", "raw", "largest_content")


class Tokenizer(Exchange):
    """Byte-level byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909; on bytes, as GPT-2 has it).

    Made by `train`, `load`, `from_vocab`, `from_tiktoken` or `from_huggingface`. Immutable: copies share everything,
    and any number of threads may use one. Every text can be encoded, and ``decode(encode(text)) == text`` but for lone
    surrogates, which become U+FFFD, and for a regex of one's own under the rule "ranks" (below): what it does not
    match is dropped, as tiktoken does. The patterns gpt2, cl100k and o200k match everything; under the other rules,
    what a regex does not match is a pre-token too.

    How neighbours are joined depends on where the vocabulary comes from. ``rule == "merges"``: the listed pairs in
    the order of the list (trained here, tokenizer.json, vocab.json + merges.txt). ``"ranks"``: a pre-token that
    is a token is taken whole, else any neighbours that together are a token join, lowest id first (tiktoken).
    """

    def __init__(self) -> None:
        raise TypeError("use Tokenizer.train, .load, .from_vocab, .from_tiktoken or .from_huggingface")

    # ---- making one ----

    @classmethod
    def train(
        cls,
        source: Source | Counts,
        vocab_size: int = 32_768,
        pattern: str | None = PATTERN,
        special_tokens: Sequence[str] = SPECIALS,
        tie: Literal["huggingface", "raw", "largest_content"] = "huggingface",
        *,
        min_frequency: int = 0,
        max_token_length: int | None = None,
        field: str = "text",
        num_threads: int | None = None,
        progress: Progress | None = None,
    ) -> Tokenizer:
        """Learns merges from text: count the pre-tokens, then join the most frequent pair again and again.

        Args:
            source: a str or Path is the path of a file or folder, a list of Path several, any other iterable of str is
                texts. Files are plain text, .jsonl or .parquet, packed as .gz or .zst or not (see
                `hornbook.documents`). In plain text a line ``<|endoftext|>`` parts documents, and the line breaks
                around it belong to it; not so if that is no special token here. Memory grows with the distinct
                pre-tokens, not with the text (a plain file is held whole only for ``pattern=None`` or an unknown
                regex). Where a text holds a special token, it is cut there. What was counted before (`Counts`) is a
                source too: ``pattern`` and ``special_tokens`` are then those of the counts.
            vocab_size: how many ids there will be: 256 bytes, the merges, the special tokens, in this order. If the
                text runs out of pairs there are fewer, and a warning is logged.
            pattern: how text is cut first: "gpt2", "cl100k", "o200k", a regex (Rust's, with look-around), or None for
                not at all. Classes of characters such as ``\\p{L}`` are those of Unicode 16.0.
            tie: of pairs that are equally frequent, which goes first. "huggingface": the smaller pair of ids. With it
                the merges equal those of ``tokenizers.trainers.BpeTrainer`` over the full byte alphabet. "raw": the
                same, but a byte counts by its value and not by its id, as rustbpe and tiktoken's vocabularies number
                them. "largest_content": the greater pair of byte strings, as subword-nmt has it.
            min_frequency: pairs that occur less often are not joined; training ends when no other is left.
            max_token_length: no merge makes a token of more bytes than this. (Hugging Face's option of this name means
                one byte less, and never stops a merge of two bytes.)
            field: of JSON Lines, or the column of Parquet, that is the text.
            num_threads: of the counting; all cores if None. The result is the same for any number.
            progress: called a few times a second with ("count" | "merge", done, total or None): bytes (of files, packed
                as they are), then merges.

        Raises:
            DataError: for a missing, empty or broken source.
            TokenizerError: for options that do not fit.
        """
        given = isinstance(source, Counts)
        specials = source.same(pattern, special_tokens) if given else special_list(special_tokens)
        if tie not in TIES:
            raise TokenizerError(f"unknown tie {tie!r}{nearest(str(tie), TIES)}")
        if not _is_size(min_frequency, 0):
            raise TokenizerError(f"min_frequency is {min_frequency!r}; it is a number of occurrences, at least 0")
        if max_token_length is not None and not _is_size(max_token_length, 1):
            raise TokenizerError(
                f"max_token_length is {max_token_length!r}; it is a number of bytes, from 1 to 2**63 - 1, or None"
            )
        least = 256 + len(specials)
        if not isinstance(vocab_size, int) or not least <= vocab_size < 1 << 27:
            raise TokenizerError(
                f"vocab_size is {vocab_size!r}; it counts 256 bytes and the special tokens (here {len(specials)}), so "
                f"it is an integer of at least {least}, and at most {(1 << 27) - 1:,}"
            )
        options: dict[str, Any] = {"field": field, "num_threads": num_threads, "progress": progress}
        counts = source if given else Counts.of(source, pattern, specials, **options)
        core = BPE.train(counts._core, not given, vocab_size, tie, min_frequency, max_token_length, progress)
        if core.vocab_size < vocab_size:
            log.warning("the text has no more pairs to merge: vocab_size is %d, not %d", core.vocab_size, vocab_size)
        return cls._wrap(core)

    # ---- text to ids ----

    def encode(
        self,
        text: str,
        *,
        allowed_special: Allowed = frozenset(),
        disallowed_special: Disallowed = "all",
        max_tokens: int | None = None,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> list[int]:
        """The ids of ``text``. Special tokens mean what they mean in tiktoken:

        those in ``allowed_special`` ("all" or a set) become their id; one of ``disallowed_special`` ("all", which
        is all but the allowed, or a collection) raises TokenizerError, a ValueError; others are ordinary text. So
        text from strangers cannot smuggle in a special token, and nothing is silently misread. Where one special
        token begins another, the longest counts. Lone surrogates are encoded as U+FFFD.

        Args:
            max_tokens: only the first so many ids are made. A special token that is not allowed raises also behind
                them.
            dropout: BPE-dropout (arXiv:1910.13267) for training: each time before two tokens are joined, every pair
                that could be is left out with this probability. 0 leaves out nothing, 1 leaves single bytes.
            seed: of the dropout; the same seed gives the same ids.
        """
        if not allowed_special and disallowed_special == "all" and max_tokens is None and not dropout:
            # A third of the time of a short call would go into its options.
            try:
                return self._core.encode_plain(text)
            except (TypeError, UnicodeEncodeError):
                pass  # said clearly, or mended, below
        choices = self._choices(allowed_special, disallowed_special, max_tokens, dropout, seed)
        return self._run(self._core.encode, text, choices)

    def encode_ordinary(self, text: str) -> list[int]:
        """The ids of ``text``, special tokens and all read as ordinary text."""
        return self._run(self._core.encode, text, (None, None, None, 0.0, 0))

    def encode_to_numpy(
        self,
        text: str,
        *,
        allowed_special: Allowed = frozenset(),
        disallowed_special: Disallowed = "all",
        max_tokens: int | None = None,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> np.ndarray:
        """`encode` into an array (n,): uint16 where vocab_size is at most 65,536, else uint32."""
        dtype = id_dtype(self.vocab_size)
        choices = self._choices(allowed_special, disallowed_special, max_tokens, dropout, seed)
        ids = self._run(self._core.encode_array, text, choices, dtype is np.uint32)
        return np.frombuffer(ids, dtype)

    def encode_batch(
        self,
        texts: Iterable[str],
        num_threads: int | None = None,
        *,
        allowed_special: Allowed = frozenset(),
        disallowed_special: Disallowed = "all",
        max_tokens: int | None = None,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> list[list[int]]:
        """`encode` for many texts at once, on ``num_threads`` threads (all cores if None)."""
        choices = self._choices(allowed_special, disallowed_special, max_tokens, dropout, seed)
        return self._run(self._core.encode_batch, _list(texts), choices, _threads(num_threads))

    def encode_batch_to_numpy(
        self,
        texts: Iterable[str],
        num_threads: int | None = None,
        *,
        allowed_special: Allowed = frozenset(),
        disallowed_special: Disallowed = "all",
        max_tokens: int | None = None,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """All ids in one array (n,), and int64 offsets (len(texts) + 1,).

        The ids of text i are ``ids[offsets[i]:offsets[i + 1]]``.
        """
        dtype = id_dtype(self.vocab_size)
        choices = self._choices(allowed_special, disallowed_special, max_tokens, dropout, seed)
        ids, offsets = self._run(
            self._core.encode_batch_array, _list(texts), choices, _threads(num_threads), dtype is np.uint32
        )
        return np.frombuffer(ids, dtype), np.frombuffer(offsets, np.int64)

    def encode_stream_to_numpy(
        self,
        texts: Iterable[str],
        num_threads: int | None = None,
        *,
        allowed_special: Allowed = frozenset(),
        disallowed_special: Disallowed = "all",
        chunk_bytes: int = 1 << 24,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`encode_batch_to_numpy` of a source that need not fit into memory: (ids, offsets) for some texts at a time.

        ``chunk_bytes``: about how much text is taken at a time, in characters. No text is held any longer once its
        ids are given out, and no Python list of ids is made.
        """
        special: dict[str, Any] = {"allowed_special": allowed_special, "disallowed_special": disallowed_special}

        def encode(chunk: list[str]) -> tuple[np.ndarray, np.ndarray]:
            encoded = self.encode_batch_to_numpy(chunk, num_threads, **special)
            chunk.clear()
            return encoded

        yield from map(encode, chunks_of(texts, chunk_bytes))

    def count_tokens(
        self, text: str, *, allowed_special: Allowed = frozenset(), disallowed_special: Disallowed = "all"
    ) -> int:
        """``len(encode(text))``, without making the ids."""
        check_text(text)
        return self.count_tokens_batch(
            [text], 1, allowed_special=allowed_special, disallowed_special=disallowed_special
        )[0]

    def count_tokens_batch(
        self,
        texts: Iterable[str],
        num_threads: int | None = None,
        *,
        allowed_special: Allowed = frozenset(),
        disallowed_special: Disallowed = "all",
    ) -> list[int]:
        """`count_tokens` for many texts at once, on ``num_threads`` threads (all cores if None)."""
        choices = self._choices(allowed_special, disallowed_special)
        return self._run(self._core.count, _list(texts), choices, _threads(num_threads))

    def encode_iterable(
        self,
        chunks: Iterable[str],
        *,
        allowed_special: Allowed = frozenset(),
        disallowed_special: Disallowed = "all",
    ) -> Iterator[int]:
        """The ids of the text that the chunks make together, one after another, without holding the text.

        Only what the next chunk could still change is held back: to the last place where every pattern cuts, mostly
        a word or two. ``pattern=None`` and unknown regexes have no such place and hold everything back.
        """
        if isinstance(chunks, str):
            chunks = [chunks]
        stream = self._core.stream(*self._choose(allowed_special, disallowed_special))
        half = ""  # a surrogate whose other half may come
        for chunk in chunks:
            check_text(chunk)
            chunk = half + chunk
            half = chunk[-1:] if "\ud800" <= chunk[-1:] <= "\udbff" else ""
            yield from self._run(stream.push, chunk[: len(chunk) - len(half)])
        if half:
            yield from stream.push("\ufffd")
        yield from stream.push(None)

    def encode_with_offsets(
        self,
        text: str,
        unit: Literal["char", "byte"] = "char",
        *,
        allowed_special: Allowed = frozenset(),
        disallowed_special: Disallowed = "all",
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids, and for each the (start, end) of what it stands for: of characters, or of bytes in UTF-8.

        Byte ranges are exact and follow one another. A token may end inside a character; its character range then
        takes in the whole of it, so that neighbours can overlap, and ``text[start:end]`` is never half a character.
        Lone surrogates, which UTF-8 does not have, count as the three bytes of U+FFFD, and two that make a pair as the
        four of their character; character ranges are those of ``text`` as it was given.
        """
        if unit not in ("char", "byte"):
            raise TokenizerError(f"unit is {unit!r}{nearest(str(unit), ['char', 'byte'])}")
        choices = self._choose(allowed_special, disallowed_special)
        ids, spans = self._run(self._core.encode_with_spans, text, *choices)
        if unit == "byte" or text.isascii():
            return ids, spans
        begins = None
        try:
            raw = np.frombuffer(text.encode(), np.uint8)
        except UnicodeEncodeError:
            raw, begins = np.frombuffer(clean(text).encode(), np.uint8), places(text)
        # The character that holds byte i begins at the last byte, up to i, that continues no other.
        index = np.cumsum((raw & 0xC0) != 0x80) - 1
        ends = np.asarray(spans, np.int64).reshape(-1, 2)
        chars = np.stack([index[ends[:, 0]], index[ends[:, 1] - 1] + 1], axis=1)
        if begins is not None:
            chars = begins[chars]
        return ids, [(start, end) for start, end in chars.tolist()]

    # ---- ids to text ----

    def decode(self, ids: Ids, errors: str = "replace") -> str:
        """The text of ``ids``, special tokens written out. ``errors`` is what `bytes.decode` does with bytes that are
        not UTF-8, as ids may begin or end inside a character: "replace" by U+FFFD, "strict" raises, "ignore".

        Raises TokenizerError for an id that is no token."""
        return self._core.decode_text(plain_ids(ids), errors)

    def decode_bytes(self, ids: Ids) -> bytes:
        """The bytes of ``ids``, joined."""
        return self._core.decode(plain_ids(ids))

    def decode_batch(self, batch: Iterable[Ids], errors: str = "replace") -> list[str]:
        """`decode` for many sequences."""
        return [self.decode(ids, errors) for ids in batch]

    def stream_decoder(self) -> StreamDecoder:
        """Decodes ids one at a time without ever splitting a character."""
        return StreamDecoder(self)

    # ---- as an object ----

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        pattern = self.pattern if self.pattern is None or len(self.pattern) < 40 else self.pattern[:36] + " ..."
        specials = list(self.special_tokens)
        shown = specials if len(specials) < 6 else [*specials[:5], "..."]
        return (
            f"Tokenizer(vocab_size={self.vocab_size}, pattern={pattern!r}, rule={self.rule!r}, special_tokens={shown})"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokenizer):
            return NotImplemented
        return self._extras == other._extras and (self._core is other._core or self.hash == other.hash)

    def __hash__(self) -> int:
        return hash(self.hash)

    def __copy__(self) -> Tokenizer:
        return self._wrap(self._core, self._extras)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tokenizer:
        return self._wrap(self._core, self._extras)

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_state, (self._core.state(), self._core.splits(), self._extras)

    # ---- inside ----

    def _choose(self, allowed: Allowed, disallowed: Disallowed) -> tuple[Choice, Choice]:
        """Both sets as the core wants them: True for all special tokens, None for none."""
        if isinstance(allowed, str) and allowed != "all":
            raise TokenizerError(
                f'allowed_special is "all" or a set of strings, not {allowed!r}; write {{{allowed!r}}}'
            )
        if isinstance(disallowed, str) and disallowed != "all":
            raise TokenizerError(f'disallowed_special is "all" or a collection of strings, not {disallowed!r}')
        allow: Choice = True if allowed == "all" else [t for t in allowed if t in self._specials] or None
        if disallowed != "all":
            refuse = list(disallowed)
            if not all(isinstance(token, str) for token in refuse):
                raise TokenizerError(f'disallowed_special is "all" or a collection of strings, not {disallowed!r}')
            return allow, refuse or None
        if allow is None:
            return None, True
        return allow, None if allow is True else [t for t in self._specials if t not in allowed] or None

    def _choices(
        self,
        allowed: Allowed,
        disallowed: Disallowed,
        max_tokens: int | None = None,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> Choices:
        """The options of encoding as the core wants them."""
        if max_tokens is not None and not _is_size(max_tokens, 0):
            raise TokenizerError(
                f"max_tokens is {max_tokens!r}; it is a number from 0 to 2**63 - 1, or None for no limit"
            )
        if not isinstance(dropout, (int, float)) or not 0 <= dropout <= 1:
            raise TokenizerError(f"dropout is {dropout!r}; it is a probability, from 0 to 1")
        if not isinstance(seed, int) or not 0 <= seed < 1 << 64:
            raise TokenizerError(f"seed is {seed!r}; it is an integer from 0 to 2**64 - 1")
        return (*self._choose(allowed, disallowed), max_tokens, float(dropout), seed)

    @staticmethod
    def _run(call: Callable[..., T], text: Any, *rest: Any) -> T:
        """Calls the core; text with lone surrogates, which are not UTF-8, is cleaned and tried again."""
        try:
            return call(text, *rest)
        except (TypeError, UnicodeEncodeError) as error:
            several = isinstance(text, list) and call.__name__.startswith(("encode_batch", "count"))
            texts: list[Any] = text if several else [text]
            for item in texts:
                check_text(item)
            if isinstance(error, TypeError):
                raise
            cleaned = [clean(item) for item in texts]
            return call(cleaned if several else cleaned[0], *rest)


def _from_state(state: bytes, splits: bytes = b"", extras: Extras = Extras()) -> Tokenizer:  # noqa: B008 (immutable)
    """Unpickles."""
    return Tokenizer._wrap(BPE.from_state(state, splits), extras)


def _is_size(value: object, least: int) -> bool:
    """Is this a whole number that the core can hold, and at least so much?"""
    return isinstance(value, int) and least <= value < 1 << 63


def _list(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, (str, bytes)):
        raise TokenizerError("expected several texts, got a single one; use encode, or pass [text]")
    return list(texts)
