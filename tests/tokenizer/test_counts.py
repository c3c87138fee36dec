"""Counting apart from merging: parts counted anywhere add up to the tokenizer of one run over everything."""

from __future__ import annotations

import collections
import copy
import gzip
import itertools
import json
import os
import pickle
import random
import signal
import struct
import subprocess
import sys
import textwrap
import time
import zlib
from pathlib import Path

import pytest
from hornbook import HornbookError, Tokenizer
from hornbook.errors import DataError, TokenizerError
from hornbook.tokenizer import Counts
from hypothesis import given
from hypothesis import strategies as st

EOT = "<|endoftext|>"


@pytest.fixture(scope="module")
def texts(stdlib_text) -> list[str]:
    """Texts of very different lengths, one of several windows."""
    rng = random.Random(8)
    parts, at = [], 0
    while at < 900_000:
        size = int(10 ** rng.uniform(0, 5))
        parts.append(stdlib_text[at : at + size])
        at += size
    long = "".join(f"wört{i % 977}{EOT}nächstes\r\n  {i} 中文" for i in range(60_000))
    return [*parts, "", long, "lone \ud83d half"]


def write_kinds(folder: Path, texts: list[str]) -> list[Path]:
    """The texts in files of every kind, each kind with some of them."""
    zstandard, pyarrow = pytest.importorskip("zstandard"), pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
    files, kinds = [], list(itertools.product(["txt", "jsonl", "parquet"], compress))
    for i, (kind, packed) in enumerate(kinds):
        some = texts[i :: len(kinds)]
        clean = [t.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for t in some]
        if kind == "txt":
            for j, text in enumerate(clean):
                files.append(folder / f"{i}-{j}.txt{packed}")
                files[-1].write_bytes(compress[packed](text.encode()))
        elif kind == "jsonl":
            files.append(folder / f"{i}.jsonl{packed}")
            lines = "".join(json.dumps({"text": text}) + "\n" for text in some)
            files[-1].write_bytes(compress[packed](lines.encode()))
        else:
            files.append(folder / f"{i}.parquet")
            parquet.write_table(pyarrow.table({"text": clean}), files[-1], row_group_size=7)
    return files


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k", r"\w+|\W+"])
def test_files_of_every_kind_count_as_their_texts(tmp_path, texts, pattern):
    write_kinds(tmp_path, texts)
    expected = Counts.of(texts, pattern)
    for threads in (1, 2, 4):
        found = Counts.of(tmp_path, pattern, num_threads=threads)
        assert found.most_common(10**9) == expected.most_common(10**9)
        assert found.total_bytes == expected.total_bytes
    assert Tokenizer.train(tmp_path, 600, pattern=pattern) == Tokenizer.train(texts, 600, pattern=pattern)


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k"])
def test_counts_are_those_of_the_regex(texts, pattern):
    regex = pytest.importorskip("regex")
    cut = regex.compile(Tokenizer.train(["x"], 257, pattern=pattern)._core.regex)
    expected = collections.Counter(
        piece for text in texts[:60] for part in text.split(EOT) for piece in cut.findall(part)
    )
    counts = Counts.of(texts[:60], pattern)
    by_rank = sorted(expected.items(), key=lambda item: (-item[1], item[0].encode()))
    assert counts.most_common(len(by_rank) + 5) == counts.most_common(2**64) == by_rank
    assert counts.most_common(7) == by_rank[:7]
    assert counts.most_common(0) == []
    assert (len(counts), counts.total, counts.texts) == (len(expected), expected.total(), 60)
    assert counts.total_bytes == sum(len(text.encode()) for text in texts[:60])


def test_parts_make_the_tokenizer_of_one_run(tmp_path, texts, hf_trained):
    whole = Tokenizer.train(texts, 1000, pattern="gpt2", num_threads=1)
    everything = Counts.of(texts, "gpt2")
    for number in (1, 2, 3):
        parts = [texts[i::number] for i in range(number)]
        paths = [tmp_path / f"{number}-{i}.bin" for i in range(number)]
        for threads, (path, part) in enumerate(zip(paths, parts, strict=True), start=1):
            Counts.of(part, "gpt2", num_threads=threads).save(path)
        for order in itertools.permutations(paths):
            merged = Counts.merge(map(Counts.load, order))
            assert merged == everything
            merged.save(tmp_path / "sum.bin")
            everything.save(tmp_path / "whole.bin")
            assert (tmp_path / "sum.bin").read_bytes() == (tmp_path / "whole.bin").read_bytes()
        assert Tokenizer.train(merged, 1000) == whole
    _, merges, _ = hf_trained([part for text in texts[:-1] for part in text.split(EOT)], 999, "gpt2")
    assert Tokenizer.train(Counts.of(texts[:-1], "gpt2"), 1000).merges == merges


