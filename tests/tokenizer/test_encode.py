"""Encoding and decoding: the ids are tiktoken's, on everything, and no text is slow."""

from __future__ import annotations

import itertools
import random
import re
import time
from itertools import pairwise

import numpy as np
import pytest
from hornbook import CharTokenizer, Tokenizer
from hornbook.errors import TokenizerError
from hypothesis import given, settings
from hypothesis import strategies as st

NAMES = ("gpt2", "cl100k_base", "o200k_base")
MILLION = 1_000_000


@pytest.mark.parametrize("name", NAMES)
def test_ids_equal_tiktoken_on_odd_strings(tiktoken_encoding, odd_strings, name):
    theirs, ours = tiktoken_encoding(name), Tokenizer.from_tiktoken(name)
    for text in odd_strings:
        assert ours.encode_ordinary(text) == theirs.encode_ordinary(text), repr(text)


@pytest.mark.parametrize("name", NAMES)
def test_ids_equal_tiktoken_on_texts(tiktoken_encoding, data_folder, name):
    theirs, ours = tiktoken_encoding(name), Tokenizer.from_tiktoken(name)
    texts = [path.read_text() for path in sorted(data_folder.glob("*.txt")) + sorted(data_folder.glob("udhr/*.txt"))]
    assert len(texts) > 12
    for text in texts:
        assert ours.encode(text) == theirs.encode(text)


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k"])
def test_ids_equal_tiktoken_with_a_vocabulary_of_ours(trained, odd_strings, stdlib_text, pattern):
    pytest.importorskip("tiktoken")
    ours = trained[pattern]
    theirs = ours.to_tiktoken()
    assert theirs.n_vocab == ours.vocab_size
    assert ours.encode(stdlib_text) == theirs.encode(stdlib_text)
    differing = [t for t in odd_strings if ours.encode_ordinary(t) != theirs.encode_ordinary(t)]
    assert differing == []


@pytest.mark.parametrize("pattern", [r"\p{L}+", r"[a-z]+|\d", "^..|.$", r"(?<=a)b|x", None])
def test_ids_equal_tiktoken_with_any_regex(odd_strings, stdlib_text, pattern):
    """Text between two matches is a piece of its own here; to_tiktoken says so in its pattern."""
    pytest.importorskip("tiktoken")
    ours = Tokenizer.train([stdlib_text[:20_000]], 400, pattern=pattern)
    theirs = ours.to_tiktoken()
    for text in odd_strings[:3000]:
        ids = ours.encode_ordinary(text)
        assert ids == theirs.encode_ordinary(text), repr(text)
        assert ours.decode(ids) == text
    assert Tokenizer.from_tiktoken(theirs).encode_ordinary("abc 12") == theirs.encode_ordinary("abc 12")


def test_the_two_rules_differ_where_a_token_is_reached_in_another_way():
    """ "ab" and "abc" are tokens, and "abc" comes of "ab" + "c" in training. In "xbc" only the ranks join "b" + "c"."""
    letters = {bytes([b]): b for b in range(256)}
    vocab = letters | {b"bc": 256, b"ab": 257, b"abc": 258, b"xa": 259, b"xab": 260}
    merges = [(b"b", b"c"), (b"a", b"b"), (b"ab", b"c"), (b"x", b"a"), (b"xa", b"b")]
    by_merges = Tokenizer.from_vocab(vocab, merges)
    by_ranks = Tokenizer.from_tiktoken(by_merges.to_tiktoken())
    # a|bc is as far as the list goes; tiktoken takes a piece that is a token whole, and joins a + bc too.
    assert by_merges.decode_bytes([97, 256]) == b"abc"
    assert by_merges.encode("abc") == [97, 256]
    assert by_ranks.encode("abc") == [258] == by_merges.to_tiktoken().encode("abc")
    assert by_ranks.encode("zabc") == [ord("z"), 258] == by_merges.to_tiktoken().encode("zabc")
    assert by_merges.encode("zabc") == [ord("z"), 97, 256]
    assert (by_merges.rule, by_ranks.rule) == ("merges", "ranks")


