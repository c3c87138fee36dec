"""How tokenizers differ on texts: bytes and words per token, what is never used, what they share."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from ..errors import DataError, TokenizerError
from .base import TokenizerLike, clean
from .bpe import Tokenizer
from .reach import Unreached, never_reached
from .show import readable

ALL = "all"
BLOCK, MOST_BLOCKS, LEAST_BLOCKS, DRAWS = 500, 200, 8, 1000  # of the bootstrap: bytes, and counts
ETHIOPIC_SPACE = "\u1361"
# Scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, kana, Han.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


@dataclass(frozen=True)
class Ratio:
    """Tokens that a text takes, divided by those that the first tokenizer takes.

    Attributes:
        low, high: a 95 % interval by the bootstrap over blocks of the text; None where the text is too short.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Measure:
    """One tokenizer on one text.

    Attributes:
        tokens_per_word: the fertility: how many tokens a word becomes, with the space before it, on average over the
            words as they occur. None for a script that has no spaces between words.
        whole_words: the share of these words that are one token.
    """

    tokens: int
    bytes_per_token: float
    characters_per_token: float
    tokens_per_word: float | None
    whole_words: float | None
    ratio: Ratio


@dataclass(frozen=True)
class Text:
    """What there is to measure on."""

    bytes: int
    characters: int
    words: int | None


@dataclass(frozen=True)
class Report:
    """One tokenizer.

    Attributes:
        vocab_size: ids, special tokens included.
        measures: by the name of the text; "all" is all of them together.
        unused: ids of ordinary tokens that none of the texts has.
        never_reached: tokens that no text was found for, each with the reason; see `never_reached`.
        lengths: how many ordinary tokens have so many bytes.
    """

    name: str
    vocab_size: int
    special_tokens: int
    pattern: str | None
    measures: dict[str, Measure]
    unused: list[int]
    never_reached: list[Unreached]
    lengths: dict[int, int]


@dataclass(frozen=True)
class Shared:
    """The ordinary tokens that two vocabularies have in common, by their bytes; ``share`` is of all that either has."""

    first: str
    second: str
    tokens: int
    share: float


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds. The first tokenizer is the one that the others are measured against.

    Attributes:
        texts: by name; where there are several, the last is "all" of them together.
        shared: for each two tokenizers.
    """

    texts: dict[str, Text]
    tokenizers: list[Report]
    shared: list[Shared]

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON can hold it: bytes are made readable as `show` does."""
        content = asdict(self)
        for report in content["tokenizers"]:
            for found in report["never_reached"]:
                found |= {"token": readable(found["token"]), "becomes": [readable(part) for part in found["becomes"]]}
        return content


