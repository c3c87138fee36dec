"""From text to shards: what each step keeps and drops, restarts, failures."""

from __future__ import annotations

import errno
import itertools
import json
import random
import signal
import subprocess
import sys
import threading
import time
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path

import hornbook as hb
import numpy as np
import pytest
from hornbook import shards
from hornbook.cli import main
from hornbook.data import prepare
from hornbook.errors import ConfigError, DataError
from hornbook.prepare import Steps, folder, run, stream
from hornbook.prepare.duplicates import Seen, keys_of
from hypothesis import given, settings
from hypothesis import strategies as st

TEXTS = [f"Document {i} says {'very ' * (i % 7)}little." for i in range(200)]


@pytest.fixture(scope="module")
def tok() -> hb.Tokenizer:
    return hb.Tokenizer.train(TEXTS, vocab_size=300)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch) -> None:
    """No test here cuts the power, and waiting is most of the time of small shards."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


def documents(split: hb.data.Split, tok: hb.Tokenizer) -> list[str]:
    ends = split.starts.tolist()
    return [tok.decode(split.read(a, b - a)[1:]) for a, b in itertools.pairwise(ends)]


def contents(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.iterdir() if path.suffix in (".bin", ".npy")}


def rows(place: Path) -> dict[str, dict[str, int]]:
    return {row["step"]: row for row in json.loads((place / "manifest.json").read_text())["steps"]}


# Steps


BOOK = """The Project Gutenberg eBook of A Very Long Title

Produced by someone

*** START OF THE PROJECT GUTENBERG EBOOK A VERY LONG
TITLE ***


CHAPTER I.

It was *** dark. End of the chapter.

*** END OF THE PROJECT GUTENBERG EBOOK A VERY LONG TITLE ***

