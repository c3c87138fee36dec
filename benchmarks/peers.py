"""How the libraries are called that ``hornbook bench tokenizer`` compares: each the fastest way that it documents.

Read by `child` in whatever Python a library lives in, so it needs nothing but the standard library and that library.
Where it depends on the case what is fastest, there are several ways, and all of them are timed:

    loop     one call for each text
    batch    one call for all texts
    buffer   one call for all texts in one piece of bytes, made beforehand; nobody has his texts like that, so it is
             shown and counts for no goal

All get the same str objects, and give a list of int for each text or arrays (numpy, or bytes that numpy reads). Ids are
those of ordinary text: nobody looks for special tokens but who always does.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

ALONE, TOGETHER, ALWAYS = "one thread", "several threads", "any"
PLAIN_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class Vocabulary:
    """The files that the parent wrote, each library's own spelling among them.

    NAME.tiktoken has ranks; exact.json is the tokenizer.json that Hornbook writes, but with one merge a token;
    classic.json, not for every pattern, is the same with the pattern as the models' files usually spell it and without
    special tokens in the vocabulary.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        facts = json.loads((self.folder / "vocabulary.json").read_text("utf-8"))
        self.name: str = facts["name"]
        self.pattern: str | None = facts["pattern"]  # a name such as "cl100k"
        self.regex: str = facts["regex"]  # as tiktoken has it
        self.special_tokens: dict[str, int] = facts["special_tokens"]
        self.ranks = str(self.folder / f"{self.name}.tiktoken")
        self.exact = str(self.folder / "exact.json")
        self.classic = str(self.folder / "classic.json") if (self.folder / "classic.json").exists() else self.exact


class Peer:
    """A library. A subclass in an adapter's file is given this class by its name.

    Attributes:
        module, distribution: what is imported, and whose version counts.
        lists, arrays: ways to get them, each with the number of threads that it makes sense for. ("loop", ALONE) among
            the lists is the method ``list_loop(texts, threads)``. Everybody who encodes has that one: it serves for
            single calls.
        decodes: what `decode` takes, of "list" and "array" (numpy, uint32).
        tie: of Hornbook's rules, the one by which it trains; None if it does not train.
        pace: megabytes a second, about, of a slow library whose speed does not depend on how much it has read. It gets
            only a part of a long text. Whoever remembers words is faster in a long one, and gets all of it.
    """

    module = ""
    distribution = ""
    lists: tuple[tuple[str, str], ...] = ()
    arrays: tuple[tuple[str, str], ...] = ()
    decodes: tuple[str, ...] = ("list",)
    tie: str | None = None
    pace: float | None = None
    tok: Any = None  # what `load` made

    def __init__(self) -> None:
        self.api: Any = importlib.import_module(self.module) if self.module else None
        self.version = importlib.metadata.version(self.distribution) if self.distribution else ""

    def load(self, vocabulary: Vocabulary) -> Any:
        """A new tokenizer, which the other methods use from then on."""
        raise NotImplementedError

    def prepare(self, what: str, texts: list[str]) -> Any:
        """``texts`` in the form that a way, such as "array_buffer", or "train" takes; before the clock starts."""
        return texts

    def decode(self, ids: Any) -> str:
        return self.tok.decode(ids)

    def train(self, texts: Any, vocab_size: int, pattern: str | None, regex: str, threads: int) -> Any:
        """Whatever training gives, for `merged`. ``regex`` is the pattern as Oniguruma reads it."""
        raise NotImplementedError

    def merged(self, trained: Any) -> list[bytes]:
        """The tokens that training made, in order."""
        raise NotImplementedError


