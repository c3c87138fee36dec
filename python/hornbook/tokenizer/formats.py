"""Files of other libraries: tokenizer.json, .tiktoken, vocab.json + merges.txt. Each keeps its own rule."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import files
from .._core import BPE
from ..errors import TokenizerError
from .base import special_list
from .fields import HIGHEST_ID, Field, is_id, parse
from .huggingface import BYTE_OF_CHAR, config, from_json, spell, to_json, unspell
from .joins import Joins
from .ranked import ranked_pattern
from .template import Extras

if TYPE_CHECKING:
    from .exchange import Exchange

log = logging.getLogger(__name__)

# SHA-256 of the files that OpenAI published: what they leave out is known.
PUBLISHED: dict[str, tuple[str, dict[str, int]]] = {
    "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930": ("gpt2", {"<|endoftext|>": 50256}),
    "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069": ("gpt2", {"<|endoftext|>": 50256}),
    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7": (
        "cl100k",
        {
            "<|endoftext|>": 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d": (
        "o200k",
        {"<|endoftext|>": 199999, "<|endofprompt|>": 200018},
    ),
}

Specials = Sequence[str] | Mapping[str, int] | None


def load(path: Path, pattern: str | None, special_tokens: Specials) -> tuple[BPE, Extras]:
    """What `Tokenizer.load` does; ``pattern="auto"`` is to be found out."""
    if path.is_dir():
        names = ["tokenizer.json", "vocab.json", "encoder.json"]
        found = [path / name for name in names if (path / name).is_file()] or sorted(path.glob("*.tiktoken"))
        if not found:
            raise TokenizerError(
                f"no tokenizer in {path}: expected tokenizer.json, vocab.json with merges.txt, or *.tiktoken"
            )
        path = found[0]
    if path.name == "merges.txt" and path.with_name("vocab.json").is_file():
        path = path.with_name("vocab.json")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise TokenizerError(f"there is no tokenizer at {path}") from None
    except OSError as error:
        raise TokenizerError(f"cannot read the tokenizer {path}: {error}") from None
    try:
        if path.suffix != ".json":
            return _from_ranks(path, data, pattern, special_tokens), Extras()
        content = parse(data)
        if str(Field(content).mapping().get("type")).startswith("hornbook."):
            raise TokenizerError("this is a CharTokenizer or WordTokenizer; hornbook.tokenizer.load reads all kinds")
        if "model" not in content or is_id(content["model"]):  # in a vocab.json, "model" is a token like others
            return _from_gpt2(path, content, pattern, special_tokens), Extras()
        if pattern != "auto" or special_tokens is not None:
            raise TokenizerError("it holds its pattern and its special tokens: leave out pattern= and special_tokens=")
        return from_json(content)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None
    except OSError as error:
        raise TokenizerError(f"cannot read what belongs to the tokenizer {path}: {error}") from None
    except ValueError as error:
        raise TokenizerError(
            f"{path} is not a tokenizer that can be read ({type(error).__name__}: {error}); expected tokenizer.json, "
            "a .tiktoken file, or vocab.json with merges.txt. Is the file complete?"
        ) from None


def from_vocab(
    vocab: Mapping[int, bytes] | Mapping[bytes, int],
    merges: Iterable[tuple[bytes, bytes]],
    special_tokens: Sequence[str] | Mapping[str, int],
    pattern: str | None,
) -> BPE:
    """What `Tokenizer.from_vocab` does."""
    given = _special(special_tokens)
    if not isinstance(vocab, Mapping):
        raise TokenizerError(
            f"the vocabulary is {type(vocab).__name__}; expected a mapping of ids to bytes or bytes to ids"
        )
    pairs: list[tuple[Any, Any]] = list(vocab.items())
    if pairs and isinstance(pairs[0][0], int):
        pairs = [(token, id) for id, token in pairs]
    for token, id in pairs:
        if not isinstance(token, bytes) or not is_id(id):
            raise TokenizerError(
                f"the vocabulary maps ids (0 to {HIGHEST_ID}) to bytes or bytes to ids; found {token!r} and {id!r}"
            )
    known = dict(pairs)
    following = max(known.values(), default=-1) + 1
    specials: list[tuple[str, int]] = []
    for token in given:
        if isinstance(given, dict):
            id = given[token]
        elif token.encode() in known:
            id = known[token.encode()]
        else:
            id, following = following, following + 1
        specials.append((token, id))
    taken = {id for _, id in specials}
    tokens = [(id, token) for token, id in pairs if id not in taken]
    index = {token: id for id, token in tokens}
    listed = []
    for rank, (left, right) in enumerate(merges):
        for part in (left, right):
            if part not in index:
                raise TokenizerError(
                    f"merge {rank} joins {left!r} and {right!r}, but {part!r} is not in the vocabulary"
                )
        listed.append((index[left], index[right]))
    return BPE(tokens, specials, listed, False, pattern)


def save(tokenizer: Exchange, path: Path, format: str | None) -> None:
    """What `Tokenizer.save` does."""
    if format is None:
        format = "tiktoken" if path.suffix == ".tiktoken" else "huggingface"
    if format == "tiktoken":
        pattern = ranked_pattern(tokenizer._core)
        warn_of_ranks(tokenizer)
        if tokenizer.template is not None:
            log.warning("a .tiktoken file does not hold the template; tokenizer.json does")
        if path.suffix != ".tiktoken":
            path.mkdir(parents=True, exist_ok=True)
            path = path / "tokenizer.tiktoken"
        lines = [b"%s %d\n" % (base64.b64encode(token), id) for token, id in ordinary(tokenizer).items()]
        beside = {"pattern": pattern, "special_tokens": tokenizer.special_tokens}
        _write(path.with_name(path.name + ".json"), _json(beside))
        _write(path, b"".join(lines))
    elif format == "gpt2":
        if tokenizer.pattern != "gpt2":
            log.warning("vocab.json and merges.txt do not hold the pattern %r: pass it to load", tokenizer.pattern)
        if tokenizer.rule != "merges":
            log.warning("vocab.json and merges.txt do not hold the rule %r: load joins by the merges", tokenizer.rule)
        if tokenizer.template is not None:
            log.warning("vocab.json and merges.txt do not hold the template; tokenizer.json does")
        vocab = {spell(token): id for token, id in ordinary(tokenizer).items()}
        for token in vocab.keys() & tokenizer.special_tokens.keys():
            raise TokenizerError(
                f"the special token {token!r} is spelled like an ordinary token, and vocab.json cannot hold both; "
                'save with format="tiktoken"'
            )
        merges = [f"{spell(left)} {spell(right)}\n" for left, right in tokenizer.merges]
        path.mkdir(parents=True, exist_ok=True)
        _write(path / "merges.txt", ("#version: 0.2\n" + "".join(merges)).encode())
        _write(path / "vocab.json", _json({**vocab, **tokenizer.special_tokens}))
    elif format == "huggingface":
        content = to_json(tokenizer)
        if path.suffix != ".json":
            path.mkdir(parents=True, exist_ok=True)
            _write(path / "tokenizer_config.json", _json(config(tokenizer)))
        save_json(path, content)
    else:
        raise TokenizerError(f'format is {format!r}; expected "huggingface", "gpt2" or "tiktoken"')


def save_json(path: Path, content: Any) -> None:
    """Writes tokenizer.json into a directory, or the file itself if the path ends in .json."""
    if path.suffix != ".json":
        path = path / "tokenizer.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, _json(content))


def warn_of_ranks(tokenizer: Exchange) -> None:
    """Says so if the rule "ranks", which is tiktoken's, may lead to other ids than the tokenizer's own.

    It does not if the merges go by the ids of what they make, and are either all that the ranks allow, or for each
    token have the two that the merges before leave of its bytes: then nothing else ever comes up.
    """
    if tokenizer.rule == "ranks":
        return
    ids, merges = ordinary(tokenizer), tokenizer.merges
    made = [left + right for left, right in merges]
    odd = {late for early, late in pairwise(made) if ids[early] > ids[late]}
    if tokenizer.rule != "merges" and not odd and _ways(ids) == len(merges):
        return
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    joins = Joins(ranks)
    lowest = dict(zip(reversed(made), range(len(made) - 1, -1, -1), strict=True))
    odd |= {token for token in ids if len(token) > 1} - lowest.keys()
    for token, rank in lowest.items():
        parts = joins.parts(token, below=rank)
        if len(parts) != 2 or (parts[0], parts[1]) not in ranks:
            odd.add(token)
    if odd:
        log.warning(
            "tiktoken's rule joins any neighbours that are a token together; here it may give other ids than the "
            "merges do, for instance where the text has %r",
            min(odd, key=lambda token: ids[token]),
        )


def _ways(tokens: Collection[bytes]) -> int:
    """In how many ways a token is two others."""
    lengths = sorted({len(token) for token in tokens})
    ways = 0
    for token in tokens:
        for cut in lengths:  # not every place: that would take quadratic time for a long token
            if cut >= len(token):
                break
            ways += token[:cut] in tokens and token[cut:] in tokens
    return ways


def ordinary(tokenizer: Exchange) -> dict[bytes, int]:
    """All tokens but the special ones, by id."""
    special = set(tokenizer.special_tokens.values())
    return {token: id for id, token in tokenizer.vocab.items() if id not in special}


def _from_ranks(path: Path, data: bytes, pattern: str | None, special_tokens: Specials) -> BPE:
    """A .tiktoken file: a line for each token, its bytes in base64 and its id."""
    beside = path.with_name(path.name + ".json")
    digest = hashlib.sha256(data).hexdigest()
    if beside.is_file():
        own, specials = _beside(beside)
    elif digest in PUBLISHED:
        own, specials = PUBLISHED[digest]
    else:
        own, specials = "cl100k", {}
        if pattern == "auto":
            log.warning("%s does not say its pattern: cl100k is assumed; pass pattern= to load", path)
    following: list[str] = []
    if special_tokens is not None:
        given = _special(special_tokens)
        specials, following = (given, []) if isinstance(given, dict) else ({}, given)
    return BPE.from_ranks(data, list(specials.items()), following, own if pattern == "auto" else pattern)


def _beside(path: Path) -> tuple[str | None, dict[str, int]]:
    """The pattern and the special tokens of the file that `save` writes beside a .tiktoken file."""
    content = Field(parse(path.read_bytes()), path.name)
    if "pattern" not in content.mapping():
        raise content["pattern"].refuse("expected a pattern, or null for none; save the tokenizer again")
    pattern, specials = content["pattern"], content["special_tokens"]
    return None if pattern.value is None else pattern.text(), {t: specials[t].id() for t in specials.mapping()}


def _from_gpt2(path: Path, content: dict[str, Any], pattern: str | None, special_tokens: Specials) -> BPE:
    """vocab.json (or encoder.json) and merges.txt (or vocab.bpe) beside it, and added_tokens.json if there is one."""
    found = _first(path, "merges.txt", "vocab.bpe")
    if found is None:
        raise TokenizerError("it has no merges.txt beside it, and it is no tokenizer.json: expected one of them")
    vocab = _ids(Field(content))
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(found.read_text("utf-8").split("\n"), 1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        parts = line.split(" ")
        if len(parts) != 2:
            raise TokenizerError(f"{found.name}, line {number}: expected two tokens and one space, found {line!r}")
        merges.append((parts[0], parts[1]))
    made = {left + right for left, right in merges} | {chr(char) for char in BYTE_OF_CHAR}
    specials = {token: id for token, id in vocab.items() if token not in made}
    added = _first(path, "added_tokens.json")
    if added is not None:
        specials |= _ids(Field(parse(added.read_bytes()), added.name))
    if special_tokens is not None:
        given = _numbered(special_tokens, max([*vocab.values(), *specials.values()], default=-1) + 1, specials)
        unknown = specials.keys() - given.keys()
        if unknown:
            raise TokenizerError(f"no merge makes {sorted(unknown)[0]!r}, and it is not among special_tokens")
        specials = given
    index = {token: id for token, id in vocab.items() if token in made and token not in specials}
    tokens: list[tuple[int, bytes]] = []
    for token, id in index.items():
        spelled = unspell(token)
        if spelled is None:
            raise TokenizerError(f"the token {token!r} is not spelled in GPT-2's alphabet of bytes")
        tokens.append((id, spelled))
    pairs = []
    for left, right in merges:
        if left not in index or right not in index or left + right not in index:
            raise TokenizerError(f"the merge {left!r} {right!r} has a token that is not in {path.name}")
        pairs.append((index[left], index[right]))
    return BPE(tokens, list(specials.items()), pairs, False, "gpt2" if pattern == "auto" else pattern)


def _first(path: Path, *names: str) -> Path | None:
    """The first of these files that lies beside ``path``."""
    return next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)


def _ids(content: Field) -> dict[str, int]:
    """A JSON object of tokens and their ids, checked."""
    for token, id in content.mapping().items():
        if not is_id(id):
            content[token].id()
    return content.mapping()


def _special(tokens: Sequence[str] | Mapping[str, int]) -> dict[str, int] | list[str]:
    """Special tokens as they were given, with ids or without, checked."""
    out = special_list(list(tokens) if isinstance(tokens, Mapping) else tokens)
    if not isinstance(tokens, Mapping):
        return out
    for token, id in tokens.items():
        if not is_id(id):
            raise TokenizerError(
                f"special_tokens[{token!r}] is {id!r}: expected a token id, a whole number from 0 to {HIGHEST_ID}"
            )
    return dict(tokens)


def _numbered(
    tokens: Sequence[str] | Mapping[str, int], following: int, known: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Special tokens with ids: their own, or those known, or the next free ones."""
    given = _special(tokens)
    if isinstance(given, dict):
        return given
    out: dict[str, int] = {}
    for token in given:
        if known and token in known:
            out[token] = known[token]
        else:
            out[token], following = following, following + 1
    return out


def _json(content: Any) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()


def _write(path: Path, data: bytes) -> None:
    try:
        files.write(path, data)
    except OSError as error:
        raise TokenizerError(f"cannot write {path}: {error}") from None