Updated editions will replace the previous one.
"""


def test_each_step_and_its_counts(tok: hb.Tokenizer, tmp_path: Path) -> None:
    long = "This paragraph is about the terms of use of a thing, " * 6
    page = f"News\nWe use cookies to improve your visit.\nIt rained.\n{long}\nPrivacy Policy\n"
    texts = ["cafe\u0301 au lait", "café au lait", "", "xy", BOOK, page, "Lorem ipsum dolor", "z" * 2000, *TEXTS[:3]]
    texts += [TEXTS[0], "Terms of use"]
    steps = Steps(nfc=True, boilerplate=True, min_chars=3, max_chars=1000)
    data = prepare(texts, tok, tmp_path / "s", heldout=0, steps=steps)
    page = f"News\nIt rained.\n{long}\n"
    expected = ["café au lait", "CHAPTER I.\n\nIt was *** dark. End of the chapter.", page, *TEXTS[:3]]
    assert documents(data.train, tok) == expected
    told = rows(tmp_path / "s")
    assert list(told) == ["read", "nfc", "boilerplate", "min_chars", "max_chars", "duplicates"]
    assert [row["kept"] for row in told.values()] == [13, 13, 12, 9, 8, 6]
    assert [row["dropped"] for row in told.values()] == [0, 0, 1, 3, 1, 2]
    assert [row["changed"] for row in told.values()] == [0, 1, 3, 0, 0, 0]
    assert told["read"]["bytes"] == sum(len(text.encode()) for text in texts)
    assert told["duplicates"]["bytes"] == sum(len(text.encode()) for text in expected) == data.train.bytes


TEXT = st.text(st.sampled_from("ae\u0301é \ud83d🙂"), max_size=5)


@settings(max_examples=30)
@given(texts=st.lists(TEXT, min_size=1, max_size=40), least=st.integers(1, 3), most=st.integers(3, 5),
       nfc=st.booleans(), chunk=st.sampled_from([1, 300, 8 << 20]), share=st.sampled_from([0.0, 0.4]))  # fmt: skip
def test_steps_are_what_they_say(texts, least, most, nfc, chunk, share, tok, tmp_path_factory) -> None:
    """Against a list and a set, whatever is encoded together."""
    left = [unicodedata.normalize("NFC", text) if nfc else text for text in texts]
    left = list(dict.fromkeys(text for text in left if least <= len(text) <= most))
    place = tmp_path_factory.mktemp("steps") / "s"
    steps = Steps(nfc=nfc, min_chars=least, max_chars=most)
    before, stream.CHUNK_BYTES = stream.CHUNK_BYTES, chunk
    try:
        if not left:
            with pytest.raises(DataError, match="corpus is empty"):
                prepare(texts, tok, place, steps=steps)
            assert not list(place.parent.iterdir())
            return
        data = prepare(texts, tok, place, steps=steps, heldout=share)
    finally:
        stream.CHUNK_BYTES = before
    told = list(rows(place).values())
    assert told[0]["kept"] + told[0]["dropped"] == len(texts)
    for one, next in itertools.pairwise(told):
        assert next["kept"] + next["dropped"] == one["kept"]
    assert told[-1]["kept"] == len(left)
    if len(left) == 1:
        assert "".join(documents(data.train, tok) + documents(data.heldout, tok)) == left[0].replace("\ud83d", "\ufffd")
        return
    held = [zlib.crc32(text.encode("utf-8", "surrogatepass")) < share * 2**32 for text in left]
    for split, wanted in ((data.train, False), (data.heldout, True)):
        chosen = [
            text.replace("\ud83d", "\ufffd") for text, is_held in zip(left, held, strict=True) if is_held == wanted
        ]
        assert documents(split, tok) == chosen


def test_held_out_documents_are_not_trained_on(tok: hb.Tokenizer, tmp_path: Path) -> None:
    data = prepare(TEXTS, tok, tmp_path / "s", heldout=[TEXTS[3], "another", TEXTS[3]])
    assert documents(data.heldout, tok) == [TEXTS[3], "another"]
    assert documents(data.train, tok) == [text for text in TEXTS if text != TEXTS[3]]


def test_impossible_steps() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        Steps(min_chars=0)
    with pytest.raises(ConfigError, match="nothing would be left"):
        Steps(min_chars=10, max_chars=9)


# Duplicates


def test_a_set_of_hashes_is_a_set(tmp_path: Path) -> None:
    chance = random.Random(0)
    seen, known = Seen(tmp_path / "h"), set()
    for _ in range(60):
        texts = [b"%d" % chance.randrange(4000) for _ in range(chance.randrange(200))]
        new = seen.add(keys_of(texts)).tolist()
        expected = []
        for text in texts:
            expected.append(text not in known)
            known.add(text)
        assert new == expected
    assert seen.count == len(known)
    half = seen.count // 2
    seen.close()
    again = Seen(tmp_path / "h", half)  # as after an interruption: later ones are forgotten
    assert int(again.add(keys_of(sorted(known))).sum()) == len(known) - half


def test_keys_that_collide_in_every_half(tmp_path: Path) -> None:
    keys = np.array([(a, b) for a in range(1, 40) for b in range(40)], np.uint64)
    keys = np.concatenate([keys, keys * np.uint64(1021), keys << np.uint64(40)])
    seen = Seen(tmp_path / "h")
    order = np.random.default_rng(0).permutation(len(keys))
    distinct = len({tuple(key) for key in keys.tolist()})
    assert int(seen.add(keys[order]).sum()) == distinct
    assert not seen.add(keys).any()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_of_duplicates(tmp_path: Path) -> None:
    """What the table takes is what is promised, and there are never two of them."""
    code = f"""
import re, numpy as np
from hornbook.prepare.duplicates import Seen
def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
seen, random = Seen({str(tmp_path / "h")!r}), np.random.default_rng(0)
seen.add(random.integers(1, 2**63, (20_000, 2), np.uint64))
before = peak()
while seen.count < 4_000_000:
    seen.add(random.integers(1, 2**63, (20_000, 2), np.uint64))
    if seen.count > 2_000_000:
        assert 16 / 0.85 <= seen.bytes / seen.count < 16 / 0.85 * 1.25, seen.bytes / seen.count
print((peak() - before) / seen.count)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(f"{float(done.stdout):.1f} bytes a document at the peak, all told")
    assert 16 < float(done.stdout) < 28


# Restarts


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "text 🙂.jsonl"
    chance = random.Random(1)
    texts = [" ".join(str(chance.randrange(50)) for _ in range(chance.randrange(1, 40))) for _ in range(1200)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, *texts[::7]]))
    return path


def stop_after(monkeypatch, adds: int, error: BaseException) -> None:
    """The next writing of documents but ``adds`` ends with ``error``."""
    add, left = shards.ShardWriter.add, [adds]

    def stopping(self, *what) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise error
        add(self, *what)

    monkeypatch.setattr(shards.ShardWriter, "add", stopping)


