"""tokenizer.json: what Hugging Face's `tokenizers` and `transformers` read and write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .._core import BPE, known_pattern
from ..errors import TokenizerError
from .base import EOT

if TYPE_CHECKING:
    from .bpe import Tokenizer

# GPT-2 writes a byte as one visible character: printable Latin-1 as itself, the others from U+0100 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
CHAR_OF_BYTE = {byte: byte for byte in _PRINTABLE}
CHAR_OF_BYTE |= {byte: 0x100 + i for i, byte in enumerate(b for b in range(256) if b not in CHAR_OF_BYTE)}
BYTE_OF_CHAR = {char: byte for byte, char in CHAR_OF_BYTE.items()}


def to_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of a tokenizer.json that gives the same ids (special tokens are always read as such there)."""
    specials = tokenizer.special_tokens
    # Special tokens are in the vocabulary too: only so does `tokenizers` keep ids that leave holes.
    vocab: dict[str, int] = {}
    for id, token in tokenizer.vocab.items():
        if id not in specials.values():
            vocab[token.decode("latin-1").translate(CHAR_OF_BYTE)] = id
    for token, id in specials.items():
        if token in vocab:
            raise TokenizerError(
                f"the special token {token!r} is spelled like an ordinary token, and tokenizer.json cannot hold both; "
                'save with format="tiktoken"'
            )
        vocab[token] = id
    merges = [
        f"{left.decode('latin-1').translate(CHAR_OF_BYTE)} {right.decode('latin-1').translate(CHAR_OF_BYTE)}"
        for left, right in tokenizer.merges
    ]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    regex = tokenizer._core.oniguruma
    if regex is not None and not tokenizer._core.known_scanner:
        regex = to_oniguruma(regex)
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    if regex != tokenizer._core.oniguruma:
        split["hornbook"] = tokenizer.pattern  # as it was before it was spelled anew; others ignore the key
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": id, "content": token, **flags} for token, id in sorted(specials.items(), key=lambda item: item[1])
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level if regex is None else {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": tokenizer.rule != "merges",
            "vocab": dict(sorted(vocab.items(), key=lambda item: item[1])),
            "merges": merges,
        },
    }


def config(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of tokenizer_config.json, without which transformers' AutoTokenizer does not find its class."""
    content: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000_000_000,
    }
    if tokenizer.eot_id is not None:
        content |= {"bos_token": EOT, "eos_token": EOT}
    return content


def from_json(content: Mapping[str, Any]) -> BPE:
    """A tokenizer from the content of a tokenizer.json. Raises TokenizerError for anything it could not do exactly."""
    model = content["model"]
    if model.get("type", "BPE") != "BPE":
        raise _foreign(f"its model is {model['type']}, not BPE")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(key):
            raise _foreign(f"its model has {key}={model[key]!r}")
    normalizer = content.get("normalizer")
    if normalizer and not (normalizer.get("type") == "Sequence" and not normalizer.get("normalizers")):
        raise _foreign(f"it normalizes text ({normalizer.get('type')})")
    pattern = _pattern(content.get("pre_tokenizer"))
    specials: dict[str, int] = {}
    for token in content.get("added_tokens") or []:
        for key in ("single_word", "lstrip", "rstrip"):
            if token.get(key):
                raise _foreign(f"its added token {token['content']!r} has {key}")
        specials[token["content"]] = token["id"]
    vocab: dict[str, int] = {token: id for token, id in model["vocab"].items() if specials.get(token) != id}
    tokens: list[tuple[int, bytes]] = []
    for token, id in vocab.items():
        try:
            tokens.append((id, token.translate(BYTE_OF_CHAR).encode("latin-1")))
        except UnicodeEncodeError:
            raise _foreign(f"its token {token!r} is not spelled in GPT-2's alphabet of bytes") from None
    merges: list[tuple[int, int]] = []
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        if left not in vocab or right not in vocab:
            raise TokenizerError(f"merge {rank} joins {left!r} and {right!r}, which are not both in the vocabulary")
        merges.append((vocab[left], vocab[right]))
    return BPE(tokens, list(specials.items()), merges, bool(model.get("ignore_merges")), pattern)


