"""Threads and processes: the same ids from any number of them, and nobody waits for ever."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from copy import copy
from itertools import pairwise
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

import pytest
from hornbook import Tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

PATTERNS = ("gpt2", "cl100k", "o200k")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_any_number_of_threads_gives_the_same_ids(trained, stdlib_text, odd_strings, pattern):
    tok = trained[pattern]
    batch = [stdlib_text[:400_000], *odd_strings[:500], "", stdlib_text[400_000:1_000_000], "x" * 200_000]
    want = [tok.encode_ordinary(text) for text in batch]
    for threads in range(1, 9):
        assert tok.encode_batch(batch, threads, disallowed_special=()) == want
        ids, offsets = tok.encode_batch_to_numpy(batch, threads, disallowed_special=())
        assert [ids[a:b].tolist() for a, b in pairwise(offsets)] == want


@pytest.mark.parametrize("pattern", PATTERNS)
def test_any_number_of_threads_finds_the_same_merges(stdlib_text, pattern):
    texts = [stdlib_text[:600_000], *stdlib_text[600_000:700_000].splitlines(keepends=True)]
    first, *others = (Tokenizer.train(texts, 600, pattern=pattern, num_threads=n) for n in range(1, 9))
    assert all(other == first for other in others)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_offsets_tile_texts(trained, stdlib_text, odd_strings, pattern):
    tok = trained[pattern]
    for text in [stdlib_text[:100_000], *odd_strings[:1000], "".join(odd_strings[1000:3000])]:
        raw = text.encode()
        ids, spans = tok.encode_with_offsets(text, unit="byte", disallowed_special=())
        assert [start for start, _ in spans] + [len(raw)] == [0] + [end for _, end in spans]
        assert [raw[start:end] for start, end in spans] == [tok.vocab[id] for id in ids]


def ends_a_piece(before: str, after: str) -> bool:
    """Does every pattern that has a name cut between these two characters? As rust/src/cut.rs says it."""
    kind, other = unicodedata.category(before)[0], unicodedata.category(after)[0]
    return kind in "LN" and other not in "LNM" and after != "'"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_ids_of_parts_are_ids_of_the_whole(trained, stdlib_text, odd_strings, pattern):
    tok = trained[pattern]
    known = unicodedata.ucd_3_2_0  # later characters may be of another kind for Python than for Rust
    odd = "".join(text for text in odd_strings[:6000] if all(known.category(c) != "Cn" for c in text))
    rng = random.Random(2)
    for text in [stdlib_text[:200_000], odd]:
        places = [i for i in range(1, len(text)) if ends_a_piece(text[i - 1], text[i])]
        assert len(places) > 1000
        for count in [1, 10, 1000]:
            cuts = [0, *sorted(rng.sample(places, count)), len(text)]
            parts = tok.encode_batch([text[a:b] for a, b in pairwise(cuts)], disallowed_special=())
            assert [id for ids in parts for id in ids] == tok.encode_ordinary(text)


few = st.text(st.sampled_from(list("aAb1 '\n\t!/sſé中\u0301\u00a0٣")), max_size=12)


@settings(max_examples=300)
@given(left=few, right=few)
def test_safe_boundaries(trained, left, right):
    if left and right and ends_a_piece(left[-1], right[0]):
        for tok in trained.values():
            assert tok.encode(left) + tok.encode(right) == tok.encode(left + right)


def test_many_python_threads_use_one_tokenizer(trained, stdlib_text):
    """Each with another method; what one keeps for the next call must not reach another."""
    tok = Tokenizer.train([stdlib_text[:50_000]], 700)  # fresh, so that its caches are filled by all at once
    parts = [stdlib_text[i : i + 3000] for i in range(0, 600_000, 3000)]
    start = threading.Barrier(8)

    def work(number: int) -> list[list[int]]:
        start.wait()
        found = []
        for part in parts:
            match number % 4:
                case 0:
                    ids = tok.encode(part)
                case 1:
                    ids = tok.encode_with_offsets(part)[0]
                case 2:
                    ids = list(tok.encode_iterable([part[:1000], part[1000:]]))
                case _:
                    ids = tok.encode_batch([part, part], 2)[1]
            assert tok.decode(ids) == part
            found.append(ids)
        return found

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    want = [tok.encode(part) for part in parts]
    assert all(result == want for result in results)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_tokenizers_cross_processes(trained, stdlib_text, method):
    """As the methods of one are given to a pool."""
    if method not in get_all_start_methods():
        pytest.skip(f"no {method} here")
    texts = [stdlib_text[i : i + 50_000] for i in range(0, 150_000, 50_000)]
    with ProcessPoolExecutor(1, get_context(method)) as pool:
        for tok in trained.values():
            assert list(pool.map(tok.encode, texts, timeout=120)) == tok.encode_batch(texts)
            assert pool.submit(getattr, tok, "hash").result(120) == tok.hash
            assert pool.submit(tok.encode_batch, texts, 2).result(120) == tok.encode_batch(texts)
            assert pool.submit(copy, tok).result(120) == tok


def wait(child: int, seconds: float) -> int | None:
    """The exit status of a process, or None if it had to be killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("busy", [False, True])
