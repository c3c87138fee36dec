"""Comparing tokenizers: every number again in plain Python, and never-reached tokens by trying all texts."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter

import numpy as np
import pytest
from hornbook import CharTokenizer, Tokenizer, WordTokenizer
from hornbook.errors import DataError, TokenizerError
from hornbook.tokenizer import compare as module
from hornbook.tokenizer.compare import ALL, compare, words
from hornbook.tokenizer.reach import REASONS, never_reached

BYTES = {i: bytes([i]) for i in range(256)}
NEVER = {0xC0, 0xC1, *range(0xF5, 0x100)}  # bytes that UTF-8 does not have


@pytest.fixture(scope="module")
def two(stdlib_text):
    return {
        "small": Tokenizer.train([stdlib_text[:50_000]], 400, pattern="gpt2"),
        "large": Tokenizer.train([stdlib_text[:50_000]], 900, pattern="cl100k", special_tokens=["<s>", "<pad>"]),
    }


@pytest.fixture(scope="module")
def texts(stdlib_text):
    return {
        "code": [stdlib_text[60_000:75_000], "", stdlib_text[80_000:85_000]],
        "prose": "“The fox’s home”, <s> said the hen — 3.5 miles away! " * 40,
        "日本": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
    }


def test_every_number_again_in_plain_python(two, texts):
    found = compare(two, texts)
    assert list(found.texts) == ["code", "prose", "日本", ALL]
    assert [report.name for report in found.tokenizers] == ["small", "large"]
    used: dict[str, set[int]] = {name: set() for name in two}
    totals = dict.fromkeys(two, 0)
    for text, documents in texts.items():
        documents = [documents] if isinstance(documents, str) else documents
        size, characters = sum(len(d.encode()) for d in documents), sum(map(len, documents))
        assert (found.texts[text].bytes, found.texts[text].characters) == (size, characters)
        tokens = {}
        for report, tok in zip(found.tokenizers, two.values(), strict=True):
            ids = [id for document in documents for id in tok.encode_ordinary(document)]
            tokens[report.name] = len(ids)
            totals[report.name] += len(ids)
            used[report.name] |= set(ids)
            measure = report.measures[text]
            assert measure.tokens == len(ids)
            assert measure.bytes_per_token == pytest.approx(size / len(ids))
            assert measure.characters_per_token == pytest.approx(characters / len(ids))
            assert measure.ratio.value == pytest.approx(len(ids) / tokens["small"])
            counted = words(documents)
            if text == "日本":
                assert counted is measure.tokens_per_word is measure.whole_words is None
                continue
            occurring = list(counted.elements())
            assert found.texts[text].words == len(occurring)
            lengths = [len(tok.encode_ordinary(" " + word)) for word in occurring]
            assert measure.tokens_per_word == pytest.approx(sum(lengths) / len(lengths))
            assert measure.whole_words == pytest.approx(lengths.count(1) / len(lengths))
    for report, tok in zip(found.tokenizers, two.values(), strict=True):
        ordinary = {id: token for id, token in tok.vocab.items() if id not in tok.special_tokens.values()}
        assert report.unused == sorted(ordinary.keys() - used[report.name])
        assert report.lengths == dict(sorted(Counter(map(len, ordinary.values())).items()))
        assert (report.vocab_size, report.special_tokens) == (tok.vocab_size, len(tok.special_tokens))
        assert report.measures[ALL].tokens == totals[report.name]
    assert found.texts[ALL].bytes == sum(text.bytes for name, text in found.texts.items() if name != ALL)
    (shared,) = found.shared
    a, b = ({token for id, token in tok.vocab.items() if id not in tok.special_tokens.values()} for tok in two.values())
    assert (shared.tokens, shared.share) == (len(a & b), pytest.approx(len(a & b) / len(a | b)))
    again = json.loads(json.dumps(found.to_json()))
    assert again["tokenizers"][1]["measures"]["code"]["tokens"] == found.tokenizers[1].measures["code"].tokens
    assert again["tokenizers"][0]["never_reached"][0] == {
        "id": 124,  # the bytes are in GPT-2's order
        "token": "<c0>",
        "reason": "bytes",
        "becomes": ["<c0>"],
    }


def test_words_are_what_stands_between_spaces():
    assert words(["“The fox’s home”, said: (the) 3.5 -- x_y!\n\tthe"]) == Counter(
        {"The": 1, "fox’s": 1, "home": 1, "said": 1, "the": 2, "3.5": 1, "x_y": 1}
    )
    assert words(["हिन्दी में।", "हिन्दी"]) == Counter({"हिन्दी": 2, "में": 1})  # vowel signs belong to the word
    assert words(["ሰላም፡ለዓለም።"]) == Counter({"ሰላም": 1, "ለዓለም": 1})
    assert words(["한국어 단어"]) == Counter({"한국어": 1, "단어": 1})
    for unspaced in ["我们的 GPU 很快很快", "ไทย คำ", "にほんご"]:
        assert words([unspaced]) is None
    assert words(["", "...", " \n"]) == Counter()


def test_intervals():
    """Equal tokenizers: no spread. Independent blocks: the spread that the delta method says."""
    tok = Tokenizer.train(["the then than"], 262)
    text = "the then than when there. " * 400
    same = compare({"a": tok, "b": tok}, {"t": text})
    ratio = same.tokenizers[1].measures["t"].ratio
    assert (ratio.value, ratio.low, ratio.high) == (1.0, 1.0, 1.0)
    short = compare({"a": tok}, {"t": "the then than " * 20}).tokenizers[0].measures["t"].ratio
    assert (short.value, short.low, short.high) == (1.0, None, None)
    rng = np.random.default_rng(0)
    first, second = rng.integers(80, 120, 200), rng.integers(60, 140, 200)
    ratio = module._ratio(second, first, 0)
    value = second.sum() / first.sum()
    error = np.std(second - value * first, ddof=1) / np.sqrt(200) / first.mean()
    assert ratio.value == pytest.approx(value)
    assert ratio.low == pytest.approx(value - 1.96 * error, abs=0.15 * 1.96 * error)
    assert ratio.high == pytest.approx(value + 1.96 * error, abs=0.15 * 1.96 * error)
    assert module._ratio(second, first, 0) == ratio
    assert module._ratio(second, first, 1) != ratio


def test_blocks_hold_the_tokens_that_begin_in_them(two, texts):
    """The blocks of the bootstrap are the same bytes for every tokenizer."""
    sample = module._Sample("code", texts["code"])
    assert sample.blocks == 40
    for tok in two.values():
        _, blocks, _ = module._encode(tok, [sample])
        expected, place = [0] * sample.blocks, 0
        for document in sample.documents:
            for id in tok.encode_ordinary(document):
                expected[place * sample.blocks // sample.bytes] += 1
                place += len(tok.vocab[id])
        assert blocks["code"].tolist() == expected


def test_other_kinds_of_tokenizers():
    text = "the cat sat on the mat, and the cat sat."
    three = {
        "char": CharTokenizer.train([text]),
        "word": WordTokenizer.train([text], vocab_size=6),
        "bpe": Tokenizer.train([text], 270),
    }
    found = compare(three, {"t": text * 300, "u": [text, text]})
    by_name = {report.name: report for report in found.tokenizers}
    assert by_name["char"].measures["t"].characters_per_token == 1
    assert by_name["char"].never_reached == by_name["word"].never_reached == []
    assert by_name["word"].pattern == "WordTokenizer"
    assert by_name["word"].measures["u"].tokens == 2 * len(three["word"].encode(text))


def test_what_cannot_be_compared(two):
    with pytest.raises(TokenizerError, match="no tokenizer"):
        compare({}, {"t": "text"})
    with pytest.raises(DataError, match="expected some texts"):
        compare(two, {})
    with pytest.raises(DataError, match="none is called 'all'"):
        compare(two, {"all": "text"})
    with pytest.raises(DataError, match="'t' is empty"):
        compare(two, {"t": ["", ""]})
    nothing = Tokenizer.from_tiktoken(
        pytest.importorskip("tiktoken").Encoding(
            "x", pat_str="b+", mergeable_ranks={v: k for k, v in BYTES.items()}, special_tokens={}
        )
    )
    with pytest.raises(TokenizerError, match="'n' makes no tokens of the text 't'"):
        compare({"n": nothing}, {"t": "aaa"})


# ---- never reached ----


def brute(tok: Tokenizer, letters: str, longest: int) -> set[int]:
    """The ids that occur in any text of these letters."""
    texts = ["".join(t) for n in range(1, longest + 1) for t in itertools.product(letters, repeat=n)]
    ids, _ = tok.encode_batch_to_numpy(texts)
    return set(ids.tolist())


@pytest.mark.parametrize("pattern", [None, r"a+|b+|[ac]b", r"[ab]|c+"])
@pytest.mark.parametrize("rule", ["merges", "ranks"])
def test_what_no_text_reaches_is_what_is_found(pattern, rule, tmp_path):
    """Vocabularies put together by chance, against all texts of seven letters."""
    tiktoken = pytest.importorskip("tiktoken")
    rng = random.Random(f"{pattern}{rule}")
    seen: Counter[str] = Counter()
    for _ in range(10 if rule == "merges" else 4):
        tokens = [b"a", b"b", b"c"]
        merges: list[tuple[bytes, bytes]] = []
        for _ in range(rng.randrange(1, 9)):
            left, right = rng.choice(tokens), rng.choice(tokens)
            if len(left + right) < 5 and left + right not in tokens:
                tokens.append(left + right)
                merges.append((left, right))
        extra = bytes(rng.choice(b"abc") for _ in range(3))  # a token that no merge makes
        vocab = BYTES | {256 + i: token for i, token in enumerate(dict.fromkeys([*tokens[3:], extra]))}
        tok = Tokenizer.from_vocab(vocab, merges, pattern=pattern)
        if rule == "ranks" and pattern:
            ranks = {token: id for id, token in vocab.items()}
            encoding = tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
            tok = Tokenizer.from_tiktoken(encoding)
        elif rule == "ranks":
            tok.save(tmp_path / "x.tiktoken")
            tok = Tokenizer.load(tmp_path / "x.tiktoken")
        reached = brute(tok, "abc", 7)
        found = {token.id: token for token in never_reached(tok)}
        assert {id for id in found if id > 255} == set(range(256, len(vocab))) - reached
        # tiktoken drops what the pattern does not match: then no other letter comes up either.
        others = set(range(256)) - reached if rule == "ranks" and pattern else NEVER
        assert {id for id in found if id < 256} == others
        for token in found.values():
            seen[token.reason] += token.id > 255
            assert token.token == tok.vocab[token.id]
            assert b"".join(token.becomes) == token.token
            if token.reason == "merges":
                assert len(token.becomes) > 1
    assert seen["merges"] > 3 or rule == "ranks"
    assert seen["pattern"] > 3 or pattern is None


def test_the_reasons():
    abc = Tokenizer.from_vocab(
        BYTES | {256: b"bc", 257: b"ab", 258: b"abc"}, [(b"b", b"c"), (b"a", b"b"), (b"ab", b"c")], pattern=None
    )
    by_id = {found.id: found for found in never_reached(abc)}
    assert by_id[258].reason == "merges"
    assert by_id[258].becomes == (b"a", b"bc")
    assert by_id[0xC0].reason == "bytes"
    assert by_id.keys() == NEVER | {258}
    spaced = Tokenizer.from_vocab(
        BYTES | {256: b" b", 257: b"a b", 258: b"  "}, [(b" ", b"b"), (b"a", b" b"), (b" ", b" ")]
    )
    (last,) = (found for found in never_reached(spaced) if found.id > 255)
    assert (last.id, last.reason, last.becomes) == (257, "pattern", (b"a b",))
    odd = Tokenizer.from_vocab(BYTES | {256: b"a\x80", 257: b"\xff\xff"}, [(b"a", b"\x80"), (b"\xff", b"\xff")])
    assert {found.id: found.reason for found in never_reached(odd) if found.id > 255} == {256: "bytes", 257: "bytes"}
    assert {found.reason for found in [*by_id.values(), last]} < set(REASONS)
    for tok in (abc, spaced, odd):
        special = Tokenizer.from_vocab(tok.vocab, tok.merges, ["<s>"], pattern=tok.pattern)
        assert [f.id for f in never_reached(special)] == [f.id for f in never_reached(tok)]


def test_parts_of_characters():
    """Tokens that end inside a character, against all texts of two characters."""
    letters = "абвгдежзийклмнопрстуфхцчшщъыьэюя中丂七"
    tok = Tokenizer.train([letters * 3, "абаба вода 中七"], 330, pattern="cl100k", special_tokens=())
    found = {token.id for token in never_reached(tok)}
    reached = brute(tok, letters, 2)
    assert not found & reached
    parts = {id for id, token in tok.vocab.items() if len(token) > 1 and not is_text(token)}
    assert len(parts) > 5
    # All of the Cyrillic ones were tried by force; what was found beyond that is found with other characters.
    assert {id for id in parts - reached if tok.vocab[id][0] in (0xD0, 0xD1)} >= found & parts
    # A byte that only ever begins one character, and joins with what follows: it never stands alone.
    lone = Tokenizer.from_vocab(
        BYTES | {256 + i: bytes([0xC2, 0x80 + i]) for i in range(64)},
        [(b"\xc2", bytes([0x80 + i])) for i in range(64)],
        pattern=None,
    )
    assert {f.id: f.reason for f in never_reached(lone) if f.id not in NEVER} == {0xC2: "neighbours"}


def is_text(token: bytes) -> bool:
    try:
        token.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("name", ["gpt2", "cl100k_base", "o200k_base"])
def test_published_vocabularies(tiktoken_encoding, name):
    """All but the bytes that UTF-8 does not have, and one token of o200k, come up in some text."""
    tok = Tokenizer.from_tiktoken(name)
    found = never_reached(tok)
    assert {token.token for token in found if token.reason == "bytes"} == {bytes([b]) for b in NEVER}
    left = [(token.token, token.reason) for token in found if token.reason != "bytes"]
    assert left == ([("о".encode() + b"\xd0", "neighbours")] if name == "o200k_base" else [])