def _foreign(what: str) -> TokenizerError:
    return TokenizerError(
        f"{what}. Hornbook loads byte-level BPE without normalizers, as GPT-2, Llama 3 or Qwen have it, and rather "
        "refuses than gives other ids; use the package tokenizers for this one"
    )


def _pattern(pre: Mapping[str, Any] | None) -> str | None:
    """The pattern of a pre-tokenizer: ByteLevel alone, or one Split and then ByteLevel."""
    steps = [pre] if pre and pre.get("type") != "Sequence" else (pre or {}).get("pretokenizers", [])
    if not steps or steps[-1].get("type") != "ByteLevel":
        raise _foreign("its pre-tokenizer does not end with ByteLevel")
    last = steps[-1]
    if last.get("add_prefix_space", True):
        raise _foreign("it puts a space before the text (add_prefix_space)")
    if last.get("use_regex", True):
        if len(steps) > 1:
            raise _foreign("it splits text more than once")
        return "gpt2"
    if len(steps) == 1:
        return None
    split = steps[0]
    if len(steps) > 2 or split.get("type") != "Split":
        raise _foreign(f"its pre-tokenizer is a sequence of {[step.get('type') for step in steps]}")
    kind, text = next(iter(split["pattern"].items()))
    if kind != "Regex":
        raise _foreign("it splits at a fixed string")
    own = split.get("hornbook")
    if own and to_oniguruma(own) == text and (split.get("behavior"), split.get("invert")) == ("Isolated", False):
        return known_pattern(own)[0]
    spelling, known = known_pattern(text) if "(?m" not in text else (text, False)
    regex = text if known else from_oniguruma(text)
    behavior, invert = split.get("behavior"), bool(split.get("invert"))
    # Matches that cover all text can be kept by keeping the matches, too.
    if (behavior, invert) == ("Isolated", False) or (known and (behavior, invert) == ("Removed", True)):
        return spelling if known else known_pattern(regex)[0]
    raise _foreign(f"its Split has behavior {behavior!r} and invert={invert}")


# Word characters, which Oniguruma and our regexes see a little differently: all but these are the same.
_WORD = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}"
_OURS = _WORD + r"\x{200C}\x{200D}"
_THEIRS = _WORD + r"\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE}"


def to_oniguruma(regex: str) -> str:
    """A regex of ours in the spelling of Oniguruma: there ``^`` and ``$`` are about lines."""
    return _respell(regex, {"^": r"\A", "$": r"\z"}, _OURS)


def from_oniguruma(regex: str) -> str:
    """A regex of Oniguruma's in ours."""
    return _respell(regex, {"^": "(?m:^)", "$": "(?m:$)"}, _THEIRS)


def _respell(regex: str, changed: Mapping[str, str], word: str) -> str:
    """Replaces anchors outside of classes and writes out what a word character is; refuses what else differs."""
    out: list[str] = []
    depth = 0  # of brackets
    at = 0
    while at < len(regex):
        char = regex[at]
        two = regex[at : at + 2]
        if char == "\\":
            if two in (r"\h", r"\R", r"\X", r"\Z", r"\G", r"\K"):
                raise _different(two)
            if two == r"\w":
                two = word if depth else f"[{word}]"
            elif two == r"\W":
                two = f"[^{word}]"
            out.append(two)
            at += 2
            continue
        if char == "[":
            depth += 1
        elif char == "]":
            depth = max(0, depth - 1)
        elif depth == 0:
            if two == "}+" and out and "{" in out:
                raise _different("{n,m}+")
            if two == "(?":
                flags = regex[at + 2 :].split(")")[0].split(":")[0]
                if flags.replace("-", "").isalpha() and set(flags) & set("msxR"):
                    raise _different(f"(?{flags}")
            char = changed.get(char, char)
        out.append(char)
        at += 1
    return "".join(out)


def _different(what: str) -> TokenizerError:
    return TokenizerError(
        f"the pattern holds {what}, which the regexes of `tokenizers` and of Hornbook read differently; write it in "
        "another way, for instance (?>x{1,3}) for x{1,3}+"
    )
