"""Whatever comes in, a Python exception of a sensible class comes out, and the tokenizer goes on working."""

from __future__ import annotations

import array
import random
import re
from itertools import product

import numpy as np
import pytest
from hornbook import HornbookError, Tokenizer
from hornbook.errors import DataError, TokenizerError

# A panic of Rust is a BaseException that is no Exception: it would go through `except Exception` and fail the test.
SENSIBLE = (HornbookError, TypeError, ValueError, OverflowError, LookupError)


def shown(value: object) -> str:
    """A name of a test, the same in every process."""
    return re.sub(" at 0x[0-9a-f]+", "", ascii(value))


NO_TEXT = [None, 0, 1.5, float("nan"), True, b"bytes", bytearray(b"x"), memoryview(b"x"), [], ["a"], {}, object(), str]
NO_TEXT += [np.array("text"), np.array(["a", "b"]), np.zeros(3), lambda: "text", "text".encode]
NO_TEXTS = [
    None,
    3,
    "text",
    b"bytes",
    [None],
    [b"a"],
    ["a", 1],
    [["a"]],
    {"a": 1}.items(),
    [np.nan],
    object(),
    float("nan"),
]
ODD_TEXTS = [
    "",
    "\0",
    "\0" * 70,
    "\ud800",
    "a\udfffb",
    "\ud83d\ude00",
    "\ude00\ud83d",
    "\ufffe\uffff",
    "\U0010ffff" * 50,
]
ODD_TEXTS += ["\u0301" * 1000, "'" * 1000, "\r" * 1000, np.str_("numpy's"), type("Text", (str,), {})("a subclass")]
NO_IDS = [
    None,
    7,
    1.5,
    float("nan"),
    "12",
    [1.5],
    [None],
    ["1"],
    [[1]],
    [float("nan")],
    [float("inf")],
    object(),
    {"a": 1},
]
NO_IDS += [
    [-1],
    [1 << 31],
    [1 << 32],
    [1 << 63],
    [1 << 64],
    [10**30],
    [-(10**30)],
    [2000],
    range(1990, 2010),
]
NO_IDS += [
    np.array([0.0]),
    np.array([1], bool),
    np.array([1j]),
    np.array(["a"]),
    np.array([None]),
    np.array(7),
    np.zeros((2, 2), int),
]
NO_IDS += [
    np.array([-1]),
    np.array([2**64 - 1], np.uint64),
    np.array([2**63], np.uint64),
    np.array([1], "datetime64[s]"),
]
NO_IDS += [
    np.array([(1, 2)], [("a", int), ("b", int)]),
    np.array([2**32 + 5]),
    np.array([-(2**63)]),
]


def outcome(call, *args, **options):
    """What a call returns or raises. Anything that is no sensible exception goes on."""
    try:
        return call(*args, **options)
    except SENSIBLE as error:
        return error


@pytest.fixture(autouse=True)
def still_works(trained):
    yield
    for tok in trained.values():
        assert tok.decode(tok.encode("It still works, doesn't it?\n\n  été")) == "It still works, doesn't it?\n\n  été"


@pytest.mark.parametrize("text", NO_TEXT, ids=shown)
def test_what_is_no_text(trained, text):
    tok = trained["cl100k"]
    calls = [tok.encode, tok.encode_ordinary, tok.encode_to_numpy, tok.encode_with_offsets]
    for call in [*calls, lambda text: list(tok.encode_iterable([text]))]:
        with pytest.raises(TokenizerError, match=r"expected text \(str\), got"):
            call(text)
    with pytest.raises(TokenizerError, match="expected text"):
        tok.encode_batch(["a", text])


@pytest.mark.parametrize("texts", NO_TEXTS, ids=shown)
def test_what_is_no_batch_of_texts(trained, texts):
    tok = trained["cl100k"]
    for call in [tok.encode_batch, tok.encode_batch_to_numpy]:
        assert isinstance(outcome(call, texts), (TokenizerError, TypeError))


@pytest.mark.parametrize("text", ODD_TEXTS, ids=shown)
def test_odd_texts(trained, text):
    clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    for tok in trained.values():
        ids = tok.encode(text)
        assert tok.decode(ids) == clean
        assert tok.encode_to_numpy(text).tolist() == ids
        assert tok.encode_batch([text, text], 2) == [ids, ids]
        assert tok.encode_with_offsets(text)[0] == ids
        assert list(tok.encode_iterable([text])) == list(tok.encode_iterable(list(text))) == ids
        tok.train([text + " "], 300)


