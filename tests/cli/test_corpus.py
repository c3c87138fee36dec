"""`hornbook corpus` as a user types it, and the mistakes of a first hour with texts, each one line."""

from __future__ import annotations

import gzip
import sys
import zipfile
from pathlib import Path

import httpx
import pytest
from hornbook.cli import main
from hornbook.corpora import CORPORA, documents, download


def run(*argv: object) -> int:
    """The exit status of ``hornbook argv``."""
    try:
        main([str(a) for a in argv])
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return int(end.code or 0)
    return 0


def test_the_list_has_a_line_for_each(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HORNBOOK_CACHE", str(tmp_path))
    monkeypatch.delenv("HORNBOOK_DATA", raising=False)
    assert run("corpus", "list") == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == list(CORPORA)
    for name, size, here, licence, source, about in lines:
        corpus = CORPORA[name]
        assert (licence, source, about) == (corpus.licence, corpus.source, corpus.about)
        assert here == ("yes" if corpus.state().here else f"no: {corpus.state().words}")
        assert size
    assert next(line for line in lines if line[0] == "shakespeare")[1:3] == ["1.1 MB", "no: to be downloaded"]


@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("columns", ["60", "80", "200"])
def test_a_terminal_gets_a_table(capsys, monkeypatch, columns, colour):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    assert run("corpus", "list") == 0
    table = capsys.readouterr().out
    assert all(name in table for name in CORPORA)
    assert ("\x1b[32m" in table) is colour
    assert "…" not in table


def test_the_beginning_of_a_corpus_is_shown(capsys, tmp_path, shared_data):
    assert run("corpus", "show", "names", "--count", 2) == 0
    shown = capsys.readouterr()
    assert shown.out == "James\n\nJohn\n"
    assert "size: 31.0 KB; licence: public domain; from: the US Census Bureau; here" in shown.err
    assert run("corpus", "show", "shakespeare", "--characters", 14) == 0
    assert capsys.readouterr().out == "First Citizen:\n[... 1,115,380 characters more]\n"
    assert run("corpus", "show", "fables", "--seed", 3, "--count", 1) == 0
    assert capsys.readouterr().out == next(CORPORA["fables"].all_documents(seed=3)) + "\n"
    (tmp_path / "a.jsonl").write_bytes('{"body": "größer"}\n'.encode("cp1252"))
    assert run("corpus", "show", tmp_path / "a.jsonl", "--field", "body", "--encoding", "cp1252") == 0
    assert capsys.readouterr().out == "größer\n"


def test_as_much_is_written_as_was_asked_for(capsys, caplog, tmp_path):
    caplog.set_level("INFO")
    out = tmp_path / "with a space 🦊" / "names.txt"
    assert run("corpus", "write", "names", "--size", "1KB", "--out", out) == 0
    assert capsys.readouterr().err == f"{out}: {out.stat().st_size:,} bytes\n"
    assert 950 < out.stat().st_size <= 1000
    assert run("corpus", "write", "names", "--size", "1MB", "--out", out) == 0
    assert "names has no more than this" in caplog.text
    assert len(list(documents(out))) == 5163


def test_offline_it_says_what_to_do(capsys, tmp_path, monkeypatch):
    def no_network(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("[Errno -2] Name or service not known")

    monkeypatch.setattr(download, "_client", lambda limits: httpx.Client(transport=httpx.MockTransport(no_network)))
    monkeypatch.setenv("HORNBOOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HORNBOOK_DATA", raising=False)
    for argv in (
        ["corpus", "write", "makemore-names", "--out", tmp_path / "a.txt"],
        ["tokenizer", "train", "shakespeare", "--out", tmp_path / "tok"],
    ):
        assert run(*argv) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "no way to raw.githubusercontent.com" in line
        assert "HORNBOOK_DATA" in line
        assert "fables, names and stdlib need no network" in line
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def zipped(path: Path, data: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("in.txt", data)


MISTAKES = {
    "missing.txt": (None, "no such file or folder"),
    "folder": (..., "no .txt, .md, .jsonl, .ndjson, .parquet, .zip files in this folder"),
    "cp1252.txt": ("größer".encode("cp1252"), "not UTF-8: byte 0xf6 at offset 2"),
    "cp1252.txt.gz": (gzip.compress("größer".encode("cp1252")), "not UTF-8: byte 0xf6 at offset 2"),
    "utf16.txt": ("größer".encode("utf-16"), "By its first bytes it is UTF-16"),
    "program.txt": (b"\x7fELF\x02\x01\x01\x00", "binary, not text: byte 0x00 at offset 7"),
    "packed.txt": (gzip.compress(b"x"), "By its first bytes it is gzip"),
    "cut.txt.gz": (gzip.compress(b"some text " * 99)[:-4], "is cut short"),
    "cut.zip": (b"PK\x03\x04", "cannot be read as a zip archive"),
    "no.jsonl": (b"plain", "line 1 is not JSON"),
    "no.parquet": (b"plain", "cannot be read as Parquet"),
    "fabels": (None, "no such file or folder; did you mean 'fables'?"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_files_that_cannot_be_read_are_named(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, words = MISTAKES[name]
    if data is ...:
        Path(name).mkdir()
    elif data is not None:
        Path(name).write_bytes(data)
    if name == "no.parquet":
        pytest.importorskip("pyarrow")
    before = sorted(tmp_path.iterdir())
    for argv in (
        ["corpus", "show", name],
        ["tokenizer", "count", name, "--out", "c"],
        ["tokenizer", "train", name, "--out", "t"],
    ):
        assert run(*argv) == 1
        captured = capsys.readouterr()
        (line,) = captured.err.splitlines()
        assert line.startswith(f"hornbook: {name}: ")
        assert words in line
        assert captured.out == ""
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz", "a.zip"])
def test_a_corpus_without_text_is_told(name, capsys, tmp_path):
    file = tmp_path / name
    if name == "a.zip":
        zipped(file, b"")
    else:
        file.write_bytes(gzip.compress(b"") if name.endswith(".gz") else b"")
    assert run("corpus", "show", file) == 1
    assert capsys.readouterr().err == f"hornbook: {file}: there is no text in it\n"
    assert run("tokenizer", "train", file, "--out", tmp_path / "tok") == 1
    assert "there is no text " in capsys.readouterr().err
    assert not (tmp_path / "tok").exists()


def test_a_tokenizer_is_trained_on_other_encodings(capsys, tmp_path):
    import hornbook as hb

    text = "Größer war der Wunsch als die Öffnung, größer auch als er selbst. " * 50
    (tmp_path / "a.txt").write_bytes(text.encode("cp1252"))
    zipped(tmp_path / "b.zip", text.encode("utf-16"))
    for file, encoding in (("a.txt", "cp1252"), ("b.zip", "utf-16")):
        argv = [tmp_path / file, "--encoding", encoding, "--vocab-size", 300, "--out", tmp_path / f"{file}.tok"]
        assert run("tokenizer", "train", *argv) == 0
        assert hb.Tokenizer.load(tmp_path / f"{file}.tok") == hb.Tokenizer.train([text], vocab_size=300)
    assert run("tokenizer", "count", tmp_path / "a.txt", "--encoding", "klingon", "--out", tmp_path / "c") == 1
    assert "there is no text encoding 'klingon'" in capsys.readouterr().err
