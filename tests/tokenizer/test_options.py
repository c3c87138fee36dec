"""Options of encoding: limits, counts without ids, streams, dropout."""

import collections
import itertools
import threading
import weakref

import hornbook as hb
import numpy as np
import pytest
from hornbook.errors import TokenizerError

TEXT = "It was the best of times, it was the worst of times; 天地玄黄 <|endoftext|> naïve 12345\n\n  end"


@pytest.fixture(scope="module")
def tok():
    return hb.Tokenizer.train([TEXT * 3, "the times of the best, of the worst " * 5], 330)


def test_max_tokens_is_a_beginning(tok):
    ids = tok.encode_ordinary(TEXT)
    for most in (0, 1, 5, len(ids) - 1, len(ids), len(ids) + 9):
        options = {"disallowed_special": (), "max_tokens": most}
        assert tok.encode(TEXT, **options) == ids[:most]
        assert tok.encode_to_numpy(TEXT, **options).tolist() == ids[:most]
        assert tok.encode_batch([TEXT, "", TEXT], **options) == [ids[:most], [], ids[:most]]
        flat, offsets = tok.encode_batch_to_numpy([TEXT, "", TEXT], **options)
        assert flat.tolist() == ids[:most] * 2
        assert np.diff(offsets).tolist() == [min(most, len(ids)), 0, min(most, len(ids))]
    special = tok.encode(TEXT, allowed_special="all")
    at = special.index(tok.eot_id)
    assert tok.encode(TEXT, allowed_special="all", max_tokens=at + 1) == special[: at + 1]


def test_what_is_not_allowed_raises_behind_max_tokens_too(tok):
    for call in (tok.encode, tok.encode_to_numpy, lambda text, **options: tok.encode_batch([text], **options)):
        with pytest.raises(TokenizerError, match="special token"):
            call(TEXT, max_tokens=1)
    assert tok.encode(TEXT, disallowed_special=(), max_tokens=2**63 - 1) == tok.encode_ordinary(TEXT)


def test_max_tokens_of_long_texts_and_threads(tok):
    texts = [TEXT * 5000, "a " * 300_000, TEXT]
    whole = tok.encode_batch(texts, disallowed_special=())
    for threads in (1, 3):
        assert tok.encode_batch(texts, threads, disallowed_special=(), max_tokens=999) == [ids[:999] for ids in whole]


def test_counts_are_lengths(tok):
    texts = ["", TEXT, "a" * 10_000, TEXT * 4000]
    for options in ({"disallowed_special": ()}, {"allowed_special": "all"}):
        lengths = [len(tok.encode(text, **options)) for text in texts]
        assert tok.count_tokens_batch(texts, **options) == lengths
        assert tok.count_tokens_batch(iter(texts), 3, **options) == lengths
        assert [tok.count_tokens(text, **options) for text in texts] == lengths
    with pytest.raises(TokenizerError, match="special token"):
        tok.count_tokens(TEXT)
    assert tok.count_tokens("\ud800") == len(tok.encode("\ud800"))


def test_streams_give_what_batches_give(tok):
    texts = [TEXT, "", "x" * 500, *(str(i) for i in range(1000))]
    flat, offsets = tok.encode_batch_to_numpy(texts, disallowed_special=())
    for chunk in (1, 700, 1 << 20):
        parts = list(tok.encode_stream_to_numpy(iter(texts), disallowed_special=(), chunk_bytes=chunk))
        assert np.concatenate([ids for ids, _ in parts]).tolist() == flat.tolist()
        lengths = np.concatenate([np.diff(ends) for _, ends in parts])
        assert lengths.tolist() == np.diff(offsets).tolist()
        assert (len(parts) > 3) == (chunk < 1000)
    assert list(tok.encode_stream_to_numpy([])) == []
    with pytest.raises(TokenizerError, match="expected text"):
        list(tok.encode_stream_to_numpy(["text", None]))
    with pytest.raises(TokenizerError, match="special token"):
        list(tok.encode_stream_to_numpy([TEXT]))
    endless = tok.encode_stream_to_numpy(itertools.repeat("word " * 100), chunk_bytes=10_000)
    assert len(next(endless)[1]) == len(next(endless)[1])


def test_streams_let_go_of_texts(tok):
    class Text(str):
        __slots__ = ("__weakref__",)

    alive = weakref.WeakSet()

    def texts():
        for i in range(100):
            text = Text(f"text {i} " * 100)
            alive.add(text)
            yield text
            del text

    for ids, _ in tok.encode_stream_to_numpy(texts(), chunk_bytes=5000):
        assert len(ids) > 100
        assert len(alive) <= 1
    assert len(alive) == 0


def test_big_arrays_are_handed_over_and_may_be_written(tok):
    texts = [TEXT * 300] * 9
    flat, offsets = tok.encode_batch_to_numpy(texts, disallowed_special=())
    ids = tok.encode_ordinary(texts[0])
    assert flat.dtype == np.uint16
    assert flat.tolist() == ids * 9
    flat[:] = 7  # memory of its own, so nothing else changes
    assert tok.encode_batch_to_numpy(texts, disallowed_special=())[0].tolist() == ids * 9
    kept = tok.encode_batch_to_numpy(texts, disallowed_special=())[0][100:200]
    del flat, offsets
    assert kept.tolist() == (ids * 9)[100:200]