def test_two_million_spaces(trained):
    """tiktoken panics on them."""
    text = " " * 2_000_000
    for tok in trained.values():
        ids = tok.encode(text + "a")
        assert tok.encode_batch([text + "a"] * 2, 2) == [ids, ids]
        assert list(tok.encode_iterable([text, "a"])) == ids
        same, spans = tok.encode_with_offsets(text + "a")
        assert same == ids
        assert spans[-1][1] == len(text) + 1
        assert tok.decode(ids) == text + "a"
    assert Tokenizer.train([text], 300).decode([256]) == "  "


@pytest.mark.parametrize("ids", NO_IDS, ids=shown)
def test_what_is_no_list_of_ids(trained, ids):
    tok = trained["gpt2"]
    for call in [tok.decode, tok.decode_bytes, lambda ids: tok.decode_batch([[1], ids])]:
        error = outcome(call, ids)
        assert isinstance(error, (TokenizerError, TypeError)), f"{ids!r} gave {error!r}"


@pytest.mark.parametrize("id", [None, -1, 2000, 1 << 70, 1.5, float("nan"), "1", np.array([1, 2])], ids=shown)
def test_what_is_no_id_for_a_stream(trained, id):
    decoder = trained["gpt2"].stream_decoder()
    first = decoder.push(1)
    outcome(decoder.push, id)
    assert first + decoder.push(2) + decoder.finish() == trained["gpt2"].decode([1, 2])


def strided(kind: str) -> list[np.ndarray]:
    """The ids 10 to 13 in arrays that lie in memory in many ways."""
    ids = np.arange(10, 14).astype(kind)
    wide = np.zeros((4, 3), kind)
    wide[:, 1] = ids
    packed = np.zeros(4, np.dtype([("a", "u1"), ("id", kind)]))
    packed["id"] = ids
    frozen = ids.copy()
    frozen.flags.writeable = False
    return [ids, ids[::-1][::-1], wide[:, 1], packed["id"], frozen, np.repeat(ids, 2)[::2], np.asarray(memoryview(ids))]


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "<u2", ">u2", "i4", ">i4", "u4", "i8", ">i8", "u8", ">u8"])
def test_ids_in_arrays_of_any_layout(trained, kind):
    tok = trained["gpt2"]
    for ids in strided(kind):
        assert tok.decode(ids) == tok.decode([10, 11, 12, 13])
    for ids in [array.array("H", [10, 11]), array.array("q", [10, 11]), (10, 11), iter([10, 11]), {10: 0, 11: 0}]:
        assert tok.decode(ids) == tok.decode([10, 11])
    assert tok.decode(np.array([], kind)) == tok.decode(np.array([])) == ""


def test_sources_that_break(trained):
    """What a generator raises comes out as it is, whoever was reading."""
    tok = trained["cl100k"]

    class BrokenError(Exception):
        pass

    def chunks(error):
        yield "some text that is long enough to be encoded"
        raise error

    for error in (BrokenError("mine"), KeyboardInterrupt(), TokenizerError("mine"), MemoryError()):
        for call in [
            tok.encode_batch,
            tok.encode_batch_to_numpy,
            tok.decode_batch,
            lambda source: list(tok.encode_iterable(source)),
            lambda source: Tokenizer.train(source, 300),
        ]:
            source = chunks(error)
            if call == tok.decode_batch:
                source = ([1] if isinstance(item, str) else item for item in source)
            with pytest.raises(type(error)):
                call(source)


def test_a_stream_may_be_left_and_used_by_whoever_encodes(trained):
    tok = trained["cl100k"]

    def chunks():
        for word in ["one ", "two ", "three "] * 9:
            yield word + tok.decode(tok.encode(word))  # in the middle of a call of the same tokenizer

    half = tok.encode_iterable(chunks())
    next(half)
    half.close()
    assert list(tok.encode_iterable(chunks())) == tok.encode("".join(chunks()))


CHOICES = [
    None,
    1,
    1.5,
    float("nan"),
    "some",
    b"all",
    [],
    [1],
    [None],
    {"unknown"},
    ["\ud800"],
    [""],
    {"": 1},
    object(),
]


@pytest.mark.parametrize("choice", CHOICES, ids=shown)
def test_odd_choices_of_special_tokens(trained, choice):
    tok = trained["cl100k"]
    for call, text in product([tok.encode, tok.encode_to_numpy, tok.encode_with_offsets], ["", "a<|endoftext|>\ud800"]):
        outcome(call, text, allowed_special=choice)
        outcome(call, text, disallowed_special=choice)
        outcome(call, text, allowed_special=choice, disallowed_special=choice)