def test_forked_processes_go_on(trained, stdlib_text, busy):
    """After threads were used, and while others are using the tokenizer: a lock that one of them holds stays locked."""
    tok, text = trained["cl100k"], stdlib_text[:20_000]
    want = tok.encode_batch([text] * 8, 4)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            tok.encode("short")  # holds locks as often as possible
            tok.encode_to_numpy(text)

    threads = [threading.Thread(target=work) for _ in range(4 if busy else 0)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(40 if busy else 3):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, that forking with threads is risky
                child = os.fork()
            if child == 0:
                status = 1
                try:
                    same = tok.encode(text) == want[0] and tok.encode_batch([text] * 8, 4) == want
                    same &= tok.decode(tok.encode("short")) == "short"
                    same &= Tokenizer.train([text], 300, num_threads=2).vocab_size == 300
                    status = 0 if same else 2
                finally:
                    os._exit(status)
            assert wait(child, 60) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_process_forked_while_tables_are_made_goes_on(trained):
    """The first long pieces have tables made. A child that is forked meanwhile has no thread that would finish them."""
    long = "".join(random.Random(5).choices("abcdefghijklmnopqrstuvwxyz", k=600_000))
    for delay in (0.0, 0.002, 0.005, 0.01, 0.02, 0.04):
        tok = pickle.loads(pickle.dumps(trained["cl100k"]))
        thread = threading.Thread(target=lambda tok=tok: tok.encode(long))
        thread.start()
        time.sleep(delay)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            status = 1
            try:
                status = 0 if tok.decode(tok.encode(long)) == long else 2
            finally:
                os._exit(status)
        assert wait(child, 60) == 0
        thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of this kind are Unix's")
def test_a_machine_that_gives_no_threads():
    """The caller's thread does what it can; files, which are read by another one, are a clear error."""
    folder = Path(tempfile.mkdtemp())  # others may look into this one
    text = folder / "text.txt"
    text.write_text("some text here\n" * 30_000, encoding="utf-8")
    folder.chmod(0o755)
    code = f"""
import os, resource
import hornbook as hb
from hornbook.documents import Files
tok = hb.Tokenizer.train(["hello world "] * 100, 300)
texts = ["word and more " * 40_000] * 8
want = [tok.encode(text) for text in texts]
if os.getuid() == 0:
    os.setuid(65534)  # limits do not hold for root
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
assert tok.encode_batch(texts, 4) == want
assert hb.Tokenizer.train(texts, 260, num_threads=4).vocab_size == 260
for what in (lambda: hb.Tokenizer.train({str(text)!r}, 260), lambda: list(Files([{str(text)!r}]))):
    try:
        what()
    except hb.errors.DataError as error:
        assert "no more" in str(error), error
    else:
        raise SystemExit("there were threads after all")
"""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    finally:
        shutil.rmtree(folder)
    if "there were threads after all" in done.stderr:
        pytest.skip("this machine does not hold users to a number of threads")
    assert done.returncode == 0, done.stderr