class _Sample:
    """A text and what all tokenizers need of it."""

    def __init__(self, name: str, documents: str | Sequence[str]) -> None:
        self.name = name
        self.documents = [documents] if isinstance(documents, str) else list(documents)
        self.characters = sum(map(len, self.documents))
        self.bytes = sum(len(text.encode() if text.isascii() else clean(text).encode()) for text in self.documents)
        if not self.bytes:
            raise DataError(f"the text {name!r} is empty: there is nothing to compare on")
        # Contiguous blocks of equal size: the units that the bootstrap draws.
        self.blocks = max(1, min(MOST_BLOCKS, self.bytes // BLOCK))

    @cached_property
    def words(self) -> Counter[str] | None:
        """The words and how often they occur; None if the script has no spaces between them."""
        return words(self.documents)


def compare(
    tokenizers: Mapping[str, TokenizerLike],
    texts: Mapping[str, str | Sequence[str]],
    *,
    seed: int = 0,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> Comparison:
    """Measures tokenizers on texts.

    Args:
        tokenizers: by name; the first is what the others are measured against.
        texts: by name; each a text, or the documents of one. Special tokens in them are read as ordinary text.
        seed: of the bootstrap's draws.
        progress: called with (what, done, total).

    Raises:
        DataError: if there is no text.
        TokenizerError: if there is no tokenizer, or one that cannot encode a text.
    """
    if not tokenizers:
        raise TokenizerError("there is no tokenizer to compare")
    if not texts or ALL in texts:
        raise DataError(f"expected some texts, of which none is called {ALL!r}; got {list(texts)}")
    samples = [_Sample(name, documents) for name, documents in texts.items()]
    names = [sample.name for sample in samples] + ([ALL] if len(samples) > 1 else [])
    reports: list[Report] = []
    first: dict[str, np.ndarray] = {}
    for done, (name, tokenizer) in enumerate(tokenizers.items()):
        if progress:
            progress(name, done, len(tokenizers))
        counts, blocks, by_word = _encode(tokenizer, samples)
        first = first or blocks
        measures = {}
        for text in names:
            chosen = samples if text == ALL else [sample for sample in samples if sample.name == text]
            tokens = int(blocks[text].sum())
            if not tokens:
                raise TokenizerError(f"the tokenizer {name!r} makes no tokens of the text {text!r}")
            per_word, whole = _fertility([(sample.words, by_word[sample.name]) for sample in chosen])
            measures[text] = Measure(
                tokens,
                sum(sample.bytes for sample in chosen) / tokens,
                sum(sample.characters for sample in chosen) / tokens,
                per_word,
                whole,
                _ratio(blocks[text], first[text], seed),
            )
        reports.append(_report(name, tokenizer, measures, counts))
    facts = {s.name: Text(s.bytes, s.characters, s.words.total() if s.words is not None else None) for s in samples}
    if ALL in names:
        known = [text.words for text in facts.values() if text.words is not None]
        size, characters = (sum(getattr(sample, what) for sample in samples) for what in ("bytes", "characters"))
        facts[ALL] = Text(size, characters, sum(known) if known else None)
    ordinary = {name: set(_ordinary(tokenizer).values()) for name, tokenizer in tokenizers.items()}
    shared = [
        Shared(a, b, len(ordinary[a] & ordinary[b]), len(ordinary[a] & ordinary[b]) / len(ordinary[a] | ordinary[b]))
        for a, b in combinations(tokenizers, 2)
    ]
    return Comparison(facts, reports, shared)


def words(documents: Sequence[str]) -> Counter[str] | None:
    """The words of texts: what stands between white space, without the punctuation and symbols at both ends.

    None where most letters are of a script that has no spaces between words.
    """
    chunks: Counter[str] = Counter()
    for text in documents:
        chunks.update(text.replace(ETHIOPIC_SPACE, " ").split())
    unspaced = sum(len(_UNSPACED.findall(chunk)) * count for chunk, count in chunks.items())
    letters = sum(sum(map(str.isalpha, chunk)) * count for chunk, count in chunks.items())
    if 2 * unspaced > letters:
        return None
    out: Counter[str] = Counter()
    for chunk, count in chunks.items():
        start, end = 0, len(chunk)
        while start < end and unicodedata.category(chunk[start])[0] not in "LMN":
            start += 1
        while start < end and unicodedata.category(chunk[end - 1])[0] not in "LMN":
            end -= 1
        if start < end:
            out[chunk[start:end]] += count
    return out


def _encode(
    tokenizer: TokenizerLike, samples: Sequence[_Sample]
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """How often each id occurs (vocab_size,), and by text: the tokens in each block, the tokens of each word."""
    vocab: Mapping[int, bytes] = tokenizer.vocab  # type: ignore[attr-defined]
    sizes = np.zeros(tokenizer.vocab_size, np.int64)
    sizes[list(vocab)] = [len(token) for token in vocab.values()]
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    blocks: dict[str, np.ndarray] = {}
    by_word: dict[str, np.ndarray] = {}
    for sample in samples:
        ids, _ = tokenizer.encode_batch_to_numpy(sample.documents, disallowed_special=())
        counts += np.bincount(ids, minlength=len(counts))
        # A token belongs to the block where it begins. The factor is 1 unless a tokenizer loses something.
        ends = np.cumsum(sizes[ids])
        starts = (ends - sizes[ids]) * (sample.bytes / max(1, ends[-1])) if len(ids) else ends
        place = np.minimum(starts * sample.blocks // sample.bytes, sample.blocks - 1).astype(np.int64)
        blocks[sample.name] = np.bincount(place, minlength=sample.blocks)
        if sample.words is not None:
            _, offsets = tokenizer.encode_batch_to_numpy([f" {word}" for word in sample.words], disallowed_special=())
            by_word[sample.name] = np.diff(offsets)
        else:
            by_word[sample.name] = np.zeros(0, np.int64)
    blocks[ALL] = np.concatenate(list(blocks.values()))
    return counts, blocks, by_word


def _fertility(parts: Sequence[tuple[Counter[str] | None, np.ndarray]]) -> tuple[float | None, float | None]:
    """Tokens per word and the share of whole words, over texts of spaced scripts."""
    lengths = np.concatenate([tokens for found, tokens in parts if found is not None] or [np.zeros(0, np.int64)])
    counts = np.array([count for found, _ in parts if found is not None for count in found.values()], np.int64)
    if not len(counts):
        return None, None
    return float(lengths @ counts / counts.sum()), float(counts[lengths == 1].sum() / counts.sum())


def _ratio(tokens: np.ndarray, first: np.ndarray, seed: int) -> Ratio:
    """Of the counts in blocks (n,), with the interval between the 2.5 % and 97.5 % quantiles of the bootstrap."""
    value = float(tokens.sum() / first.sum())
    if len(tokens) < LEAST_BLOCKS:
        return Ratio(value, None, None)
    drawn = np.random.default_rng(seed).integers(0, len(tokens), (DRAWS, len(tokens)))
    ratios = tokens[drawn].sum(1) / np.maximum(1, first[drawn].sum(1))
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Ratio(value, float(low), float(high))


def _ordinary(tokenizer: TokenizerLike) -> dict[int, bytes]:
    """All tokens but the special ones."""
    specials = set(tokenizer.special_tokens.values())
    vocab: Mapping[int, bytes] = tokenizer.vocab  # type: ignore[attr-defined]
    return {id: token for id, token in vocab.items() if id not in specials}


def _report(name: str, tokenizer: TokenizerLike, measures: dict[str, Measure], counts: np.ndarray) -> Report:
    ordinary = _ordinary(tokenizer)
    return Report(
        name,
        tokenizer.vocab_size,
        len(tokenizer.special_tokens),
        tokenizer.pattern if isinstance(tokenizer, Tokenizer) else type(tokenizer).__name__,
        measures,
        [id for id in sorted(ordinary) if not counts[id]],
        never_reached(tokenizer) if isinstance(tokenizer, Tokenizer) else [],
        dict(sorted(Counter(map(len, ordinary.values())).items())),
    )
