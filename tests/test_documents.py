"""Files of text, written by the libraries that own their formats, come back as the documents that were put in."""

from __future__ import annotations

import gzip
import json
import os
import random
import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hornbook.documents import Files
from hornbook.errors import DataError
from hypothesis import given
from hypothesis import strategies as st

MARK = "<|endoftext|>"
TEXTS = [
    "one\ntwo\r\n",
    "",
    "größer 中文 🦊",
    'a "quoted" \\ text\twith\x00 control',
    MARK,
    "\ud83d lone \udc00",
    "end",
] * 40


def cleaned(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def zstd(data: bytes, **options) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor(**options).compress(data)


def pack(data: bytes, ending: str) -> bytes:
    return {"": lambda: data, ".gz": lambda: gzip.compress(data, 1), ".zst": lambda: zstd(data)}[ending]()


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def as_lines(texts: list[str], **options) -> bytes:
    return "".join(json.dumps({"id": i, "text": t}, **options) + "\n" for i, t in enumerate(texts)).encode()


def write_table(path: Path, columns: dict, **options) -> Path:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), path, **options)
    return path


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_every_kind_comes_back(tmp_path, packed):
    plain = put(tmp_path / f"a.TXT{packed}", pack("größer\n中文\n".encode(), packed))
    assert list(Files([plain])) == ["größer\n中文\n"]
    for ascii_only in (True, False):
        texts = TEXTS if ascii_only else [cleaned(t) for t in TEXTS]
        lines = put(tmp_path / f"b.jsonl{packed}", pack(as_lines(texts, ensure_ascii=ascii_only), packed))
        assert list(Files([lines])) == [cleaned(t) for t in texts]
    both = Files([plain, lines])
    assert list(both) == list(both) == ["größer\n中文\n", *map(cleaned, TEXTS)]
    assert both.bytes_read == both.total_bytes == plain.stat().st_size + lines.stat().st_size
    assert str(both) == f"{plain}, {lines}"


def test_other_fields_and_spellings_of_lines(tmp_path):
    lines = [
        '\ufeff{"body": "with a byte order mark"}',
        "",
        '  {"other": [1, {"body": 2}], "body" : "nested ones do not count"}  \r',
        '{"b\\u006fdy": "a name with an escape"}',
        '{"body": "first", "body": "of two the last counts, as in Python"}',
        '{"big": 123456789012345678901234567890e999, "body": "without a line break at the end"}',
    ]
    file = put(tmp_path / "a.ndjson", "\n".join(lines))
    expected = [json.loads(line.lstrip("\ufeff"))["body"] for line in lines if line]
    assert list(Files([file], field="body")) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "a", "é"]), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
def test_lines_are_what_python_reads(tmp_path_factory, data):
    """Objects of any form, a character changed or not: accepted, refused and read exactly as by `json`."""
    value = data.draw(st.dictionaries(st.sampled_from(["text", "a", ""]), JSON | st.text(), max_size=3))
    value["text"] = data.draw(st.text() | JSON)
    line = json.dumps(value, ensure_ascii=data.draw(st.booleans()))
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(line) - 1))
        line = (
            line[:at] + data.draw(st.sampled_from(['"', "\\", "{", "}", ",", "", "\t", "0", "u", "x"])) + line[at + 1 :]
        )
    file = put(tmp_path_factory.mktemp("lines") / "a.jsonl", '{"text": "first"}\n' + line + "\n")
    try:
        read = json.loads(line)
        expected = read["text"] if isinstance(read, dict) and isinstance(read.get("text"), str) else None
    except ValueError:
        expected = None
    if expected is None:
        with pytest.raises(DataError, match=r"a\.jsonl: line 2 "):
            list(Files([file]))
    else:
        assert list(Files([file])) == ["first", cleaned(expected)]


def test_packed_files_put_together(tmp_path):
    first, second = b"one " * 5000, b"two " * 5000
    members = put(tmp_path / "a.txt.gz", gzip.compress(first) + gzip.compress(b"") + gzip.compress(second) + bytes(700))
    assert list(Files([members])) == [gzip.decompress(members.read_bytes()).decode()]
    skipped = struct.pack("<II", 0x184D2A53, 5) + b"other"
    frames = put(tmp_path / "a.txt.zst", skipped + zstd(first) + skipped + zstd(second))
    assert list(Files([frames])) == [(first + second).decode()]