def test_counts_are_a_value(tmp_path, texts):
    counts = Counts.of(texts[:40], special_tokens=("<|x|>", "é"))
    for other in (copy.copy(counts), copy.deepcopy(counts), pickle.loads(pickle.dumps(counts))):
        assert other == counts
    assert counts != Counts.of(texts[:41], special_tokens=("<|x|>", "é"))
    assert counts != Counts.of(texts[:40], special_tokens=("é", "<|x|>"))
    assert counts != "something else"
    assert (counts.pattern, counts.special_tokens) == ("cl100k", ["<|x|>", "é"])
    assert f"{len(counts):,} different pre-tokens" in repr(counts)
    twice = counts + counts
    assert twice.most_common(3) == [(piece, 2 * n) for piece, n in counts.most_common(3)]
    assert (twice.texts, twice.total_bytes, twice.total) == (80, 2 * counts.total_bytes, 2 * counts.total)
    with pytest.raises(TypeError):
        counts + 1
    counts.save(tmp_path / "new" / "folder" / "counts.bin")
    assert Counts.load(str(tmp_path / "new" / "folder" / "counts.bin")) == counts
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == ["counts.bin"]


def test_counts_of_nothing_can_be_added_but_not_trained_on(tmp_path):
    nothing = Counts.of([])
    assert (len(nothing), nothing.texts, bool(nothing)) == (0, 0, True)
    some = Counts.of(["some text"])
    assert nothing + some == some
    with pytest.raises(DataError, match="no text to train on"):
        Tokenizer.train(nothing, 300)


def test_what_does_not_fit_is_a_clear_error(tmp_path):
    counts = Counts.of(["some text"], "gpt2", ["<|x|>"])
    with pytest.raises(TokenizerError, match=r"pattern of one is \"gpt2\", of another \"cl100k\""):
        counts + Counts.of(["some text"], special_tokens=["<|x|>"])
    with pytest.raises(TokenizerError, match=r"pattern of one is \"gpt2\", of another \"None\""):
        counts + Counts.of(["some text"], None, ["<|x|>"])
    with pytest.raises(TokenizerError, match=r"special tokens of one is \[\"<\|x\|>\"\], of another \[\]"):
        counts + Counts.of(["some text"], "gpt2", [])
    with pytest.raises(DataError, match="no counts to add up"):
        Counts.merge([])
    with pytest.raises(TokenizerError, match="expected several Counts, got one that is str"):
        Counts.merge(["counts.bin"])
    with pytest.raises(TokenizerError, match="made with pattern='gpt2', which pattern='cl100k'"):
        Tokenizer.train(counts, 300, pattern="cl100k")
    with pytest.raises(TokenizerError, match=r"which special_tokens=\['<\|endoftext\|>'\] does not change"):
        Tokenizer.train(counts, 300, special_tokens=[EOT])
    with pytest.raises(TokenizerError, match="at least 257"):
        Tokenizer.train(counts, 256)
    with pytest.raises(TokenizerError, match="n is -1"):
        counts.most_common(-1)
    with pytest.raises(TypeError, match=r"Counts\.of"):
        Counts()
    spelt = Tokenizer.train(counts, 258)._core.regex
    assert Tokenizer.train(counts, 258) == Tokenizer.train(counts, 258, pattern=spelt, special_tokens=["<|x|>"])
    assert Tokenizer.train(counts, 258, pattern="gpt2").special_tokens == {"<|x|>": 257}
    with pytest.raises(DataError, match=r"missing\.bin: No such file"):
        Counts.load(tmp_path / "missing.bin")
    with pytest.raises(DataError, match="expected a count file"):
        Counts.load(tmp_path)
    (tmp_path / "text").write_text("some text")
    with pytest.raises(DataError, match=r"text: not a count file; make it with `hornbook tokenizer count`"):
        Counts.load(tmp_path / "text")
    (tmp_path / "later").write_bytes(b"hornbook-ct2 and so on")
    with pytest.raises(DataError, match="another version"):
        Counts.load(tmp_path / "later")


@given(
    st.lists(st.text() | st.text("ab <|x>", max_size=60), max_size=8), st.sampled_from(["gpt2", "o200k", r"\w", None])
)
def test_counts_round_trip(texts, pattern):
    counts = Counts.of(texts, pattern, ["<|x|>"])
    again = pickle.loads(pickle.dumps(counts))
    assert again == counts
    assert again.most_common(10**6) == counts.most_common(10**6)
    assert (again.texts, again.total_bytes) == (counts.texts, counts.total_bytes)


@pytest.fixture(scope="module")
def good_file(texts) -> bytes:
    return Counts.of([*texts[:3], "x" * 100], "gpt2")._core.to_bytes()


