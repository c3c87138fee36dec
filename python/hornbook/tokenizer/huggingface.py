"""tokenizer.json: what Hugging Face's `tokenizers` and `transformers` read and write."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from .._core import BPE
from ..errors import TokenizerError
from .base import EOT
from .fields import HIGHEST_ID, Field, is_id
from .pretokenizer import BYTE_LEVEL, ends_alike, from_pre_tokenizer, to_pre_tokenizer
from .template import Extras, from_processor, to_processor

if TYPE_CHECKING:
    from .exchange import Exchange

# GPT-2 writes a byte as one visible character: printable Latin-1 as itself, the others from U+0100 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
CHAR_OF_BYTE = {byte: byte for byte in _PRINTABLE}
CHAR_OF_BYTE |= {byte: 0x100 + i for i, byte in enumerate(b for b in range(256) if b not in CHAR_OF_BYTE)}
BYTE_OF_CHAR = {char: byte for byte, char in CHAR_OF_BYTE.items()}
_BYTE_OR_NOT = dict.fromkeys(range(256), 0x100) | BYTE_OF_CHAR  # 0x100 is no byte


def spell(token: bytes) -> str:
    """The bytes of a token in GPT-2's alphabet."""
    return token.decode("latin-1").translate(CHAR_OF_BYTE)


def unspell(token: str) -> bytes | None:
    """The inverse of `spell`; None for what is not in the alphabet."""
    try:
        return token.translate(_BYTE_OR_NOT).encode("latin-1")
    except UnicodeEncodeError:
        return None


# ---- writing ----


def to_json(tokenizer: Exchange) -> dict[str, Any]:
    """The content of a tokenizer.json that gives the same ids (special tokens are always read as such there)."""
    specials, extras = tokenizer.special_tokens, tokenizer._extras
    # Special tokens are in the vocabulary too: only so does `tokenizers` keep ids that leave holes.
    vocab = {spell(token): id for id, token in tokenizer.vocab.items() if id not in specials.values()}
    for token, id in specials.items():
        if token in vocab:
            raise TokenizerError(
                f"the special token {token!r} is spelled like an ordinary token, and tokenizer.json cannot hold both; "
                'save with format="tiktoken"'
            )
        vocab[token] = id
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": id, "content": token, **flags, "special": token not in extras.plain}
            for token, id in sorted(specials.items(), key=lambda item: item[1])
        ],
        "normalizer": None,
        "pre_tokenizer": to_pre_tokenizer(tokenizer),
        "post_processor": to_processor(extras.template, specials),
        "decoder": BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": extras.unk_token,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": tokenizer.rule != "merges",
            "vocab": dict(sorted(vocab.items(), key=lambda item: item[1])),
            "merges": [f"{spell(left)} {spell(right)}" for left, right in tokenizer.merges],
        },
    }


def roles(tokenizer: Exchange) -> dict[str, str]:
    """Which special token `transformers` is to take for what, as far as it is known."""
    template = tokenizer.template
    first, last = (template.prefix[:1], template.suffix[-1:]) if template else ((), ())
    eot = (EOT,) if tokenizer.eot_id is not None else ()
    out = {"bos_token": first or eot, "eos_token": last or eot}
    known = {name: token[0] for name, token in out.items() if token}
    return known | ({"unk_token": tokenizer._extras.unk_token} if tokenizer._extras.unk_token else {})