def test_dropout_of_nothing_and_of_everything(tok):
    ids = tok.encode_ordinary(TEXT)
    options = {"disallowed_special": ()}
    assert tok.encode(TEXT, dropout=0.0, seed=3, **options) == ids
    assert tok.encode(TEXT, dropout=1.0, **options) == _bytes(tok, TEXT)
    half = tok.encode(TEXT, dropout=0.5, seed=1, **options)
    assert half != ids
    assert tok.decode(half) == TEXT
    assert half == tok.encode(TEXT, dropout=0.5, seed=1, **options) != tok.encode(TEXT, dropout=0.5, seed=2, **options)
    assert tok.encode_to_numpy(TEXT, dropout=0.5, seed=1, **options).tolist() == half
    marked = tok.encode(TEXT, dropout=1.0, allowed_special="all")
    assert tok.eot_id in marked
    assert tok.decode(marked) == TEXT


def _bytes(tok, text):
    of = {token: id for id, token in tok.vocab.items()}
    return [of[bytes([byte])] for byte in text.encode()]


def test_pieces_that_fill_batches_exactly():
    """A regex's pieces come 256 at a time, and behind the last full batch comes no empty one."""
    tok = hb.Tokenizer.train(["a b"], 258, pattern=r"[a-z]|\s")
    for pieces in (256, 256 * 1023):
        ids = tok.encode("a" * pieces)
        assert ids == tok.encode("a") * pieces
        assert tok.encode("a" * pieces, dropout=0.1, seed=1) == ids
        assert tok.encode_with_offsets("a" * pieces)[0] == ids


def test_dropout_does_not_depend_on_threads(tok):
    texts = [TEXT * n for n in (1, 3000, 2, 500, 1, 1, 2000)]
    one = tok.encode_batch(texts, 1, disallowed_special=(), dropout=0.3, seed=5)
    assert one == tok.encode_batch(texts, 4, disallowed_special=(), dropout=0.3, seed=5)
    assert one[0] != one[4]  # the same text, but another one of the batch
    assert [tok.decode(ids) for ids in one] == texts


def test_dropout_is_distributed_as_in_tokenizers(tok, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    tok.save(tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs.model.dropout = 0.4
    draws = 6000
    counts = [collections.Counter(), collections.Counter()]
    for seed in range(draws):
        counts[0][tuple(tok.encode(" times", dropout=0.4, seed=seed))] += 1
        counts[1][tuple(theirs.encode(" times").ids)] += 1
    assert len(counts[0]) > 5
    # Both are samples of one distribution: a chi-square test over the common outcomes, at far beyond its 99.9 %.
    common = [ids for ids in counts[0] | counts[1] if counts[0][ids] + counts[1][ids] >= 20]
    chi2 = sum((counts[0][ids] - counts[1][ids]) ** 2 / (counts[0][ids] + counts[1][ids]) for ids in common)
    assert chi2 < len(common) + 4 * (2 * len(common)) ** 0.5


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": -1},
        {"max_tokens": 1.5},
        {"max_tokens": 2**63},
        {"max_tokens": 2**64},
        {"dropout": -0.1},
        {"dropout": 1.1},
        {"dropout": float("nan")},
        {"dropout": "0.1"},
        {"seed": -1, "dropout": 0.1},
        {"seed": 2**64, "dropout": 0.1},
    ],
)
def test_bad_options_are_clear_errors(tok, options):
    name = next(iter(options))
    for call in (tok.encode, tok.encode_to_numpy):
        with pytest.raises(TokenizerError, match=name):
            call("text", **options)
    for call in (tok.encode_batch, tok.encode_batch_to_numpy):
        with pytest.raises(TokenizerError, match=name):
            call(["text"], **options)


def test_bad_sets_and_sizes_are_clear_errors(tok):
    with pytest.raises(TokenizerError, match="disallowed_special"):
        tok.encode("text", disallowed_special={5})
    for size in (0, -1, "x"):
        with pytest.raises(TokenizerError, match="chunk_bytes"):
            list(tok.encode_stream_to_numpy(["text"], chunk_bytes=size))
    with pytest.raises(TokenizerError, match="max_token_length"):
        hb.Tokenizer.train(["text"], 300, max_token_length=2**64)
    assert hb.Tokenizer.train(["abab"], 258, max_token_length=2**63 - 1).merges == [(b"a", b"b")]


def test_an_error_in_one_text_ends_the_batch(tok):
    texts = ["word " * 50_000] * 5 + ["<|endoftext|>"] + ["word " * 50_000] * 5
    for threads in (1, 4):
        with pytest.raises(TokenizerError, match="special token"):
            tok.encode_batch(texts, threads)
        assert len(tok.encode_batch(texts, threads, allowed_special="all")) == 11  # and all is well again


def test_many_python_threads_share_one_tokenizer(tok):
    texts = [TEXT * n for n in range(1, 30)]
    expected = [tok.encode_ordinary(text) for text in texts]
    wrong = []

    def work():
        for text, ids in zip(texts, expected, strict=True):
            if tok.encode_ordinary(text) != ids or tok.encode_batch([text], 2, disallowed_special=()) != [ids]:
                wrong.append(text)

    threads = [threading.Thread(target=work) for _ in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong
