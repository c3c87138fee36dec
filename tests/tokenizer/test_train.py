"""Training: the same merges as Hugging Face, from any kind of source, in any number of threads."""

from __future__ import annotations

import logging
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from hornbook import HornbookError, Tokenizer
from hornbook.errors import DataError, TokenizerError

PATTERNS = ("gpt2", "cl100k", "o200k")


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("vocab_size", [1000, 8000])
def test_merges_equal_hugging_face_on_shakespeare(data_folder, hf_trained, pattern, vocab_size):
    text = (data_folder / "tinyshakespeare.txt").read_text()
    tok = Tokenizer.train([text], vocab_size, pattern=pattern, special_tokens=())
    _, merges, vocab = hf_trained([text], vocab_size, pattern)
    assert tok.merges == merges
    assert tok.vocab == vocab


@pytest.mark.parametrize("pattern", PATTERNS)
def test_merges_equal_hugging_face_on_the_standard_library(stdlib_text, hf_trained, pattern):
    texts = stdlib_text[:600_000].splitlines(keepends=True)
    tok = Tokenizer.train(texts, 1500, pattern=pattern, special_tokens=())
    _, merges, vocab = hf_trained(texts, 1500, pattern)
    assert tok.merges == merges
    assert tok.vocab == vocab


def test_merges_equal_hugging_face_where_counts_tie_and_runs_overlap(hf_trained, caplog):
    caplog.set_level(logging.ERROR)
    rng = random.Random(5)
    for _ in range(300):
        alphabet = rng.choice(["a", "ab", "aab", "abc"])
        lengths = [rng.choice([3, 8, 20, 60]) for _ in range(rng.choice([1, 2, 5, 20]))]
        texts = ["".join(rng.choices(alphabet, k=n)) for n in lengths]
        vocab_size = 256 + rng.randint(1, 40)
        tok = Tokenizer.train(texts, vocab_size, pattern=None, special_tokens=())
        _, merges, vocab = hf_trained(texts, vocab_size, None)
        assert (tok.merges, tok.vocab) == (merges, vocab), texts


@pytest.mark.slow
def test_merges_equal_hugging_face_on_more_text(data_folder, hf_trained):
    text = (data_folder / "kjv.txt").read_text() + "".join(
        path.read_text() for path in sorted((data_folder / "udhr").glob("*.txt"))
    )
    for pattern in [*PATTERNS, r"\w+|\s+|[^\w\s]+"]:
        tok = Tokenizer.train([text], 20_000, pattern=pattern, special_tokens=())
        _, merges, vocab = hf_trained([text], 20_000, pattern)
        assert tok.merges == merges
        assert tok.vocab == vocab


def test_ids_are_bytes_then_merges_then_special_tokens():
    tok = Tokenizer.train(["so much depends upon"], 260, special_tokens=("<|a|>", "<|b|>"))
    assert tok.vocab[0] == b"!"
    assert tok.vocab[188] == b"\0"
    assert tok.vocab[256] == b"".join(tok.merges[0])
    assert tok.special_tokens == {"<|a|>": 258, "<|b|>": 259}
    assert len(tok) == tok.vocab_size == len(tok.vocab) == 260
    assert len(tok.merges) == 2


@pytest.mark.parametrize("pattern", [*PATTERNS, r"\w+|\W+", None])
def test_sources_and_threads_do_not_matter(tmp_path, stdlib_text, pattern):
    text = stdlib_text[:700_000] + "<|endoftext|>" + stdlib_text[700_000:900_000] + "é中\r\n"
    if pattern is None:
        text = text[:30_000]
    half = text.index("<|endoftext|>") if "<|endoftext|>" in text else text.index("\n", 10_000)
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_bytes(text.encode())
    two.write_bytes(b"more text")
    first = Tokenizer.train([text, "more text"], 700, pattern=pattern, num_threads=1)
    assert first == Tokenizer.train(iter([text, "more text"]), 700, pattern=pattern, num_threads=3)
    assert first == Tokenizer.train([one, two], 700, pattern=pattern, num_threads=2)
    if "<|endoftext|>" in text:
        parts = [text[:half], text[half + len("<|endoftext|>") :], "more text"]
        assert first == Tokenizer.train(parts, 700, pattern=pattern)
    assert Tokenizer.train(str(one), 300, pattern=pattern) == Tokenizer.train([text], 300, pattern=pattern)


def test_special_tokens_are_never_merged_across():
    tok = Tokenizer.train(["ab<|x|>ab<|x|>ab<|x|>"] * 9, 300, special_tokens=["<|x|>"], pattern=None)
    assert tok.merges == [(b"a", b"b")]