class Hornbook(Peer):
    module, distribution = "hornbook.tokenizer", "hornbook"
    lists = (("batch", ALWAYS),)
    arrays = (("batch", ALWAYS),)
    decodes = ("list", "array")
    tie = "huggingface"

    def load(self, vocabulary: Vocabulary) -> Any:
        self.tok = self.api.Tokenizer.load(vocabulary.ranks)
        return self.tok

    def list_loop(self, texts: list[str], threads: int) -> Any:
        encode = self.tok.encode
        return [encode(text) for text in texts]

    def list_batch(self, texts: list[str], threads: int) -> Any:
        return self.tok.encode_batch(texts, num_threads=threads)

    def array_batch(self, texts: list[str], threads: int) -> Any:
        return self.tok.encode_batch_to_numpy(texts, num_threads=threads)

    def train(self, texts: Any, vocab_size: int, pattern: str | None, regex: str, threads: int) -> Any:
        return self.api.Tokenizer.train(
            texts, vocab_size, pattern, special_tokens=(), tie=self.tie, num_threads=threads
        )

    def merged(self, trained: Any) -> list[bytes]:
        return [trained.vocab[id] for id in range(256, trained.vocab_size)]


class Tiktoken(Peer):
    """Its batch call hands texts to a pool of threads, which with one thread is slower than a loop."""

    module = distribution = "tiktoken"
    lists = (("loop", ALONE), ("batch", TOGETHER))
    arrays = (("loop", ALONE),)
    pace = 12.0

    def load(self, vocabulary: Vocabulary) -> Any:
        ranks = importlib.import_module("tiktoken.load").load_tiktoken_bpe(vocabulary.ranks)
        self.tok = self.api.Encoding(
            vocabulary.name,
            pat_str=vocabulary.regex,
            mergeable_ranks=ranks,
            special_tokens=vocabulary.special_tokens,
        )
        return self.tok

    def list_loop(self, texts: list[str], threads: int) -> Any:
        encode = self.tok.encode_ordinary
        return [encode(text) for text in texts]

    def list_batch(self, texts: list[str], threads: int) -> Any:
        return self.tok.encode_ordinary_batch(texts, num_threads=threads)

    def array_loop(self, texts: list[str], threads: int) -> Any:
        return [self.tok.encode_to_numpy(text, disallowed_special=()) for text in texts]


class Tokenizers(Peer):
    """``encode_batch_fast`` does without offsets. Trained over all bytes, as everybody else is."""

    module = distribution = "tokenizers"
    lists = (("batch", ALWAYS),)
    tie = "huggingface"
    pace = 2.0

    def __init__(self) -> None:
        super().__init__()
        if int(self.version.split(".")[0]) >= 1:
            raise ImportError(f"this is tokenizers {self.version}, which is 'tokenizers-1.0'")

    def load(self, vocabulary: Vocabulary) -> Any:
        self.tok = self.api.Tokenizer.from_file(vocabulary.exact)
        return self.tok

    def list_loop(self, texts: list[str], threads: int) -> Any:
        encode = self.tok.encode
        return [encode(text, add_special_tokens=False).ids for text in texts]

    def list_batch(self, texts: list[str], threads: int) -> Any:
        return [found.ids for found in self.tok.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Any) -> str:
        return self.tok.decode(ids, skip_special_tokens=False)

    def train(self, texts: Any, vocab_size: int, pattern: str | None, regex: str, threads: int) -> Any:
        models, trainers, pre = (
            importlib.import_module(f"tokenizers.{name}") for name in ("models", "trainers", "pre_tokenizers")
        )
        tok = self.api.Tokenizer(models.BPE())
        tok.pre_tokenizer = pre.ByteLevel(add_prefix_space=False, use_regex=pattern == "gpt2")
        if pattern not in ("gpt2", None):
            cut = pre.Split(self.api.Regex(regex), "isolated")
            tok.pre_tokenizer = pre.Sequence([cut, tok.pre_tokenizer])
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            initial_alphabet=pre.ByteLevel.alphabet(),
            show_progress=False,
            special_tokens=[],
        )
        tok.train_from_iterator(iter(texts), trainer)
        return tok

    def merged(self, trained: Any) -> list[bytes]:
        byte_of = {char: byte for byte, char in characters().items()}
        pairs = json.loads(trained.to_str())["model"]["merges"]
        joined = ["".join(pair.split(" ") if isinstance(pair, str) else pair) for pair in pairs]
        return [bytes(byte_of[char] for char in token) for token in joined]