@pytest.mark.parametrize(
    "options",
    [
        *({"vocab_size": size} for size in [None, -1, 0, 256, 1.5, float("nan"), "300", 1 << 40, 10**30, [300], True]),
        *({"special_tokens": tokens} for tokens in [None, 3, [1], [None], [b"x"], [""], ["a", "a"], "text"]),
        *({"pattern": pattern} for pattern in [1, b"gpt2", "(", "[", "(?<x", "*", "\\", [], "\ud800"]),
        *({"tie": tie} for tie in [None, "", 1, "none", ["raw"]]),
        *({"num_threads": threads} for threads in [-1, 0, 1.5, "2", 1 << 40, float("nan"), [1]]),
        {"progress": 3},
    ],
    ids=shown,
)
def test_odd_options_of_training(options):
    error = outcome(Tokenizer.train, ["some text " * 400_000], **{"vocab_size": 300, **options})
    assert isinstance(error, (HornbookError, TypeError, ValueError)), f"{options} gave {error!r}"


@pytest.mark.parametrize(
    "source", [None, 3, 1.5, b"text", [1], [None], ["a", b"b"], object(), float("nan"), "no\0file", [b"x"]], ids=shown
)
def test_odd_sources(source):
    with pytest.raises((DataError, TypeError, ValueError)):
        Tokenizer.train(source, 300)


def test_special_tokens_that_are_odd():
    for tokens in [
        ["\0"],
        ["\ud800"],
        ["é"],
        [" "],
        ["a" * 100_000],
        [f"<{i}>" for i in range(3000)],
        ["<|a|>", "<|a|>b"],
    ]:
        tok = outcome(Tokenizer.train, ["some text"], 5000, special_tokens=tokens)
        if isinstance(tok, Tokenizer):
            assert tok.encode(f"x{tokens[-1]}b", allowed_special="all")[-2] == tok.special_tokens[tokens[-1]]


BYTES = {id: bytes([id]) for id in range(256)}


@pytest.mark.parametrize(
    ("vocab", "merges", "special_tokens"),
    [
        (None, [], ()),
        ([], [], ()),
        ({}, [], ()),
        ({0: "a"}, [], ()),
        ({float("nan"): b"a"}, [], ()),
        (BYTES | {-1: b"aa"}, [], ()),
        (BYTES | {1 << 40: b"aa"}, [], ()),
        (BYTES | {10**30: b"aa"}, [], ()),
        (BYTES | {256: b""}, [], ()),
        (BYTES, None, ()),
        (BYTES, [1], ()),
        (BYTES, [(b"a",)], ()),
        (BYTES, [(b"a", b"b", b"c")], ()),
        (BYTES, [("a", "b")], ()),
        (BYTES, [(b"a", b"b")], ()),
        (BYTES, [(None, b"b")], ()),
        (BYTES, [], None),
        (BYTES, [], [1]),
        (BYTES, [], {"<s>": -1}),
        (BYTES, [], {"<s>": 10**30}),
        (BYTES, [], {"<s>": 65}),
        (BYTES, [], {"<s>": 300, "<t>": 300}),
        (BYTES, [], {"": 300}),
        (BYTES, [], {1: 300}),
        (BYTES, [], ["a", "a"]),
    ],
)
def test_odd_vocabularies(vocab, merges, special_tokens):
    error = outcome(Tokenizer.from_vocab, vocab, merges, special_tokens)
    assert isinstance(error, Exception), f"made {error!r}"


def test_random_calls(trained):
    """Everything with everything, some thousands of times."""
    tok, rng = trained["o200k"], random.Random(11)
    anything = [*NO_TEXT, *NO_TEXTS, *ODD_TEXTS, *NO_IDS, *CHOICES, "all", "a<|endoftext|>", [1, 2], ["a", "b"], 2]
    methods = [
        "encode",
        "encode_ordinary",
        "encode_to_numpy",
        "encode_batch",
        "encode_batch_to_numpy",
        "encode_with_offsets",
    ]
    methods += ["decode", "decode_bytes", "decode_batch", "encode_iterable"]
    names = ["allowed_special", "disallowed_special", "num_threads", "unit", "errors"]
    for _ in range(6000):
        options = {rng.choice(names): rng.choice(anything) for _ in range(rng.choice([0, 0, 1, 2]))}
        made = outcome(getattr(tok, rng.choice(methods)), rng.choice(anything), **options)
        if hasattr(made, "__next__"):
            outcome(list, made)