@given(data=st.data())
def test_changed_files_are_refused_or_sound(good_file, tmp_path_factory, data):
    changed = bytearray(good_file[:-4])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        how = data.draw(st.sampled_from(["change", "insert", "drop", "cut"]))
        if how == "cut":
            del changed[max(at, 12) :]
        else:
            changed[at : at + (how != "insert")] = b"" if how == "drop" else bytes([data.draw(st.integers(0, 255))])
    path = tmp_path_factory.mktemp("changed") / "counts.bin"
    path.write_bytes(bytes(changed) + good_file[-4:])
    if bytes(changed) != good_file[:-4]:
        with pytest.raises(DataError, match=r"counts\.bin: "):
            Counts.load(path)
    path.write_bytes(bytes(changed) + struct.pack("<I", zlib.crc32(changed)))  # as an enemy would
    try:
        found = Counts.load(path)
    except HornbookError:
        return
    assert pickle.loads(pickle.dumps(found)) == found
    assert sum(len(piece.encode()) * n for piece, n in found.most_common(10**6)) <= found.total_bytes


def test_progress_is_of_the_bytes_of_files(tmp_path, texts):
    files = write_kinds(tmp_path, texts)
    total = sum(path.stat().st_size for path in files)
    calls = []
    Counts.of(tmp_path, progress=lambda *call: calls.append(call))
    assert {(phase, of) for phase, _, of in calls} == {("count", total)}
    done = [done for _, done, _ in calls]
    assert done == sorted(done)
    assert done[-1] == total
    Counts.of(texts, progress=lambda *call: calls.append(call))
    assert calls[-1] == ("count", Counts.of(texts).total_bytes, None)
    with pytest.raises(ZeroDivisionError):
        Counts.of(tmp_path, progress=lambda *_: 1 / 0)


def run_alone(code: str, *argv: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, argv)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="Windows counts memory otherwise")
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.txt"])
def test_a_corpus_is_not_held(tmp_path, name):
    """Of 80 MB with few distinct words, counting holds some windows."""
    lines = [" ".join(f"word{i * j % 5003}" for j in range(2000)) for i in range(50)]
    text = "\n".join(json.dumps({"text": line}) if "jsonl" in name else line for line in lines) + "\n"
    repeats = 80_000_000 // len(text)
    with gzip.open(tmp_path / name, "wt", 1) if name.endswith("gz") else open(tmp_path / name, "w") as file:
        for _ in range(repeats):
            file.write(text)
    out = run_alone(
        """
        import resource, sys
        from hornbook.tokenizer import Counts
        Counts.of(["warm up"])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        counts = Counts.of(sys.argv[1], num_threads=2)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(used * (1 if sys.platform == "darwin" else 1024), counts.total_bytes)
        """,
        tmp_path / name,
    )
    used, size = map(int, out.split())
    assert size > 70_000_000
    assert used < 30_000_000


@pytest.mark.skipif(sys.platform == "win32", reason="signals to a subprocess are another thing there")
def test_ctrl_c_interrupts_a_read_that_never_ends(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl.gz")
    stop_command(tmp_path, ["tokenizer", "count", "pipe.jsonl.gz", "--out", "counts.bin"])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals to a subprocess are another thing there")
@pytest.mark.parametrize("packed", ["gz", "zst"])
@pytest.mark.parametrize(
    "command",
    [
        ["tokenizer", "count", "{big}", "--out", "out"],
        ["tokenizer", "count", "{big}", "--out", "out", "--pattern", "none"],
        ["tokenizer", "train", "{big}", "--out", "out"],
        ["prepare", "{big}", "--tokenizer", "tok", "--out", "out"],
    ],
)
def test_ctrl_c_interrupts_and_leaves_nothing(tmp_path, packed, command):
    compress = {"gz": lambda d: gzip.compress(d, 1), "zst": pytest.importorskip("zstandard").compress}[packed]
    Tokenizer.train(["warm up"], 258).save(tmp_path / "tok")
    part = compress("".join(f"word{i % 977} and\n" for i in range(10**6)).encode())
    with open(tmp_path / f"big.txt.{packed}", "wb") as file:
        for _ in range(300):  # members and frames follow one another
            file.write(part)
    stop_command(tmp_path, [word.format(big=f"big.txt.{packed}") for word in command])


def stop_command(folder: Path, command: list[str]) -> None:
    """Runs a command, sends it Ctrl-C in the midst of its work, and looks what it leaves."""
    before = sorted(folder.rglob("*"))
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores Ctrl-C
        f"import hornbook.corpora, hornbook.{'data' if command[0] == 'prepare' else 'tokenizer'}\n"
        "from hornbook.cli import main\n"
        "print('ready', flush=True)\n"
        f"main({command!r})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder)
    assert process.stdout.readline() == b"ready\n"
    time.sleep(1)
    assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    start = time.perf_counter()
    out, errors = process.communicate(timeout=30)
    seconds = time.perf_counter() - start
    said = b"stopped; nothing of it was kept\n" if command[0] == "prepare" else b""
    assert (process.returncode, out, errors) == (130, b"", said)
    assert seconds < 3, "half a second, and some for a busy machine"
    assert sorted(folder.rglob("*")) == before


def test_half_a_character_is_no_pattern():
    with pytest.raises(TokenizerError, match=r"pattern is '\\ud800', which holds half a character"):
        Counts.of(["text"], "\ud800")
