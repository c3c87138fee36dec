"""Archives made by `zipfile` and texts encoded by `codecs` come back, and what is wrong with one is said in a line."""

from __future__ import annotations

import gzip
import json
import random
import re
import struct
import tracemalloc
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path

import pytest
from hornbook import corpora, unpack
from hornbook.documents import Files
from hornbook.errors import DataError

MARK = "<|endoftext|>"
TEXTS = ["one\ntwo\r\n", "", "größer 中文 🦊", 'a "quoted" \\ text\twith\x00 control', MARK, "end"] * 40
WORDS = "größer, “naïve” – café;\r\nSchluß\n"


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def zstd(data: bytes, **options) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor(**options).compress(data)


def as_lines(texts: list[str], **options) -> bytes:
    return "".join(json.dumps({"id": i, "text": t}, **options) + "\n" for i, t in enumerate(texts)).encode()


def pack(path: Path, members: dict[str, bytes | str], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archives_come_back(tmp_path, method):
    """Each member as the file that it was, in order of name; what is hidden or of another kind is left out."""
    long = "".join(f"line {i} of a long text, größer than a chunk\n" for i in range(20_000))
    members: dict[str, bytes | str] = {
        "b/long.txt": long,
        "a.jsonl": as_lines(TEXTS),
        "b/c.md.gz": gzip.compress(f"one\n{MARK}\ntwo".encode()),
        "b/d.jsonl.zst": zstd(as_lines(["packed twice"])),
        "B.TXT": "capital",
        "empty.txt": "",
        "folder/": "",
        "../up.txt": "x",
        **dict.fromkeys(["__MACOSX/._a.txt", ".hidden.txt", ".git/e.txt", "f.py", "g.tar.gz", "h.parquet"], b"\xff"),
    }
    file = pack(tmp_path / "a.zip", members, method)
    expected = ["capital", *TEXTS, "one", "two", "packed twice", long]  # of ".." too: it begins with a dot
    files = Files([file], document_end=MARK)
    assert list(files) == list(files) == expected
    assert files.bytes_read == files.total_bytes == file.stat().st_size
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip"], "nothing is unpacked to the disk"


def test_archives_stand_among_files(tmp_path):
    put(tmp_path / "a.txt", "a")
    pack(tmp_path / "b.zip", {"1.txt": "b1", "2.txt": "b2"})
    put(tmp_path / "c.txt.gz", gzip.compress(b"c"))
    files = Files([tmp_path])
    assert [path.name for path, _, _ in files.described()] == ["a.txt", "c.txt.gz"]
    seen = [(text, files.bytes_read) for text in files]
    assert [text for text, _ in seen] == ["a", "b1", "b2", "c"]
    assert all(x <= y for (_, x), (_, y) in pairwise(seen))
    assert files.bytes_read == files.total_bytes
    others = files.others()
    assert others is not None
    assert list(others) == ["b1", "b2"]
    assert others.bytes_read == files.total_bytes
    assert list(corpora.documents(tmp_path / "b.zip")) == ["b1", "b2"]


def test_a_tokenizer_counts_archives_as_the_files_in_them(tmp_path):
    from hornbook.tokenizer import Counts

    texts = [f"some text {i}\n{MARK}\nand more" for i in range(300)]
    names = [f"{i:03}.txt" for i in range(len(texts))]
    pack(tmp_path / "a.zip", dict(zip(names, texts, strict=True)))
    for name, text in zip(names, texts, strict=True):
        put(tmp_path / "files" / name, text)
    packed, plain = Counts.of(tmp_path / "a.zip"), Counts.of(tmp_path / "files")
    assert packed.texts == plain.texts == 600
    assert packed.most_common(50) == plain.most_common(50)


def test_archives_that_cannot_be_read(tmp_path):
    file = pack(tmp_path / "a.zip", {"in.txt": "some text " * 9000})
    whole = file.read_bytes()
    for broken, words in [
        (b"", r"a\.zip: cannot be read as a zip archive"),
        (b"plain text", r"a\.zip: cannot be read as a zip archive"),
        (whole[:-30], r"a\.zip: cannot be read as a zip archive"),
        (whole[:90] + b"\xff\xff\xff" + whole[93:], r"a\.zip/in\.txt: is broken"),
        (whole.replace(struct.pack("<I", zlib.crc32(b"some text " * 9000)), b"abcd"), "is broken .*CRC"),
    ]:
        with pytest.raises(DataError, match=words):
            list(Files([put(file, broken)]))
    rng = random.Random(5)
    for _ in range(200):  # whatever is changed: the text, or a line that says what is wrong
        changed = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(len(whole))] = rng.randrange(256)
        try:
            outcome = list(Files([put(file, bytes(changed))]))
        except DataError as error:
            outcome = str(error)
        assert outcome in ([], ["some text " * 9000]) or "\n" not in outcome
    at = whole.index(b"PK\x01\x02")
    encrypted = bytearray(whole)
    encrypted[6] |= 1
    encrypted[at + 8] |= 1
    with pytest.raises(DataError, match="is encrypted"):
        list(Files([put(file, bytes(encrypted))]))
    method = bytearray(whole)
    method[8:10] = method[at + 10 : at + 12] = struct.pack("<H", 97)
    with pytest.raises(DataError, match=r"in\.txt: .*compression"):
        list(Files([put(file, bytes(method))]))
    with pytest.raises(DataError, match=r"no \.txt, .* files in this archive"):
        list(Files([pack(tmp_path / "b.zip", {"a.parquet": b"PAR1", "b.py": "x"})]))
    with pytest.raises(DataError, match="zip archive packed once more"):
        Files([put(tmp_path / "c.zip.gz", gzip.compress(whole))])
    with pytest.raises(DataError, match=r"a zip archive: give it the ending \.zip"):
        list(Files([put(tmp_path / "c.txt", whole)]))
    with pytest.raises(DataError, match=r"d\.zip/'a\\n\.txt': not UTF-8: byte 0xff at offset 7\."):
        list(Files([pack(tmp_path / "d.zip", {"a\n.txt": b"seven..\xff"})]))
    with pytest.raises(DataError, match=r'e\.zip/a\.jsonl: line 2 has no field "text"; it has: body'):
        list(Files([pack(tmp_path / "e.zip", {"a.jsonl": b'{"text": "x"}\n{"body": "y"}'})]))