def config(tokenizer: Exchange) -> dict[str, Any]:
    """The content of tokenizer_config.json, without which transformers' AutoTokenizer does not find its class."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000_000_000,
        **roles(tokenizer),
    }


# ---- reading ----

_FILE = (
    *("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor"),
    *("decoder", "model"),
)
_MODEL = (
    *("type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk"),
    *("byte_fallback", "ignore_merges", "vocab", "merges"),
)
_ONLY = ". Hornbook reads byte-level BPE, as GPT-2 and Llama 3 have it; use the package tokenizers for this file"


def from_json(content: Mapping[str, Any]) -> tuple[BPE, Extras]:
    """A tokenizer from the content of a tokenizer.json.

    Raises TokenizerError for anything that it could not do exactly, with the path to the field and what it holds.
    """
    root = Field(content)
    root.only(_FILE)
    if root["version"].value not in (None, "1.0"):
        raise root["version"].refuse('expected "1.0"')
    for key in ("truncation", "padding"):
        root.off(f"it changes which ids a text gets; set {key} to null, and cut or fill up ids yourself", key)
    normalizer = root["normalizer"]
    if normalizer.value and not (normalizer["type"].value == "Sequence" and not normalizer["normalizers"].value):
        raise normalizer.refuse(
            "Hornbook encodes text as it is, so that it can be decoded again. If your texts are in this form already "
            "(NFC is what nearly all text is in), set normalizer to null: their ids stay the same"
        )
    _check_decoder(root["decoder"])
    model = _model(root["model"])
    specials, plain = _added_tokens(root, model)
    names = dict(model["vocab"].mapping())
    for token in specials:
        names.pop(token, None)
    tokens: dict[int, bytes] = {}
    for token, id in names.items():
        spelled = unspell(token)
        if spelled is None:
            raise model["vocab"][token].refuse("the token is not spelled in GPT-2's alphabet of bytes" + _ONLY)
        if id in tokens:
            raise model["vocab"][token].refuse(f"the id is also that of {spell(tokens[id])!r}")
        tokens[id] = spelled
    merges, whole_first = _merges(model, names, specials), model["ignore_merges"].flag()
    pattern = from_pre_tokenizer(
        root["pre_tokenizer"],
        lambda: ends_alike(tokens.values(), [(tokens[a], tokens[b]) for a, b in merges], whole_first),
    )
    template = from_processor(root["post_processor"], specials)
    unk = model["unk_token"]
    if unk.value and unk.text() not in names and unk.text() not in specials:
        raise unk.refuse("it is no token of the vocabulary")
    try:
        core = BPE(list(tokens.items()), list(specials.items()), merges, whole_first, pattern)
    except TokenizerError as error:
        raise TokenizerError(f"model: {error}") from None
    return core, Extras(template, plain, unk.value or None)


def _check_decoder(decoder: Field) -> None:
    """ByteLevel says what `Tokenizer.decode` does; null is an oversight of who made the file."""
    if decoder.value is None:
        return
    steps = list(decoder["decoders"].list()) if decoder["type"].value == "Sequence" else [decoder]
    for step in steps:
        if step["type"].value != "ByteLevel":
            raise step["type"].refuse("expected the decoder ByteLevel" + _ONLY)


def _model(model: Field) -> Field:
    """``model``, checked but for the merges."""
    if model["type"].value not in ("BPE", None):
        raise model["type"].refuse("expected BPE" + _ONLY)
    model.only(_MODEL)
    model.off("dropout is an option of encode here, not of the tokenizer; set it to null", "dropout")
    model.off("this is not byte-level BPE" + _ONLY, "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    for token, id in model["vocab"].mapping().items():
        if not is_id(id):
            raise model["vocab"][token].refuse(f"expected a token id, a whole number from 0 to {HIGHEST_ID}")
    return model


def _added_tokens(root: Field, model: Field) -> tuple[dict[str, int], frozenset[str]]:
    """The added tokens with their ids, and those of them that are not special."""
    vocab = model["vocab"].mapping()
    specials: dict[str, int] = {}
    plain: set[str] = set()
    passes: dict[bool, list[str]] = {False: [], True: []}
    highest = -1  # of the ids that were given so far
    for added in root["added_tokens"].list():
        added.only(["id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"])
        token, id = added["content"].text(), added["id"].id()
        if not token or token in specials:
            raise added["content"].refuse("added tokens are different from each other, and none is empty")
        for key in ("single_word", "lstrip", "rstrip"):
            if added[key].flag():
                raise added[key].refuse(f"Hornbook finds {token!r} wherever it stands and takes nothing beside it")
        # What `tokenizers` does: the vocabulary knows the id, or else it is the next free one.
        expected = vocab.get(token, highest + 1 if highest >= len(vocab) else len(vocab))
        if id != expected:
            where = "model.vocab says" if token in vocab else "`tokenizers` would give it"
            raise added["id"].refuse(f"{where} {expected} for {token!r}; write it so, or into model.vocab too")
        highest = max(highest, id)
        text = unspell(token) or b""
        if model["ignore_merges"].flag() and token in vocab and text != token.encode() and _is_text(text):
            raise added["content"].refuse(f"as a token of the vocabulary it also stands for {text.decode()!r}")
        passes[added["normalized"].flag()].append(token)
        specials[token] = id
        if not added["special"].flag():
            plain.add(token)
    for first in passes[False] if passes[True] else []:
        for second in passes[True]:
            if _overlap(first, second):
                raise root["added_tokens"].refuse(
                    f"{second!r} is normalized and {first!r} is not, so that it would be looked for first where "
                    "they overlap; give all of them the same value of normalized"
                )
    return specials, frozenset(plain)


def _overlap(a: str, b: str) -> bool:
    """Can two tokens lie across each other in a text?"""
    ends = range(1, min(len(a), len(b)))
    return a in b or b in a or any(a.endswith(b[:n]) or b.endswith(a[:n]) for n in ends)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _merges(model: Field, vocab: Mapping[str, int], specials: Collection[str]) -> list[tuple[int, int]]:
    """The merges, each as the ids of two tokens of the vocabulary."""
    merges = model["merges"]
    if merges.value is None:
        raise merges.refuse("expected the list of merges")
    merges.list()
    out: list[tuple[int, int]] = []
    for index, merge in enumerate(merges.value):
        parts = merge.split(" ") if type(merge) is str else merge if type(merge) is list else []
        try:
            left, right = parts
            vocab[left + right]
            out.append((vocab[left], vocab[right]))
        except (TypeError, ValueError, KeyError):
            if len(parts) != 2 or not all(isinstance(part, str) for part in parts):
                raise merges[index].refuse('expected two tokens, ["a", "b"] or "a b"') from None
            missing = next(token for token in (*parts, "".join(parts)) if token not in vocab)
            why = "is an added token" if missing in specials else "is not in the vocabulary"
            raise merges[index].refuse(f"it joins {parts[0]!r} and {parts[1]!r}, but {missing!r} {why}") from None
    if len(set(out)) < len(out):
        seen: set[tuple[int, int]] = set()
        index = next(i for i, pair in enumerate(out) if pair in seen or seen.add(pair))
        raise merges[index].refuse("this merge is listed before, and it is not clear which rank counts")
    return out
