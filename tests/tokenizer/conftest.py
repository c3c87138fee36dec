"""Texts and vocabularies that the tokenizer's tests share.

Real data lies in the folder that HORNBOOK_DATA names; what needs it is skipped without it. The sources of the
standard library are always there.
"""

from __future__ import annotations

import json
import os
import random
import sysconfig
import unicodedata
from pathlib import Path

import pytest
from hornbook import Tokenizer
from hornbook.tokenizer.huggingface import BYTE_OF_CHAR
from hornbook.tokenizer.oniguruma import to_oniguruma

PATTERNS = ("gpt2", "cl100k", "o200k")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    folder = os.environ.get("HORNBOOK_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("HORNBOOK_DATA names no folder: no texts and vocabularies to compare on")
    return Path(folder)


@pytest.fixture(scope="session")
def tiktoken_encoding(data_folder):
    """A function from a name to tiktoken's encoding, read from the data folder."""
    cache = data_folder / "tiktoken_cache"
    if not cache.is_dir():
        pytest.skip(f"no tiktoken_cache in {data_folder}")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(cache)
    tiktoken = pytest.importorskip("tiktoken")
    return tiktoken.get_encoding


@pytest.fixture(scope="session")
def stdlib_text() -> str:
    """Some 2 MB of Python, the same for a given interpreter."""
    folder = Path(sysconfig.get_path("stdlib"))
    parts = [path.read_text("utf-8") for path in sorted(folder.glob("*.py"))[:100]]
    return "".join(parts)[:2_000_000]


@pytest.fixture(scope="session")
def trained(stdlib_text) -> dict[str, Tokenizer]:
    """A tokenizer for each pattern, trained on the standard library."""
    return {p: Tokenizer.train([stdlib_text], 2000, pattern=p) for p in PATTERNS}


@pytest.fixture(scope="session")
def odd_strings() -> list[str]:
    """20,000 strings that try to be unlike text: all planes, marks, white space, digits, contractions, runs."""
    rng = random.Random(20_000)
    assigned = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    marks = [c for c in assigned if unicodedata.category(c).startswith("M")]
    digits = [c for c in assigned if unicodedata.category(c).startswith("N")]
    cased = [c for c in assigned if unicodedata.category(c) in ("Lu", "Ll", "Lt", "Lm")]
    spaces = [c for c in map(chr, range(0x3001)) if c.isspace()]
    ascii_ = [chr(c) for c in range(128)]
    words = ["the", "I'M", "don't", "we'LL", "they've", "'tis", "x'Ss", "'ſt", "Straße", "中文", "にほん", "한국", "и"]
    pools = [assigned, marks, digits, cased, spaces, ascii_, words, [" ", "\n", "\r\n", "\t"], ["'", "/", "!", "_"]]
    everything = [lambda: chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)]))]
    everything += [lambda pool=pool: rng.choice(pool) for pool in pools]
    everything.append(lambda: rng.choice(rng.choice(pools)) * rng.randrange(1, 9))
    strings = []
    for _ in range(20_000):
        makers = rng.sample(everything, rng.randint(1, 4))
        strings.append("".join(rng.choice(makers)() for _ in range(rng.randrange(0, 30))))
    return strings


@pytest.fixture(scope="session")
def hf_trained():
    """A function of (texts, vocab_size, pattern) and options of theirs: Hugging Face's trainer on the texts."""
    pytest.importorskip("tokenizers")
    return _hf_trained


def _hf_trained(texts, vocab_size, pattern, **options):
    """What Hugging Face's trainer makes of the texts: its tokenizer, merges and vocabulary as bytes."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    core = Tokenizer.train(["x"], 256, pattern=pattern, special_tokens=())._core
    regex = core.oniguruma if core.known_scanner or pattern is None else to_oniguruma(pattern)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = tokenizers.Tokenizer(models.BPE())
    if regex is None:
        tokenizer.pre_tokenizer = byte_level
    else:
        split = pre_tokenizers.Split(tokenizers.Regex(regex), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        special_tokens=[],
        **options,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]

    def plain(token):
        return token.translate(BYTE_OF_CHAR).encode("latin-1")

    merges = [tuple(map(plain, m if isinstance(m, list) else m.split(" "))) for m in model["merges"]]
    return tokenizer, merges, {id: plain(token) for token, id in model["vocab"].items()}