def test_marks_part_plain_text(tmp_path):
    """As a reader of lines would have it, also where a document or a line is longer than what is read at once."""
    rng = random.Random(3)
    for content in [
        f"one\n{MARK}\ntwo\n\n  {MARK}\t\n{MARK}\nthree\n",
        f"{MARK}\none",
        f"one\n{MARK}",
        f"one {MARK} is no line\n",
        f"x{MARK}\n",
        "no mark\n",
        "",
        "".join(rng.choice(["word ", "x" * 300_000, f"\n{MARK}\n", "\n", "é", " " * 70_000]) for _ in range(200)),
    ]:
        documents, held, marked = [], [], False
        for line in content.splitlines(keepends=True):
            if line.strip() == MARK:
                documents.append("".join(held).removesuffix("\n"))
                held, marked = [], True
            else:
                held.append(line)
        if held:
            documents.append("".join(held).removesuffix("\n" if marked else ""))
        file = put(tmp_path / "a.txt", content)
        assert list(Files([file], document_end=MARK)) == documents
        assert list(Files([file])) == ([content] if content else [])


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_a_bad_byte_is_named_by_its_offset(tmp_path, packed):
    rng = random.Random(1)
    for start in (0, 3, (1 << 18) - 1, 1 << 18, 3_000_001):
        data = bytes(rng.choices(b"abc \n", k=start)) + "é".encode() + b"caf\xe9 and more"
        file = put(tmp_path / f"a.txt{packed}", pack(data, packed))
        with pytest.raises(DataError, match=rf"a\.txt{packed}: not UTF-8: byte 0xe9 at offset {start + 5}\."):
            list(Files([file]))
        with pytest.raises(UnicodeDecodeError) as caught:
            data.decode()
        assert caught.value.start == start + 5
    file = put(tmp_path / f"b.jsonl{packed}", pack(b'{"text": "good"}\n{"text": "cut off \xe4\xb8', packed))
    with pytest.raises(DataError, match="0xe4 at offset 35"):
        list(Files([file]))


@pytest.mark.parametrize("packed", [".gz", ".zst"])
def test_what_is_cut_short_or_changed_is_an_error(tmp_path, packed):
    text = "".join(f"word{i * i % 9973} " for i in range(60_000)).encode()
    whole = gzip.compress(text, 1) if packed == ".gz" else zstd(text, write_checksum=True)
    file = tmp_path / f"a.txt{packed}"
    for keep in (3, 4, 10, 1000, len(whole) // 2, len(whole) - 5, len(whole) - 1):
        with pytest.raises(DataError, match=rf"a\.txt{packed}: .*(cut short|though it ends in)"):
            list(Files([put(file, whole[:keep])]))
    rng = random.Random(2)
    for _ in range(30):
        changed = bytearray(whole)
        changed[rng.randrange(12, len(whole))] ^= 1 << rng.randrange(8)
        with pytest.raises(DataError, match=rf"a\.txt{packed}: "):
            list(Files([put(file, bytes(changed))]))
    with pytest.raises(DataError, match="is broken"):
        list(Files([put(file, whole + b"something else")]))
    with pytest.raises(DataError, match="it is empty"):
        list(Files([put(file, b"")]))


def test_a_window_larger_than_memory_is_refused(tmp_path):
    """A header may ask for 2 GB; that much is not given to a file of a few bytes."""
    header = b"\x28\xb5\x2f\xfd\x00" + bytes([(31 - 10) << 3])
    file = put(tmp_path / "a.zst", header + b"\x01\x00\x00")
    with pytest.raises(DataError, match=r"a\.zst: the zstd data is broken .*memory"):
        list(Files([file]))


def test_what_is_not_what_its_ending_says(tmp_path):
    for name, content, words in [
        ("a.gz", b"plain text", "not gzip, though it ends in .gz: it begins with 0x70 0x6c"),
        ("a.zst", gzip.compress(b"x"), "not zstd, though it ends in .zst: By its first bytes it is gzip"),
        ("a.txt", gzip.compress(b"x"), "By its first bytes it is gzip: give it the ending .gz"),
        ("a.txt", zstd(b"x"), "By its first bytes it is zstd"),
        ("a.md", "text".encode("utf-16"), "UTF-16"),
        ("a.txt", b"PAR1\x15\x04\xff", "Parquet"),
        ("a.jsonl", b'[\n{"text": "x"}\n]', "line 1 has another form: .*not an array over several"),
        ("a.jsonl", b"plain text", "line 1 is not JSON: .*Expected an object on each line"),
        ("a.jsonl", b'"text"', "line 1 has another form: .*Expected an object"),
        ("a.jsonl", b'{"text": "x"}\n{"text": 5}', r"line 2 has another form: .*`5`, expected a string"),
        ("a.jsonl", b'{"text": "x"} {"text": "y"}', "line 1 is not JSON: trailing"),
        ("a.jsonl", b'\n\n{"text": "cut', "line 3 is not JSON: EOF"),
        ("a.jsonl", b'{"id": 1, "body": "x"}', 'line 1 has no field "text"; it has: id, body'),
        ("a.jsonl", b"{}", 'line 1 has no field "text"; it has none'),
    ]:
        file = put(tmp_path / name, content)
        with pytest.raises(DataError, match=rf"{file.name}: .*{words}"):
            list(Files([file]))
    for name, words in [("a.tar.gz", "archive"), ("a.tgz", "archive"), ("a.parquet.gz", "packed once more")]:
        with pytest.raises(DataError, match=words):
            Files([put(tmp_path / name, gzip.compress(b"x"))])
    with pytest.raises(DataError, match=r"missing\.txt: no such file or folder"):
        Files([tmp_path / "missing.txt"])
    with pytest.raises(DataError, match=r"no such file or folder"):
        Files(["a text that is taken for a name " * 1000])


def test_a_file_that_goes_away_is_an_error(tmp_path):
    files = Files([put(tmp_path / "a.txt", "text")])
    (tmp_path / "a.txt").unlink()
    with pytest.raises(DataError, match=r"a\.txt: no such file"):
        list(files)


def test_a_folder_is_read_in_order_and_what_is_unknown_left_out(tmp_path):
    put(tmp_path / "b.txt", "b")
    put(tmp_path / "a" / "2.md", "2")
    put(tmp_path / "a" / "10.jsonl", '{"text": "10"}')
    put(tmp_path / "a" / "deep" / "3.txt.gz", gzip.compress(b"3"))
    put(tmp_path / "c.gz", gzip.compress(b"c"))
    for name in ("d.py", "e.csv.gz", "f.tar.gz", ".hidden.txt", ".cache/g.txt", "h.bin", "txt"):
        put(tmp_path / name, b"\xff")
    (tmp_path / "folder.txt").mkdir()
    assert list(Files([tmp_path])) == ["10", "2", "3", "b", "c"]
    assert list(Files([tmp_path / "c.gz", tmp_path / "a"])) == ["c", "10", "2", "3"]
    with pytest.raises(DataError, match=r"no \.txt, .*files in this folder"):
        Files([tmp_path / "folder.txt"])


def test_tables(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    texts = [cleaned(t) for t in TEXTS]
    for kind in (pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())):
        columns = {"id": list(range(len(texts))), "text": pyarrow.array(texts, kind)}
        table = write_table(tmp_path / "a.parquet", columns, row_group_size=37, compression="zstd")
        files = Files([table])
        assert list(files) == texts
        assert files.bytes_read == files.total_bytes == table.stat().st_size
    put(tmp_path / "b.txt", "after")
    assert list(Files([tmp_path])) == [*texts, "after"]
    assert list(Files([write_table(tmp_path / "none.parquet", {"text": pyarrow.array([], pyarrow.string())})])) == []


def test_tables_are_read_in_parts(tmp_path, monkeypatch):
    from hornbook import documents

    monkeypatch.setattr(documents, "TABLE_BATCH", 1000)
    texts = [f"text {i} " * 9 for i in range(500)]
    files = Files([write_table(tmp_path / "a.parquet", {"text": texts}, compression="none")])
    seen = [(text, files.bytes_read) for text in files]
    assert [text for text, _ in seen] == texts
    assert len({read for _, read in seen}) > 9
    assert all(a <= b for (_, a), (_, b) in pairwise(seen))


def test_tables_that_cannot_be_read(tmp_path, monkeypatch):
    table = write_table(tmp_path / "a.parquet", {"body": ["x"] * 999 + [None], "n": [1] * 1000})
    with pytest.raises(DataError, match=r"a\.parquet: has no column 'text'; it has: body, n"):
        list(Files([table]))
    with pytest.raises(DataError, match="the column 'n' holds int64, not text"):
        list(Files([table], field="n"))
    with pytest.raises(DataError, match="row 1000 has no text in the column 'body'"):
        list(Files([table], field="body"))
    whole = table.read_bytes()
    for broken in (b"", b"plain text", whole[:-1], whole[: len(whole) // 2]):
        with pytest.raises(DataError, match=r"b\.parquet: cannot be read as Parquet: "):
            list(Files([put(tmp_path / "b.parquet", broken)]))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'hornbook\[data\]'"):
        list(Files([table]))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_read_to_its_end(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = subprocess.Popen([sys.executable, "-c", f"open({str(tmp_path / 'pipe')!r}, 'w').write('text ' * 10**6)"])
    files = Files([tmp_path / "pipe"])
    assert files.total_bytes is None
    assert list(files) == ["text " * 10**6]
    assert writer.wait() == 0


def test_corpora_and_shards_take_the_same_files(tmp_path):
    from hornbook import corpora

    put(tmp_path / "a.jsonl.gz", gzip.compress(as_lines(["one", "two"])))
    put(tmp_path / "b.md", f"three\n{MARK}\nfour\n")
    expected = ["one", "two", "three", "four"]
    assert list(corpora.documents(tmp_path)) == expected
    assert list(corpora.documents(str(tmp_path))) == expected
    assert list(corpora.documents([tmp_path / "a.jsonl.gz", tmp_path / "b.md"])) == expected
    assert list(corpora.documents(["a text", tmp_path / "b.md"])) == ["a text", "three", "four"]
    with pytest.raises(DataError, match=r"fabels: no such file or folder; did you mean 'fables'"):
        corpora.documents("fabels")
    with pytest.raises(DataError, match=r"no such file or folder; .*pass \[text\]"):
        corpora.documents("a text that is taken for a name " * 1000)
    with pytest.raises(DataError, match=r'no field "body"'):
        list(corpora.documents(tmp_path / "a.jsonl.gz", field="body"))
