"""Vocabularies that nobody would train, in files: what loads has the ids of the library whose format it is."""

from __future__ import annotations

import base64
import json
import os

import pytest
from hornbook import Tokenizer
from hornbook.errors import TokenizerError
from hornbook.tokenizer.huggingface import CHAR_OF_BYTE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

BYTES = [bytes([byte]) for byte in range(256)]
TEXTS = ["the then\n\n  there 12345 don't ", "é中 \n \t", "aaaaaaab bbbb abab  \r\n", "a", "", "ab" * 700, "aab" * 500]
letters = st.lists(st.sampled_from([*"ab ", *"the"]), min_size=1, max_size=6).map("".join).map(str.encode)
joins = st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=16)
QUIET = {"max_examples": 150, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


def loaded(path) -> Tokenizer | None:
    """The tokenizer, or None if the file is refused; the error names it."""
    try:
        return Tokenizer.load(path, pattern="gpt2")
    except TokenizerError as error:
        message = str(error)
    assert str(path.parent) in message
    return None


@st.composite
def rank_lines(draw) -> list[bytes]:
    """The lines of a .tiktoken file: all bytes and some tokens, in any order, ids in any order and with holes."""
    tokens = [*BYTES, *dict.fromkeys(token for token in draw(st.lists(letters, max_size=20)) if len(token) > 1)]
    ids = draw(st.permutations(range(len(tokens))) | st.just(range(len(tokens))))
    step = draw(st.sampled_from([1, 1, 3]))
    lines = [base64.b64encode(token) + b" %d" % (id * step) for token, id in zip(tokens, ids, strict=True)]
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(lines)))
        other = draw(st.sampled_from(lines))
        wrong = [other, b"", other + b" 7", other[:-1], other.replace(b" ", b"  "), other.upper(), b"YQ== -1", b"=== 5"]
        lines[at:at] = [draw(st.sampled_from([*wrong, b"YWE= 99999999999999999999", b"YWE= 1e3", b"\xff 5"]))]
    return draw(st.permutations(lines)) if draw(st.booleans()) else lines


@settings(**QUIET)
@given(lines=rank_lines(), ending=st.sampled_from([b"\n", b"\r\n"]))
def test_tiktoken_files(lines, ending, tmp_path):
    tiktoken = pytest.importorskip("tiktoken")
    from tiktoken.load import load_tiktoken_bpe

    file = tmp_path / "some.tiktoken"
    file.write_bytes(ending.join(lines))
    ours = loaded(file)
    if ours is None:
        return
    os.environ["TIKTOKEN_CACHE_DIR"], before = (
        "",
        os.environ.get("TIKTOKEN_CACHE_DIR"),
    )  # else it would be cached by name
    try:
        ranks = load_tiktoken_bpe(str(file))
    finally:
        os.environ.pop("TIKTOKEN_CACHE_DIR")
        if before is not None:
            os.environ["TIKTOKEN_CACHE_DIR"] = before
    assert {token: id for id, token in ours.vocab.items()} == ranks
    theirs = tiktoken.Encoding("some", pat_str=ours._core.regex, mergeable_ranks=ranks, special_tokens={})
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text), text
        assert ours.decode(ours.encode(text)) == text


def spelt(token: bytes) -> str:
    return token.decode("latin-1").translate(CHAR_OF_BYTE)


@settings(**QUIET)
@given(joins=joins, order=st.randoms(use_true_random=False), rename=st.booleans(), spoil=st.integers(0, 12))
def test_vocab_and_merges(joins, order, rename, spoil, tmp_path):
    """Merges in any order, before those of their parts too, the same token made twice, ids in any order."""
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import models, pre_tokenizers

    tokens = [b"a", b"b", b"t", b"h", b"e", b" "]
    pairs = []
    for left, right in joins:
        pairs.append((tokens[left % len(tokens)], tokens[right % len(tokens)]))
        if sum(map(len, pairs[-1])) > 12:
            pairs.pop()
        elif b"".join(pairs[-1]) not in tokens:
            tokens.append(b"".join(pairs[-1]))
    tokens = [*BYTES, *(token for token in tokens if len(token) > 1)]
    if rename:
        order.shuffle(tokens)
        order.shuffle(pairs)
    vocab = {spelt(token): id for id, token in enumerate(tokens)}
    merges = [f"{spelt(left)} {spelt(right)}" for left, right in dict.fromkeys(pairs)]
    if spoil == 1:
        vocab.popitem()
    elif spoil == 2:
        merges.insert(0, order.choice(["a", "a b c", "a zz", " a", "#", "\ufeff"]))
    elif spoil == 3:
        vocab[order.choice(list(vocab))] = order.choice([0, -1, 1 << 40, 10**30, 1.5, None, "1", [1]])
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), "utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{merge}\n" for merge in merges), "utf-8")
    ours = loaded(tmp_path / "vocab.json")
    if ours is None:
        assert spoil in (1, 2, 3)
        return
    try:
        bpe = models.BPE.from_file(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    except Exception:
        assert spoil in (1, 2, 3)
        return
    theirs = tokenizers.Tokenizer(bpe)
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in TEXTS:
        assert ours.encode_ordinary(text) == theirs.encode(text).ids, (text, merges)
        assert ours.decode(ours.encode_ordinary(text)) == text