class Tokenizers1(Peer):
    """The rewrite that is to become tokenizers 1.0: it encodes and decodes, and does not train."""

    module = distribution = "tokenizers"
    lists = (("batch", ALWAYS),)
    arrays = (("loop", ALONE), ("batch", TOGETHER))
    decodes = ("list", "array")

    def __init__(self) -> None:
        super().__init__()
        if int(self.version.split(".")[0]) < 1:
            raise ImportError(f"this is tokenizers {self.version}; name a Python that has 1.0 with --python")

    def load(self, vocabulary: Vocabulary) -> Any:
        self.tok = self.api.Tokenizer.from_file(vocabulary.classic)
        return self.tok

    def list_loop(self, texts: list[str], threads: int) -> Any:
        encode = self.tok.encode
        return [encode(text, add_special_tokens=False).ids for text in texts]

    def list_batch(self, texts: list[str], threads: int) -> Any:
        return [found.ids for found in self.tok.encode_batch(texts, add_special_tokens=False)]

    def array_loop(self, texts: list[str], threads: int) -> Any:
        return [self.tok.encode(text, add_special_tokens=False).ids_array for text in texts]

    def array_batch(self, texts: list[str], threads: int) -> Any:
        return [found.ids_array for found in self.tok.encode_batch(texts, add_special_tokens=False)]

    def decode(self, ids: Any) -> str:
        return self.tok.decode(ids, skip_special_tokens=False)


class Rustbpe(Peer):
    """Trains only: its ``encode`` takes quadratic time, and whoever uses it encodes with tiktoken."""

    module = distribution = "rustbpe"
    tie = "raw"

    def train(self, texts: Any, vocab_size: int, pattern: str | None, regex: str, threads: int) -> Any:
        tok = self.api.Tokenizer()
        spelled = {"cl100k": None, "gpt2": PLAIN_GPT2, None: r"[\s\S]+"}.get(pattern, regex)  # None is its own
        tok.train_from_iterator(iter(texts), vocab_size, pattern=spelled)
        return tok

    def merged(self, trained: Any) -> list[bytes]:
        ranks = sorted(trained.get_mergeable_ranks(), key=lambda item: item[1])
        return [bytes(token) for token, _ in ranks][256:]


class Gigatoken(Peer):
    """Trains with GPT-2's pattern only, and on bytes. Its batch call gives an Awkward array, its loop numpy's. From a
    tokenizer.json it encodes a first text faster than from ranks."""

    module = distribution = "gigatoken"
    lists = (("loop", ALONE), ("batch", TOGETHER))
    arrays = (("loop", ALONE), ("batch", ALWAYS), ("buffer", TOGETHER))
    decodes = ("list", "array")
    tie = "huggingface"
    end = "<|endoftext|>"

    def load(self, vocabulary: Vocabulary) -> Any:
        self.tok = self.api.Tokenizer(vocabulary.classic)
        return self.tok

    def prepare(self, what: str, texts: list[str]) -> Any:
        if what == "array_buffer":
            return self.api.BytesSource(self.end.join(texts).encode(), self.end)
        return self.end.join(texts).encode() if what == "train" else texts

    def list_loop(self, texts: list[str], threads: int) -> Any:
        encode = self.tok.encode
        return [encode(text).tolist() for text in texts]

    def list_batch(self, texts: list[str], threads: int) -> Any:
        return self.tok.encode_batch_list(texts, parallel=threads > 1)

    def array_loop(self, texts: list[str], threads: int) -> Any:
        encode = self.tok.encode
        return [encode(text) for text in texts]

    def array_batch(self, texts: Any, threads: int) -> Any:
        return self.tok.encode_batch(texts, parallel=threads > 1)

    array_buffer = array_batch

    def decode(self, ids: Any) -> str:
        return self.tok.decode(ids).decode("utf-8", "replace")

    def train(self, texts: Any, vocab_size: int, pattern: str | None, regex: str, threads: int) -> Any:
        if pattern != "gpt2":
            raise ValueError("it trains with GPT-2's pattern only")
        return self.api.train_bpe(texts, vocab_size, [], self.tie, separator=self.end.encode())

    def merged(self, trained: Any) -> list[bytes]:
        return [left + right for left, right in trained[1]]