@pytest.mark.parametrize("dedup", [True, False])
def test_what_was_interrupted_goes_on(
    lines: Path, tok: hb.Tokenizer, tmp_path: Path, monkeypatch, caplog, dedup
) -> None:
    monkeypatch.setattr(stream, "CHUNK_BYTES", 2000)
    how = {"shard_tokens": 2500, "steps": Steps(dedup=dedup, min_chars=5), "heldout": 0.2}
    prepare(lines, tok, tmp_path / "whole", **how)
    skipped = []
    for adds in (30, 50, 5):
        with monkeypatch.context() as patch:
            stop_after(patch, adds, KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                prepare(lines, tok, tmp_path / "s", **how)
        assert not (tmp_path / "s").exists()
        state = json.loads((tmp_path / "s.partial" / "progress.json").read_text())
        skipped.append(state["taken"]["documents"])
        with pytest.raises(DataError, match="not a token shard"):  # nothing takes the last for a shard
            hb.TokenData(tmp_path / "s.partial", tokenizer=tok)
        whole = {name for writer in state["writers"].values() for name in writer["files"]}
        for path in (tmp_path / "s.partial").glob("*.bin"):
            if path.name not in whole:
                path.write_bytes(path.read_bytes() + b"what the disk had kept of later writes")
    assert 0 < skipped[0] < skipped[1] <= skipped[2]
    assert "the same command goes on there" in caplog.text
    data = prepare(lines, tok, tmp_path / "s", **how)
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")
    assert rows(tmp_path / "s") == rows(tmp_path / "whole")
    assert len(data.train.parts) > 5
    assert not (tmp_path / "s.partial").exists()
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == sorted(
        path.name for path in (tmp_path / "whole").iterdir()
    )


def test_the_same_command_finds_its_shards(lines: Path, tok: hb.Tokenizer, tmp_path: Path, caplog) -> None:
    def made(**how) -> int:
        prepare(lines, tok, tmp_path / "s", **how)
        return (tmp_path / "s" / "manifest.json").stat().st_mtime_ns

    caplog.set_level("INFO")
    first = made()
    assert made() == first
    assert "nothing to do" in caplog.text
    shard = tmp_path / "s" / "train-00000.bin"
    good = shard.read_bytes()
    shard.write_bytes(good[:3000] + bytes([good[3000] ^ 1]) + good[3001:])
    second = made()
    assert second != first, "a damaged folder is made anew"
    assert "SHA-256 differs" in caplog.text
    assert shard.read_bytes() == good
    assert (third := made(fresh=True)) != second
    assert (fourth := made(heldout=0.1)) != third
    lines.write_text(lines.read_text() + '{"text": "one more"}\n')
    assert made(heldout=0.1) != fourth


@pytest.mark.parametrize("moment", ["taking up", "an option"])
def test_an_early_end_loses_nothing(lines: Path, tok: hb.Tokenizer, tmp_path: Path, monkeypatch, moment: str) -> None:
    """An end before anything was taken up again leaves what was there."""
    monkeypatch.setattr(stream, "CHUNK_BYTES", 2000)
    with monkeypatch.context() as patch:
        stop_after(patch, 30, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            prepare(lines, tok, tmp_path / "s", shard_tokens=2500)
    left = (tmp_path / "s.partial" / "progress.json").read_bytes()
    if moment == "taking up":
        with monkeypatch.context() as patch:
            patch.setattr(folder.files, "read_json", lambda path: (_ for _ in ()).throw(KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt):
                prepare(lines, tok, tmp_path / "s", shard_tokens=2500)
    else:
        with pytest.raises(hb.errors.HornbookError, match=r"num_threads.*the same command goes on there"):
            prepare(lines, tok, tmp_path / "s", shard_tokens=2500, num_threads=0)
    assert (tmp_path / "s.partial" / "progress.json").read_bytes() == left


def test_another_command_does_not_go_on(lines: Path, tok: hb.Tokenizer, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(stream, "CHUNK_BYTES", 2000)
    with monkeypatch.context() as patch:
        stop_after(patch, 30, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            prepare(lines, tok, tmp_path / "s", shard_tokens=2500)
    prepare(lines, tok, tmp_path / "s", shard_tokens=2000)
    prepare(lines, tok, tmp_path / "whole", shard_tokens=2000)
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["text", "progress", "shard", "open", "hashes", "manifest"])
def test_damage_between_interruption_and_restart(
    lines: Path, tok: hb.Tokenizer, tmp_path: Path, monkeypatch, damage: str
) -> None:
    """It begins anew (or says that the text is another one), and the shards are right."""
    monkeypatch.setattr(stream, "CHUNK_BYTES", 2000)
    about = {"about": "a text that is said to be the same"} if damage == "text" else {}
    with monkeypatch.context() as patch:
        stop_after(patch, 30, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            prepare(lines, tok, tmp_path / "s", shard_tokens=2500, **about)
    left = tmp_path / "s.partial"
    opened = sorted(left.glob("*.bin"))
    match damage:
        case "text":
            lines.write_text(lines.read_text().replace("1", "2"))
            with pytest.raises(DataError, match=r"not those that were read before the interruption.*begins anew"):
                prepare(lines, tok, tmp_path / "s", shard_tokens=2500, **about)
        case "progress":
            state = (left / "progress.json").read_text()
            (left / "progress.json").write_text(state.replace('"documents": ', '"documents": 1', 1))
        case "shard":
            opened[1].write_bytes(opened[1].read_bytes()[:-2])
        case "open":
            opened[-1].write_bytes(b"")
        case "hashes":
            (left / "hashes").write_bytes((left / "hashes").read_bytes()[:-16])
        case _:
            (left / "manifest.json").write_text('{"format": 1}')
    prepare(lines, tok, tmp_path / "s", shard_tokens=2500, **about)
    prepare(lines, tok, tmp_path / "whole", shard_tokens=2500)
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


def test_all_done_but_the_name(lines: Path, tok: hb.Tokenizer, tmp_path: Path, monkeypatch) -> None:
    """Killed between the manifest and the renaming: the next one only renames."""
    with monkeypatch.context() as patch:
        patch.setattr(folder.files, "put_directory", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            prepare(lines, tok, tmp_path / "s")
    made = (tmp_path / "s.partial" / "train-00000.bin").stat().st_mtime_ns
    prepare(lines, tok, tmp_path / "s")
    assert (tmp_path / "s" / "train-00000.bin").stat().st_mtime_ns == made


def test_a_generator_cannot_go_on(tok: hb.Tokenizer, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(stream, "CHUNK_BYTES", 400)
    with monkeypatch.context() as patch:
        stop_after(patch, 10, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            prepare(iter(TEXTS), tok, tmp_path / "s", shard_tokens=100)
    assert not list(tmp_path.iterdir()), "what nothing can go on from does not stay"


def test_one_at_a_time(lines: Path, tok: hb.Tokenizer, tmp_path: Path, monkeypatch) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def waiting(*_: int) -> None:
        reached.set()
        go_on.wait(30)

    first = threading.Thread(target=run, args=(lines, tok, tmp_path / "s"), kwargs={"progress": waiting})
    first.start()
    assert reached.wait(30)
    with pytest.raises(ConfigError, match="another process is preparing"):
        prepare(lines, tok, tmp_path / "s")
    go_on.set()
    first.join()
    assert hb.TokenData(tmp_path / "s", verify=True).train.documents


def test_a_folder_of_that_name_that_is_not_ours(lines: Path, tok: hb.Tokenizer, tmp_path: Path) -> None:
    mine = tmp_path / "s.partial" / "diary.txt"
    mine.parent.mkdir()
    mine.write_text("dear diary")
    with pytest.raises(DataError, match="would be lost"):
        prepare(lines, tok, tmp_path / "s")
    assert mine.read_text() == "dear diary"


def killed_and_resumed(
    place: Path, kills: int, number: signal.Signals, code: int, documents: int = 15_000
) -> list[int]:
    """Kill the command at random moments; the documents that were done each time."""
    text, out = place / "text.jsonl", place / "s"
    chance = random.Random(3)
    with text.open("w") as file:
        for i in range(documents):
            words = " ".join(str(chance.randrange(1000)) for _ in range(chance.randrange(1, 60)))
            file.write(json.dumps({"text": words if i % 5 else "again"}) + "\n")
    hb.Tokenizer.train(["0123456789 " * 10], vocab_size=260).save(place / "tok")
    slow = "import sys; from hornbook.prepare import stream; stream.CHUNK_BYTES = 50_000; import hornbook.cli as cli"
    command = [sys.executable, "-c", f"{slow}; cli.main()", "prepare", str(text), "--tokenizer", str(place / "tok"),
               "--shard-tokens", "60000", "--threads", "1", "--out"]  # fmt: skip
    subprocess.run([*command, str(place / "whole")], check=True, capture_output=True)
    done = []
    progress = place / "s.partial" / "progress.json"
    for _ in range(kills):
        before = progress.read_bytes() if progress.exists() else b""
        process = subprocess.Popen([*command, str(out)], stderr=subprocess.PIPE, text=True)
        started = time.monotonic()
        while process.poll() is None and time.monotonic() - started < 60:
            if progress.exists() and progress.read_bytes() != before:  # it has come further
                break
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.02))  # a fast machine does a hundred thousand documents a second
        process.send_signal(number)
        errors = process.communicate()[1]
        if process.returncode == 0:
            break
        assert process.returncode in (code, -number), errors  # see tests/cli/test_interrupts.py
        assert "Traceback" not in errors
        if not progress.exists():  # all was done, and it was on its way out
            assert out.exists() or (place / "s.partial" / "manifest.json").exists()
            break
        done.append(json.loads(progress.read_bytes())["taken"]["documents"])
    subprocess.run([*command, str(out)], check=True, capture_output=True)
    assert contents(out) == contents(place / "whole")
    print(f"killed after {done} documents")
    return done


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    done = killed_and_resumed(tmp_path, 8, signal.SIGKILL, -signal.SIGKILL, documents=40_000)
    assert len(set(done)) >= 4, "the kills came at different points"


@pytest.mark.slow
def test_interrupted_at_random_moments(tmp_path: Path) -> None:
    done = killed_and_resumed(tmp_path, 5, signal.SIGINT, 130)
    assert len(set(done)) >= 3


# Failures


def test_a_full_disk(lines: Path, tok: hb.Tokenizer, tmp_path: Path, monkeypatch) -> None:
    """One line, the old shards are still there, and with room the same command goes on."""
    monkeypatch.setattr(stream, "CHUNK_BYTES", 2000)
    prepare(TEXTS, tok, tmp_path / "s")
    old = contents(tmp_path / "s")
    room = [25_000]

    def write(file, content: bytes) -> None:
        room[0] -= len(content)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, content)

    real = shards._write
    with monkeypatch.context() as patch:
        patch.setattr(shards, "_write", write)
        with pytest.raises(
            DataError, match=r"s.partial: No space left on device; the first [\d,]+ documents"
        ) as caught:
            prepare(lines, tok, tmp_path / "s", shard_tokens=2500)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path / "s") == old
    prepare(lines, tok, tmp_path / "s", shard_tokens=2500)
    prepare(lines, tok, tmp_path / "whole", shard_tokens=2500)
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a small disk, as Linux does")
def test_a_small_disk(lines: Path, tok: hb.Tokenizer, tmp_path: Path) -> None:
    """The same on a disk that is full: a file system of 96 KB, in a name space of its own."""
    tok.save(tmp_path / "tok")
    inside = f"""
mount -t tmpfs -o size=96k none {tmp_path}/small || exit 77
cd {tmp_path}/small
"$0" -m hornbook prepare "{lines}" --tokenizer ../tok --shard-tokens 2500 --out s; echo "status $?" >&2
mount -o remount,size=8m {tmp_path}/small
"$0" -m hornbook prepare "{lines}" --tokenizer ../tok --shard-tokens 2500 --out s && cp -r s ../s
"""
    (tmp_path / "small").mkdir()
    done = subprocess.run(["unshare", "-m", "sh", "-c", inside, sys.executable], capture_output=True, text=True)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"may not mount: {done.stderr.splitlines()[0]}")
    first = done.stderr.splitlines()
    assert "No space left on device" in first[0], done.stderr
    assert first[0].startswith("hornbook: ")
    assert first[1] == "status 1"
    prepare(lines, hb.Tokenizer.load(tmp_path / "tok"), tmp_path / "whole", shard_tokens=2500)
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


def test_a_read_only_disk(lines: Path, tok: hb.Tokenizer, tmp_path: Path, monkeypatch) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(DataError, match=r"s\.partial: Read-only file system; nothing was written"):
            prepare(lines, tok, tmp_path / "s")


def test_a_source_that_breaks_off(tok: hb.Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"good text " * 50 + b"\xff")
    with pytest.raises(DataError, match=r"bad\.txt.*500"):
        prepare(tmp_path / "bad.txt", tok, tmp_path / "s")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.txt"]


def test_documents_stream(tok: hb.Tokenizer, tmp_path: Path, monkeypatch) -> None:
    """No document is asked for before earlier ones were written, but for two helpings."""
    monkeypatch.setattr(stream, "CHUNK_BYTES", 2000)
    given_out, written = [0], [0]

    def endless() -> Iterator[str]:
        for i in range(3000):
            given_out[0] += 1
            assert given_out[0] - written[0] < 200
            yield f"text number {i}"

    add = shards.ShardWriter.add

    def counting(self, ids, bounds, size) -> None:
        written[0] += len(bounds) - 1
        add(self, ids, bounds, size)

    monkeypatch.setattr(shards.ShardWriter, "add", counting)
    assert prepare(endless(), tok, tmp_path / "s", heldout=0).train.documents == 3000


# The command


def test_the_command(lines: Path, tok: hb.Tokenizer, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    tok.save("tok")
    words = [str(lines), "--tokenizer", "tok", "--out", "s", "--min-chars", "5", "--no-dedup", "--shard-tokens", "9000"]
    main(["prepare", *words])
    told = rows(tmp_path / "s")
    said = capsys.readouterr()
    assert said.out == ""
    assert f"min_chars: {told['min_chars']['kept']:,} documents" in said.err
    assert list(told) == ["read", "min_chars"]
    main(["prepare", "--config", "s/config.toml", "--out", "again"])
    assert contents(tmp_path / "again") == contents(tmp_path / "s")
    for wrong, hint in (("--min-chars=0", "at least 1"), ("--max-chars=3", "nothing would be left")):
        with pytest.raises(SystemExit) as end:
            main(["prepare", *words, wrong])
        assert end.value.code == 2 or str(end.value.code).startswith("hornbook: ")
        assert hint in f"{capsys.readouterr().err} {end.value.code}"
    assert {path.name for path in tmp_path.iterdir()} == {lines.name, "tok", "s", "again"}


def test_the_settings_are_of_the_folder(lines: Path, tok: hb.Tokenizer, tmp_path: Path, monkeypatch) -> None:
    """config.toml comes with the shards, not after them, is known to the manifest, and begins nothing anew."""
    monkeypatch.chdir(tmp_path)
    tok.save("tok")
    words = ["prepare", str(lines), "--tokenizer", "tok", "--out", "s"]
    with monkeypatch.context() as patch:
        patch.setattr(folder.files, "put_directory", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            main([*words, "--fresh"])
    assert "config.toml" in json.loads(Path("s.partial/manifest.json").read_text())["files"]
    main(words)
    settings, made = Path("s/config.toml").read_bytes(), Path("s/config.toml").stat().st_mtime_ns
    main(["prepare", "--config", "s/config.toml"])  # nothing to do
    assert (Path("s/config.toml").read_bytes(), Path("s/config.toml").stat().st_mtime_ns) == (settings, made)
    with pytest.raises(SystemExit) as end:
        main([*words, "--shard-tokens", "10"])
    assert "--shard-tokens is how many tokens a file may hold" in str(end.value.code)


def test_a_corpus_with_its_own_held_out_part(tok: hb.Tokenizer, tmp_path: Path, monkeypatch) -> None:
    from hornbook.corpora import fables

    monkeypatch.chdir(tmp_path)
    tok.save("tok")
    main(["prepare", "fables", "--size", "50KB", "--seed", "3", "--tokenizer", "tok", "--out", "s"])
    data = hb.TokenData("s")
    held = dict.fromkeys(story.text for story in fables.generate(4000, seed=3, split="heldout"))
    assert documents(data.heldout, tok) == list(held)
    assert not held.keys() & set(documents(data.train, tok))
    assert "fables, 50000 bytes" in json.loads(Path("s/manifest.json").read_text())["source"]


def test_preparing_needs_no_torch(lines: Path, tok: hb.Tokenizer, tmp_path: Path) -> None:
    tok.save(tmp_path / "tok")
    code = "import sys; from hornbook.cli import main; main(); assert 'torch' not in sys.modules"
    words = ["prepare", str(lines), "--tokenizer", str(tmp_path / "tok"), "--out", str(tmp_path / "s")]
    subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)


@pytest.mark.parametrize("stranger", ["thesis.txt", "train-00000.bin.bak", "folder/"])
@pytest.mark.parametrize("where", ["s", "s.partial"])
def test_what_others_put_into_the_folder_is_not_lost(
    tok: hb.Tokenizer, tmp_path: Path, where: str, stranger: str
) -> None:
    prepare(["some text"] * 3, tok, tmp_path / "s", heldout=0)
    file = tmp_path / where / (stranger + "x" if stranger.endswith("/") else stranger)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("years of work")
    for text in ("some text", "another text")[where != "s" :]:  # the shards of the same text are there: nothing to do
        with pytest.raises(DataError, match=f"{where}: holds '{stranger.rstrip('/')}', which .* would be lost"):
            prepare([text] * 3, tok, tmp_path / "s", heldout=0)
    assert file.read_text() == "years of work"


OTHERS = {  # all of the names are such as prepare gives, too
    "a page's manifest": {"manifest.json": b'{"name": "a page", "format": "module"}'},
    "a manifest with remarks": {"manifest.json": b"[1, 2] // see below"},
    "a tokenizer": {"tokenizer.json": b"{}", "tokenizer_config.json": b"{}"},
    "settings": {"config.toml": b"mine = 1"},
    "shards of llm.c": {"train-00000.bin": b"ids", "heldout-00000.bin": b"ids"},
}


@pytest.mark.parametrize("name", ["s", "s.partial"])
@pytest.mark.parametrize("others", OTHERS)
def test_a_folder_of_others_with_names_like_ours_is_not_lost(
    tok: hb.Tokenizer, tmp_path: Path, others: str, name: str
) -> None:
    (tmp_path / name).mkdir()
    for file, content in OTHERS[others].items():
        (tmp_path / name / file).write_bytes(content)
    stray = min(OTHERS[others])
    for fresh in (False, True):
        with pytest.raises(DataError, match=rf"{name}: not a folder of shards that prepare made.*{stray!r} would be"):
            prepare(["some text"] * 3, tok, tmp_path / "s", heldout=0, fresh=fresh)
    assert {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} == OTHERS[others]


def test_a_shard_that_the_manifest_does_not_know_is_not_lost(tok: hb.Tokenizer, tmp_path: Path) -> None:
    prepare(["some text"] * 3, tok, tmp_path / "s", heldout=0)
    (tmp_path / "s" / "train-00007.bin").write_bytes(b"of another run")
    with pytest.raises(DataError, match=r"holds 'train-00007\.bin'"):
        prepare(["another text"] * 3, tok, tmp_path / "s", heldout=0)
    (tmp_path / "s" / "train-00007.bin").unlink()
    (tmp_path / "s" / "manifest.json").write_text('{"format": 1, "tok')  # ours, and damaged: made anew
    assert prepare(["another text"] * 3, tok, tmp_path / "s", heldout=0).train.documents == 1
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file"):
        prepare(["some text"] * 3, tok, tmp_path / "file", heldout=0)
    for nameless in (".", ".."):
        with pytest.raises(DataError, match="has no name"):
            prepare(["some text"] * 3, tok, nameless, heldout=0)


def test_where_no_token_shards_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no token shards here.*hornbook prepare TEXT"):
        hb.TokenData(tmp_path)


def test_a_corpus_has_its_own_held_out_part(tok: hb.Tokenizer, tmp_path: Path) -> None:
    """By name, in Python as on the command line: what is measured on is of the generator's other split."""
    from hornbook.corpora import CORPORA

    made = prepare("fables", tok, tmp_path / "s", heldout=0.001)
    other = set(CORPORA["fables"].documents(20_000, split="heldout"))
    starts = made.heldout.starts.tolist()
    texts = [tok.decode(made.heldout.read(a + 1, b - a - 1)) for a, b in itertools.pairwise(starts)]
    assert 3 <= len(texts) <= 20
    assert set(texts) <= other