WORST = {
    "a": "a" * MILLION,
    "space": " " * MILLION,
    "newline": "\n" * MILLION,
    "!": "!" * MILLION,
    "space and newline": " \n" * (MILLION // 2),
    "space and tab": " \t" * (MILLION // 2),
    "letters": "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=MILLION)),
    "zh": "中文字符" * (MILLION // 4),
    "marks": "\u0301" * MILLION,
    "Aa": "Aa" * (MILLION // 2),
    "marks and capitals": "\u0301A" * (MILLION // 2),
    "digits": "7" * MILLION,
    "wide space": "\u3000" * MILLION,
    "apostrophes": "'" * MILLION,
}


@pytest.mark.parametrize("name", NAMES)
def test_no_text_is_slow(tiktoken_encoding, name):
    """A bound that a quadratic step would break by far; tiktoken, where it survives, says the same."""
    theirs, ours = tiktoken_encoding(name), Tokenizer.from_tiktoken(name)
    for what, text in WORST.items():
        start = time.perf_counter()
        ids = ours.encode(text)
        took = time.perf_counter() - start
        assert took < 4, what  # 0.1–0.4 s alone; the machine may be busy
        if what in ("a", "space", "marks and capitals") or name == "o200k_base":
            try:
                expected = theirs.encode(text)
            except BaseException:
                assert ours.decode(ids) == text
            else:
                assert ids == expected, what
    text = " " * 2 * MILLION + "a"  # tiktoken panics
    ids = ours.encode(text)
    assert ours.decode(ids) == text


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k", None])
def test_no_text_is_slow_with_a_vocabulary_of_ours(trained, stdlib_text, pattern):
    tok = trained[pattern] if pattern else Tokenizer.train([stdlib_text[:50_000]], 500, pattern=None)
    for what, text in WORST.items():
        start = time.perf_counter()
        ids = tok.encode(text)
        assert time.perf_counter() - start < 4, what
        assert tok.decode(ids) == text


def test_a_regex_that_backtracks_too_long_is_an_exception(stdlib_text):
    tok = Tokenizer.train([stdlib_text[:10_000]], 300, pattern=r"\s+(?!\S)|\s+|\S+")
    with pytest.raises(TokenizerError, match="gave up"):
        tok.encode(" " * 3 * MILLION + "a")
    assert tok.decode(tok.encode("still   fine")) == "still   fine"


texts = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(list(" \n\r\t'abcdestlrvm/10é中\u0301 "))),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(text=texts, chunk=st.integers(1, 7))
def test_properties(trained, text, chunk):
    plain = {"disallowed_special": ()}  # hypothesis tries the strings of this project, special tokens among them
    for tok in trained.values():
        ids = tok.encode(text, **plain)
        assert tok.decode(ids) == text
        assert tok.decode_bytes(np.array(ids, np.int32)) == text.encode()
        assert tok.encode_to_numpy(text, **plain).tolist() == ids
        # streams
        decoder = tok.stream_decoder()
        assert "".join([decoder.push(id) for id in ids]) + decoder.finish() == text
        chunks = [text[i : i + chunk] for i in range(0, len(text), chunk)]
        assert list(tok.encode_iterable(chunks, **plain)) == ids
        # offsets
        same, spans = tok.encode_with_offsets(text, unit="byte", **plain)
        assert same == ids
        raw = text.encode()
        assert [raw[a:b] for a, b in spans] == [tok.vocab[id] for id in ids]
        assert [a for a, _ in spans] == [0, *[b for _, b in spans[:-1]]][: len(spans)]
        same, chars = tok.encode_with_offsets(text, **plain)
        assert same == ids
        for (a, b), (start, end) in zip(spans, chars, strict=True):
            before, through = len(text[:start].encode()), len(text[:end].encode())
            assert before <= a < b <= through
            assert len(text[: start + 1].encode()) > a
            assert len(text[: end - 1].encode()) < b


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 1999), max_size=40))
def test_any_ids_stream_like_they_decode(trained, ids):
    """Also ids that are no text: half characters, wrong bytes."""
    tok = trained["cl100k"]
    decoder = tok.stream_decoder()
    pushed = [decoder.push(id) for id in ids]
    assert "".join(pushed) + decoder.finish() == tok.decode(ids)


@settings(max_examples=50, deadline=None)
@given(batch=st.lists(texts, max_size=12), threads=st.integers(1, 4))
def test_batches_equal_single_texts(trained, batch, threads):
    tok = trained["o200k"]
    singles = [tok.encode(text) for text in batch]
    assert tok.encode_batch(batch, threads) == singles
    ids, offsets = tok.encode_batch_to_numpy(batch, num_threads=threads)
    assert ids.dtype == np.uint16
    assert offsets.dtype == np.int64
    assert [ids[a:b].tolist() for a, b in pairwise(offsets)] == singles
    assert tok.decode_batch(singles) == batch


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k"])
def test_long_texts_are_shared_by_threads(trained, stdlib_text, odd_strings, pattern, threads):
    """They are cut where no piece and no special token is cut, and what is not allowed is seen in any part."""
    tok = trained[pattern]
    eot = "<|endoftext|>"
    long = stdlib_text[:700_000] + eot + "".join(odd_strings[:3000]) + eot + "x" * 300_000 + eot
    batch = ["", long, "a", "", *stdlib_text[:3000].splitlines(), long]
    choice = {"allowed_special": "all"}
    want = [tok.encode(text, **choice) for text in batch]
    assert tok.encode_batch(batch, threads, **choice) == want
    ids, offsets = tok.encode_batch_to_numpy(batch, threads, **choice)
    assert ids.tolist() == [i for one in want for i in one]
    assert np.diff(offsets).tolist() == [len(one) for one in want]
    with pytest.raises(TokenizerError, match="endoftext"):
        tok.encode_batch(["a" * 100_000, long], threads)


def test_large_batches_on_threads(trained, stdlib_text):
    tok = trained["cl100k"]
    batch = [stdlib_text[i : i + 5000] for i in range(0, 600_000, 5000)]
    assert tok.encode_batch(batch, num_threads=3) == [tok.encode(text) for text in batch]
    with pytest.raises(TokenizerError, match="endoftext"):
        tok.encode_batch([*batch, "x<|endoftext|>"], num_threads=3)


def test_encode_iterable_keeps_little(trained, stdlib_text):
    """Ids come soon after their text, however the chunks fall."""
    tok = trained["cl100k"]
    seen = 0

    def chunks():
        nonlocal seen
        for i in range(0, 200_000, 1000):
            seen = i
            yield stdlib_text[i : i + 1000]

    done, behind = 0, 0
    for id in tok.encode_iterable(chunks()):
        done += len(tok.vocab[id])
        behind = max(behind, seen - done)
    assert behind < 3000
    assert list(tok.encode_iterable(["a" * 1000] * 300)) == tok.encode("a" * 300_000)


def test_surrogates_are_read_as_tiktoken_reads_them(trained):
    tok = trained["gpt2"]
    assert tok.encode("a\ud800b") == tok.encode("a\ufffdb")
    assert tok.encode("\ud83d\ude00") == tok.encode("\U0001f600")
    assert tok.encode_batch(["\udfff", "x"]) == [tok.encode("\ufffd"), tok.encode("x")]
    assert list(tok.encode_iterable(["a\ud83d", "\ude00b\ud83d"])) == tok.encode("a\U0001f600b\ufffd")
    Tokenizer.train(["a\ud800b"], 300)


@settings(max_examples=300)
@given(text=st.text(st.sampled_from("a é中😀\ud83d\ude00\udfff\ud800"), max_size=12))
def test_offsets_of_surrogates_are_those_of_the_text_given(trained, text):
    """Two surrogates that make a pair are one character for the tokenizer, and two in the text."""
    clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    simple = CharTokenizer.train([clean or "x"])
    pairs = [m.group() for m in re.finditer("[\ud800-\udbff][\udc00-\udfff]|.", text)]
    ends = list(itertools.accumulate(map(len, pairs)))
    assert simple.encode_with_offsets(text)[1] == list(zip([0, *ends], ends, strict=False))
    if text.isascii() or text == clean:
        return
    ids, chars = trained["gpt2"].encode_with_offsets(text)
    same, spans = trained["gpt2"].encode_with_offsets(clean)
    assert ids == same == trained["gpt2"].encode(text)
    begins = [0, *ends]
    assert chars == [(begins[start], begins[end]) for start, end in spans]
    bytes_ = trained["gpt2"].encode_with_offsets(text, unit="byte")[1]
    assert bytes_ == trained["gpt2"].encode_with_offsets(clean, unit="byte")[1]


def test_offsets_of_a_pair(trained):
    assert trained["gpt2"].encode_with_offsets("\ud800é")[1][-1] == (1, 2)
    for tok in (trained["gpt2"], CharTokenizer.train(["😀 ab"])):
        spans = tok.encode_with_offsets("\ud83d\ude00 ab")[1]
        assert spans[0] == (0, 2)
        assert spans[-1][1] == 5


def test_what_a_regex_does_not_match_is_kept_but_by_the_ranks_of_tiktoken():
    vocab = {i: bytes([i]) for i in range(256)}
    for pattern in ("gpt2", "cl100k", "o200k", None, r"\p{L}+"):
        tok = Tokenizer.from_vocab(vocab, [], pattern=pattern)
        assert tok.decode(tok.encode("a 1, é!\n\n")) == "a 1, é!\n\n"
    tiktoken = pytest.importorskip("tiktoken")
    mergeable = {token: id for id, token in vocab.items()}
    theirs = tiktoken.Encoding("x", pat_str=r"\p{L}+", mergeable_ranks=mergeable, special_tokens={})
    ours = Tokenizer.from_tiktoken(theirs)
    assert ours.decode(ours.encode("a 1, é!")) == "aé" == theirs.decode(theirs.encode("a 1, é!"))


def test_decoding_says_what_is_wrong(trained):
    tok = trained["gpt2"]
    for bad in (2000, -1, 10**30):
        with pytest.raises(TokenizerError, match="id"):
            tok.decode([0, bad])
    with pytest.raises(TokenizerError, match=r"2000.*outside 0\.\.2000"):
        tok.decode_bytes([2000])
    with pytest.raises(TokenizerError, match="one dimension"):
        tok.decode(np.zeros((2, 3), np.int64))
    with pytest.raises(TokenizerError, match="integers"):
        tok.decode(np.zeros(3))
    with pytest.raises(TokenizerError, match="single id"):
        tok.decode(7)
    with pytest.raises(UnicodeDecodeError):
        tok.decode(tok.encode("é")[:1] if len(tok.encode("é")) > 1 else [188 + 50], errors="strict")
    assert tok.decode([]) == ""
    assert tok.decode(range(10)) == tok.decode(list(range(10)))


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.int32, np.int64, np.uint8])
def test_decoding_takes_arrays(trained, kind):
    ids = [1, 2, 3, 200]
    assert trained["gpt2"].decode(np.array(ids, kind)) == trained["gpt2"].decode(ids)
    assert trained["gpt2"].decode(np.array(ids * 2, kind)[::2]) == trained["gpt2"].decode((ids * 2)[::2])