class Fastokens(Peer):
    """From a tokenizer.json it encodes a first text faster than from ranks."""

    module = distribution = "fastokens"
    lists = (("loop", ALONE), ("batch", ALWAYS))
    arrays = (("batch", ALWAYS),)

    def load(self, vocabulary: Vocabulary) -> Any:
        self.tok = self.api.Tokenizer.from_file(vocabulary.classic)
        return self.tok

    def list_loop(self, texts: list[str], threads: int) -> Any:
        encode = self.tok.encode_ordinary
        return [encode(text).ids for text in texts]

    def list_batch(self, texts: list[str], threads: int) -> Any:
        return [found.ids for found in self.tok.encode_batch(texts)]

    def array_batch(self, texts: list[str], threads: int) -> Any:
        return self.tok.encode_batch_flat(texts)


class Splintr(Peer):
    """Has OpenAI's vocabularies built in, which it loads faster than files."""

    module, distribution = "splintr", "splintr-rs"
    lists = (("loop", ALONE), ("batch", TOGETHER))
    arrays = (("loop", ALONE), ("batch", TOGETHER))

    def load(self, vocabulary: Vocabulary) -> Any:
        if vocabulary.name in ("cl100k_base", "o200k_base"):
            self.tok = self.api.Tokenizer.from_pretrained(vocabulary.name)
        else:
            known = {"gpt2": "GPT2_PATTERN", "cl100k": "CL100K_BASE_PATTERN", "o200k": "O200K_BASE_PATTERN"}
            name = known.get(vocabulary.pattern or "")
            regex = getattr(self.api, name) if name else vocabulary.regex
            self.tok = self.api.Tokenizer(vocabulary.ranks, regex, vocabulary.special_tokens)
        return self.tok

    def list_loop(self, texts: list[str], threads: int) -> Any:
        encode = self.tok.encode_ordinary
        return [encode(text) for text in texts]

    def list_batch(self, texts: list[str], threads: int) -> Any:
        return self.tok.encode_batch(texts)

    def array_loop(self, texts: list[str], threads: int) -> Any:
        encode = self.tok.encode_flat
        return [encode(text) for text in texts]

    def array_batch(self, texts: list[str], threads: int) -> Any:
        return self.tok.encode_batch_flat(texts)


class RsBpe(Peer):
    """A fork of GitHub's crate ``bpe``; knows two vocabularies, which are part of it. Several threads slow it down."""

    module, distribution = "rs_bpe.bpe", "rs-bpe"
    lists = (("loop", ALONE), ("batch", TOGETHER))
    pace = 20.0

    def load(self, vocabulary: Vocabulary) -> Any:
        if vocabulary.name not in ("cl100k_base", "o200k_base"):
            raise ValueError(f"it knows cl100k_base and o200k_base, not {vocabulary.name}")
        self.tok = getattr(self.api.openai, vocabulary.name)()
        return self.tok

    def list_loop(self, texts: list[str], threads: int) -> Any:
        encode = self.tok.encode
        return [encode(text) for text in texts]

    def list_batch(self, texts: list[str], threads: int) -> Any:
        return self.tok.encode_batch_parallel(texts, None)[0]


class Tokie(Peer):
    """Its arrays come from files only, so there is no row for them."""

    module = distribution = "tokie"
    lists = (("batch", ALWAYS),)

    def load(self, vocabulary: Vocabulary) -> Any:
        self.tok = self.api.Tokenizer.from_json(vocabulary.classic)
        return self.tok

    def list_loop(self, texts: list[str], threads: int) -> Any:
        encode = self.tok.encode
        return [encode(text, add_special_tokens=False).ids for text in texts]

    def list_batch(self, texts: list[str], threads: int) -> Any:
        return [found.ids for found in self.tok.encode_batch(texts, add_special_tokens=False)]


PEERS: dict[str, type[Peer]] = {
    "hornbook": Hornbook,
    "tiktoken": Tiktoken,
    "tokenizers": Tokenizers,
    "tokenizers-1.0": Tokenizers1,
    "rustbpe": Rustbpe,
    "gigatoken": Gigatoken,
    "fastokens": Fastokens,
    "splintr": Splintr,
    "rs-bpe": RsBpe,
    "tokie": Tokie,
}


def characters() -> dict[int, str]:
    """GPT-2's alphabet: byte → the character that stands for it in tokenizer.json."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}