def test_bombs_are_refused_or_read_little_by_little(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "BOMB", 20_000_000)
    bomb = pack(tmp_path / "a.zip", {"blanks.txt": b" " * 20_000_001})
    with pytest.raises(DataError, match=r"blanks\.txt: \d+ bytes would unpack to 20000001, .* bomb"):
        list(Files([bomb]))
    lines = b'{"text": "the same again"}\n' * 700_000  # packed to less than the 200th part, too, but not as large
    file = pack(tmp_path / "b.zip", {"a.jsonl": lines})
    tracemalloc.start()
    try:
        assert sum(map(len, Files([file]))) == 700_000 * len("the same again")
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


ENCODINGS = ["cp1252", "latin-1", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "utf-7", "mac-roman"]
ASIAN = ["shift_jis", "euc-jp", "iso2022_jp", "gb18030", "big5", "euc-kr", "hz"]


@pytest.mark.parametrize("packed", ["", ".gz", ".zst", ".zip"])
def test_other_encodings_are_what_codecs_read(tmp_path, packed):
    texts = dict.fromkeys(ENCODINGS, WORDS) | dict.fromkeys(ASIAN, "ABC 一二三 def\n")
    texts["latin-1"] = texts["latin-1"].translate(str.maketrans("“”–", '""-'))
    for name, words in texts.items():
        text = words * 9000
        data = text.encode(name)
        assert data.decode(name) == text
        file = tmp_path / f"a.txt{packed}"
        if packed == ".zip":
            pack(file, {"a.txt": data})
        else:
            put(file, {"": lambda d: d, ".gz": gzip.compress, ".zst": zstd}[packed](data))
        files = Files([file], encoding=name)
        assert list(files) == [text], name
        assert files.bytes_read == files.total_bytes
        assert files.described() == []
    lines = as_lines(["eins", "größer"], ensure_ascii=False).decode().encode("utf-16")
    if packed == "":
        assert list(Files([put(tmp_path / "b.jsonl", lines)], encoding="UTF16")) == ["eins", "größer"]
        marked = put(tmp_path / "c.txt", f"größer\n{MARK}\nzwei\n".encode("cp1252"))
        assert list(corpora.documents(marked, encoding="cp1252")) == ["größer", "zwei"]
        assert list(Files([put(tmp_path / "d.txt", "größer")], encoding="UTF8")) == ["größer"]


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("cp1252", b"\x81"),
        ("ascii", b"\xe9"),
        ("utf-16-le", b"\x00\xdc"),
        ("utf-16", b"\x00\xdc"),
        ("utf-32", b"\x00\x00\x00\xff"),
        ("utf-8-sig", b"\xe9"),
        ("shift_jis", b"\x81\x20"),
        ("gb18030", b"\x81\x20"),
        ("euc-kr", b"\xff"),
    ],
)
def test_bytes_of_no_character_are_named_by_their_offset(tmp_path, name, bad):
    rng = random.Random(7)
    said = re.sub("[-_]", "[-_]", name)
    for length in (0, 1, unpack.CHUNK // 2 - 1, unpack.CHUNK // 4, unpack.CHUNK, 3 * unpack.CHUNK // 4 + 1):
        good = ("".join(rng.choices("abc\n", k=length - 1)) + "d").encode(name) if length else "".encode(name)
        data = good + bad + "and more".encode(name)
        with pytest.raises(UnicodeDecodeError) as caught:
            data.decode(name)
        start = caught.value.start + (3 if name == "utf-8-sig" else 0)  # which it counts from behind the mark
        for file in (put(tmp_path / "a.txt", data), put(tmp_path / "a.txt.gz", gzip.compress(data, 1))):
            with pytest.raises(DataError, match=rf"{re.escape(file.name)}: not {said}: .* at offset {start}:"):
                list(Files([file], encoding=name))
    for cut in ("中文".encode("utf-16-le")[:-1], "中文".encode("gb18030")[:-1]):
        encoding = "utf-16-le" if cut[1] == 0x4E else "gb18030"
        with pytest.raises(DataError, match=r"at offset 2: (truncated data|incomplete multibyte sequence)"):
            list(Files([put(tmp_path / "b.txt", cut)], encoding=encoding))


def test_unknown_encodings_are_named(tmp_path):
    file = put(tmp_path / "a.txt", "text")
    for name, words in [
        ("cp1225", "did you mean 'cp125[0-9]'"),
        ("windows_1253x", "did you mean 'windows-125[0-9]'"),
        ("nothing like it", "such as utf-8"),
        ("rot13", "no text encoding 'rot13'"),
        ("zlib", "no text encoding"),
        ("idna", "no text encoding"),
        ("unicode_escape", "no text encoding"),
        ("a\0b", "no text encoding"),
        ("", "no text encoding"),
    ]:
        with pytest.raises(DataError, match=words):
            Files([file], encoding=name)


@pytest.mark.parametrize("packed", [".gz", ".zst"])
def test_packed_text_of_another_encoding_that_is_cut_short_or_changed(tmp_path, packed):
    text = "".join(f"wörd{i * i % 9973} " for i in range(30_000)).encode("cp1252")
    whole = gzip.compress(text, 1) if packed == ".gz" else zstd(text, write_checksum=True)
    file = tmp_path / f"a.txt{packed}"
    for keep in (0, 3, 10, 1000, len(whole) // 2, len(whole) - 5, len(whole) - 1):
        with pytest.raises(DataError, match=rf"a\.txt{packed}: the (gzip|zstd) data is (cut short|broken)"):
            list(Files([put(file, whole[:keep])], encoding="cp1252"))
    rng = random.Random(2)
    for _ in range(20):
        changed = bytearray(whole)
        changed[rng.randrange(12, len(whole))] ^= 1 << rng.randrange(8)
        with pytest.raises(DataError, match=rf"a\.txt{packed}: "):
            list(Files([put(file, bytes(changed))], encoding="cp1252"))
    twice = whole + whole + (bytes(700) if packed == ".gz" else b"")
    assert list(Files([put(file, twice)], encoding="cp1252")) == [text.decode("cp1252") * 2]
    with pytest.raises(DataError, match="is broken"):
        list(Files([put(file, whole + b"something else")], encoding="cp1252"))


def test_binary_files_are_no_text(tmp_path):
    """A NUL near the beginning, as git has it; UTF-16 without its mark is UTF-8 full of them."""
    for content, words in [
        (b"\x7fELF\x02\x01\x01\x00\x00", r"binary, not text: byte 0x00 at offset 7\. Only text"),
        (b"x" * 7999 + b"\0", "at offset 7999"),
        ("plain words".encode("utf-16-le"), "at offset 1.*try `--encoding utf-16-le`"),
        ("plain words".encode("utf-16-be"), "at offset 0.*try `--encoding utf-16-be`"),
    ]:
        for name, data in (("a.txt", content), ("a.txt.gz", gzip.compress(content)), ("a.jsonl", content)):
            with pytest.raises(DataError, match=rf"{name}: {words}" if words[0] == "b" else words):
                list(Files([put(tmp_path / name, data)]))
        with pytest.raises(DataError, match="binary"):
            list(Files([pack(tmp_path / "a.zip", {"a.txt": content})]))
    assert list(Files([put(tmp_path / "b.txt", b"x" * 8000 + b"\0")])) == ["x" * 8000 + "\0"]
    with pytest.raises(DataError, match="binary"):
        list(Files([put(tmp_path / "c.txt", "plain words".encode("utf-16-le"))], encoding="latin-1"))


def test_what_is_not_utf8_is_told_how_to_be_read(tmp_path):
    file = put(tmp_path / "a.txt", "größer".encode("cp1252"))
    with pytest.raises(DataError, match=r"not UTF-8: byte 0xf6 at offset 2\. .*`--encoding cp1252`"):
        list(Files([file]))
    assert list(Files([file], encoding="cp1252")) == ["größer"]
    utf16 = put(tmp_path / "b.txt", "größer".encode("utf-16"))
    with pytest.raises(DataError, match="`--encoding utf-16`"):
        list(Files([utf16]))
    assert list(Files([utf16], encoding="utf-16")) == ["größer"]