def test_decoding_takes_tensors(trained):
    torch = pytest.importorskip("torch")
    assert trained["gpt2"].decode(torch.tensor([1, 2, 3])) == trained["gpt2"].decode([1, 2, 3])


def test_text_must_be_text(trained):
    for call in (trained["gpt2"].encode, trained["gpt2"].encode_ordinary, trained["gpt2"].encode_to_numpy):
        with pytest.raises(TokenizerError, match="expected text"):
            call(b"bytes")
    with pytest.raises(TokenizerError, match="single one"):
        trained["gpt2"].encode_batch("text")
    for call in ("encode_batch", "encode_batch_to_numpy", "count_tokens_batch"):
        for before in ("a", "\ud800"):
            with pytest.raises(TokenizerError, match=r"expected text.*NoneType"):
                getattr(trained["gpt2"], call)([before, None])
    with pytest.raises(TokenizerError, match="unit"):
        trained["gpt2"].encode_with_offsets("a", unit="chars")


def test_wide_vocabularies_are_uint32(tiktoken_encoding):
    assert Tokenizer.from_tiktoken("cl100k_base").encode_to_numpy("hello world").dtype == np.uint32
    assert Tokenizer.from_tiktoken("gpt2").encode_to_numpy("hello world").tolist() == [31373, 995]


def test_other_threads_run_during_encoding(trained, stdlib_text):
    import threading

    stop, ticks = threading.Event(), []

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.002)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    trained["cl100k"].encode_to_numpy(stdlib_text * 8)
    end = time.perf_counter()
    stop.set()
    thread.join()
    assert len([t for t in ticks if start <= t <= end]) > 5


def test_threads_share_a_tokenizer(trained, stdlib_text):
    from concurrent.futures import ThreadPoolExecutor

    tok = trained["cl100k"]
    parts = [stdlib_text[i : i + 20_000] for i in range(0, 800_000, 20_000)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(tok.encode, parts)) == [tok.encode(part) for part in parts]