def test_a_file_is_read_in_windows(tmp_path):
    """A file of several windows, with a character, a word and a special token across each edge or nearly."""
    file = tmp_path / "big.txt"
    text = "".join(f"wört{i % 977}<|endoftext|>nächstes\r\n  {i} 中文" for i in range(300_000))
    file.write_bytes(text.encode())
    assert file.stat().st_size > 9 << 20
    assert Tokenizer.train(file, 600, num_threads=1) == Tokenizer.train([text], 600, num_threads=2)


def test_too_little_text_stops_early_with_a_warning(caplog):
    tok = Tokenizer.train(["abab"], 1000)
    assert tok.vocab_size == 259
    assert "vocab_size is 259" in caplog.text


def test_the_smallest_vocabulary_is_bytes():
    tok = Tokenizer.train(["anything"], 257)
    assert tok.merges == []
    assert tok.decode(tok.encode("änything")) == "änything"


@pytest.mark.parametrize("source", [[], [""], iter(()), ["", ""]])
def test_no_text_is_an_error(source):
    with pytest.raises(DataError, match="no text to train on"):
        Tokenizer.train(source, 300)


def test_bad_sources_are_clear_errors(tmp_path):
    with pytest.raises(DataError, match=r"no such file.*pass \[text\]"):
        Tokenizer.train("to be or not to be", 300)
    with pytest.raises(DataError, match="in this folder"):
        Tokenizer.train(tmp_path, 300)
    with pytest.raises(DataError, match="item 1 of the source is int"):
        Tokenizer.train(["a", 3], 300)
    with pytest.raises(DataError, match="bytes"):
        Tokenizer.train(b"text", 300)
    broken = tmp_path / "broken.txt"
    broken.write_bytes(b"caf\xc3\xa9 and caf\xe9 again")
    with pytest.raises(DataError, match="0xe9 at offset 13"):
        Tokenizer.train(broken, 300)
    broken.write_bytes(b"cut off \xe4\xb8")
    with pytest.raises(DataError, match="offset 8"):
        Tokenizer.train([broken], 300)

    def failing():
        yield "text"
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        Tokenizer.train(failing(), 300)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vocab_size": 256}, "at least 257"),
        ({"vocab_size": "300"}, "vocab_size"),
        ({"tie": "hugginface"}, "did you mean"),
        ({"pattern": "(unclosed"}, "not a regex"),
        ({"special_tokens": "<|x|>"}, "sequence"),
        ({"special_tokens": ["<|x|>", "<|x|>"]}, "twice"),
        ({"special_tokens": [""]}, "not empty"),
    ],
)
def test_bad_options_are_clear_errors(options, words):
    with pytest.raises(TokenizerError, match=words) as caught:
        Tokenizer.train(["text"], **{"vocab_size": 300, **options})
    assert isinstance(caught.value, HornbookError)
    assert isinstance(caught.value, ValueError)


def test_a_pattern_that_gives_up_is_an_error():
    with pytest.raises(TokenizerError, match="gave up"):
        Tokenizer.train(["a" * 40], 300, pattern=r"(a|a)*\1b")


def test_progress_is_told(stdlib_text):
    calls = []
    Tokenizer.train([stdlib_text], 1000, progress=lambda *call: calls.append(call))
    assert {phase for phase, _, _ in calls} == {"count", "merge"}
    assert calls[-1] == ("merge", 743, 743)
    with pytest.raises(ZeroDivisionError):
        Tokenizer.train([stdlib_text], 1000, progress=lambda *_: 1 / 0)


def test_other_threads_run_during_training(stdlib_text):
    assert_others_run(lambda: Tokenizer.train([stdlib_text] * 60, 8000, num_threads=1))


def assert_others_run(work):
    """Another Python thread goes on counting while ``work`` runs."""
    stop, ticks = threading.Event(), []

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.002)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    work()
    end = time.perf_counter()
    stop.set()
    thread.join()
    inside = [t for t in ticks if start <= t <= end]
    assert end - start > 0.05, "too fast to tell"
    assert len(inside) > 5


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals to a subprocess are another thing there")
@pytest.mark.parametrize(
    "work",
    [
        "hb.Tokenizer.train(('word%d ' % i * 9 for i in range(10**9)), 5000)",
        "hb.Tokenizer.train([''.join(random.choices('abcdefgh', k=30_000_000))], 60_000, pattern=None)",
        "tok.encode_batch([text] * 1000, num_threads=2)",
        "tok.encode(huge)",
    ],
)
def test_ctrl_c_interrupts(work):
    code = (
        "import random, signal, hornbook as hb\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores Ctrl-C
        "text = ''.join('word%d and ' % i for i in range(100_000))\n"
        "tok = hb.Tokenizer.train([text], 1000)\n"
        f"huge = text * {1000 if 'huge' in work else 0}\n"  # takes seconds of its own where memory is slow
        "print('ready', flush=True)\n"
        f"{work}\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.8)
    assert process.poll() is None, "it ended before it could be interrupted"
    process.send_signal(signal.SIGINT)
    start = time.perf_counter()
    _, errors = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    assert time.perf_counter() - start < 3
