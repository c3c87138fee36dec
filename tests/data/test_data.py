"""Shards, splits and batches."""

from __future__ import annotations

import json
import string
import zlib
from collections import Counter
from pathlib import Path

import hornbook as hb
import numpy as np
import pytest
from hornbook.data import Batches, copy_batch, prepare
from hornbook.errors import ConfigError, DataError
from hornbook.prepare import Steps, stream
from hornbook.shards import FORMATS, HEADER, Split, read_shard
from hypothesis import given, settings
from hypothesis import strategies as st

TEXTS = [f"Document {i} says {'very ' * (i % 7)}little." for i in range(60)]


@pytest.fixture(scope="module")
def tok() -> hb.Tokenizer:
    return hb.Tokenizer.train(TEXTS, vocab_size=300)


def test_shards_hold_what_memory_holds(tok: hb.Tokenizer, tmp_path: Path) -> None:
    memory = hb.TokenData.from_text(TEXTS, tok, heldout=0.2)
    disk = prepare(TEXTS, tok, tmp_path / "shards", heldout=0.2, shard_tokens=100)
    for a, b in ((memory.train, disk.train), (memory.heldout, disk.heldout)):
        assert len(b.parts) > 1 or len(b) <= 100
        assert all(len(part) <= 100 for part in b.parts)
        np.testing.assert_array_equal(a.read(0, len(a)), b.read(0, len(b)))
        np.testing.assert_array_equal(a.starts, b.starts)
        assert (a.bytes, a.documents) == (b.bytes, b.documents)
    assert disk.train.documents + disk.heldout.documents == len(TEXTS)
    assert disk.heldout.documents > 2
    assert disk.tokenizer == tok


@pytest.mark.parametrize("chunk", [1, 300, 8 << 20])
@pytest.mark.parametrize("heldout", [0.3, 0.0, ["kept back", "", "too \udc00"]])
def test_shards_do_not_depend_on_how_much_is_encoded_at_a_time(
    tmp_path: Path, monkeypatch, chunk: int, heldout
) -> None:
    """What is in them is what each document is alone, and no document is lost where shards and chunks end."""
    texts = [*TEXTS, "", "long " * 400, "größer 中文", "half \ud83d", "<|endoftext|>", *TEXTS[:9]]
    monkeypatch.setattr(stream, "CHUNK_BYTES", chunk)
    seen: list[tuple[int, int]] = []
    for name, kind in {"bpe": hb.Tokenizer.train, "char": hb.CharTokenizer.train}.items():
        options = {"vocab_size": 300} if name == "bpe" else {}
        known = [*texts, "kept back \ufffd" + string.printable]
        tokenizer = kind(known, special_tokens=["<|endoftext|>"], **options)
        as_it_is = Steps(dedup=False)
        progress = lambda *now: seen.append(now)  # noqa: E731
        data = prepare(
            texts, tokenizer, tmp_path / name, steps=as_it_is, heldout=heldout, shard_tokens=150, progress=progress
        )
        if isinstance(heldout, list):
            parts = {"train": texts, "heldout": heldout}
        else:
            crcs = [(zlib.crc32(t.encode("utf-8", "surrogatepass")), t) for t in texts]
            parts = {"heldout": [t for crc, t in crcs if crc < heldout * 2**32]}
            parts["train"] = [t for crc, t in crcs if crc >= heldout * 2**32]
        for split, documents in parts.items():
            found, documents = getattr(data, split), [t for t in documents if t]
            expected = [[tokenizer.eot_id, *tokenizer.encode_ordinary(t)] for t in documents]
            assert found.read(0, len(found)).tolist() == [id for ids in expected for id in ids]
            assert np.diff(found.starts).tolist() == [len(ids) for ids in expected]
            assert found.bytes == sum(len(t.encode("utf-8", "surrogatepass")) for t in documents)
            lengths = [len(part) for part in found.parts]
            assert all(length <= 150 or length in map(len, expected) for length in lengths)
        empty = 2 if isinstance(heldout, list) else 1
        assert seen[-1] == (
            data.train.documents + data.heldout.documents + empty,
            data.train.bytes + data.heldout.bytes,
        )
        assert (len(seen) > 60) == (chunk == 1)
        seen.clear()


def test_a_tokenizer_that_follows_ranks_makes_shards(tok: hb.Tokenizer, tmp_path: Path) -> None:
    """It is written beside them as merges, which give the same ids."""
    tok.save(tmp_path / "t.tiktoken")
    ranks = hb.Tokenizer.load(tmp_path / "t.tiktoken")
    assert ranks.rule == "ranks"
    data = prepare(TEXTS, ranks, tmp_path / "s", heldout=0)
    other = prepare(TEXTS, tok, tmp_path / "o", heldout=0)
    assert data.train.read(0, 10**6).tolist() == other.train.read(0, 10**6).tolist()


def test_documents_come_back(tok: hb.Tokenizer) -> None:
    data = hb.TokenData.from_text(TEXTS, tok, heldout=[])
    found = [
        data.train.read(a, b - a).tolist() for a, b in zip(data.train.starts[:-1], data.train.starts[1:], strict=True)
    ]
    assert all(ids[0] == tok.eot_id for ids in found)
    assert [tok.decode(ids[1:]) for ids in found] == TEXTS
    assert data.train.bytes == sum(len(t.encode()) for t in TEXTS)
    assert data.token_bytes()[data.train.read(0, len(data.train))].sum() == data.train.bytes


def test_format_is_that_of_llm_c(tok: hb.Tokenizer, tmp_path: Path) -> None:
    prepare(TEXTS, tok, tmp_path / "s", heldout=0.0)
    raw = np.fromfile(tmp_path / "s" / "train-00000.bin", dtype="<i4", count=256)
    tokens = np.fromfile(tmp_path / "s" / "train-00000.bin", dtype="<u2", offset=1024)
    assert raw[:3].tolist() == [20240520, 1, len(tokens)]
    assert not raw[3:].any()
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert manifest["splits"]["train"]["tokens"] == len(tokens)


def test_wide_ids_get_wide_shards(tmp_path: Path) -> None:
    header = np.zeros(HEADER, "<i4")
    header[:3] = 20240801, 7, 3
    (tmp_path / "x.bin").write_bytes(header.tobytes() + np.array([1, 70_000, 2], "<u4").tobytes())
    assert read_shard(tmp_path / "x.bin").tolist() == [1, 70_000, 2]
    assert FORMATS[np.dtype(np.uint32)] == (20240801, 7)


@pytest.mark.parametrize("damage", ["truncate", "magic", "missing", "docs", "tokenizer", "format", "nothing"])
def test_broken_shards_are_refused(tok: hb.Tokenizer, tmp_path: Path, damage: str) -> None:
    prepare(TEXTS, tok, tmp_path / "s", heldout=0.1)
    shard, manifest = tmp_path / "s" / "train-00000.bin", tmp_path / "s" / "manifest.json"
    match damage:
        case "truncate":
            shard.write_bytes(shard.read_bytes()[:-2])
        case "magic":
            shard.write_bytes(b"\0" * 4 + shard.read_bytes()[4:])
        case "missing":
            shard.unlink()
        case "docs":
            shard.with_name("train-00000.docs.npy").write_bytes(b"no")
        case "tokenizer":
            hb.Tokenizer.train(TEXTS[:5], vocab_size=270).save(tmp_path / "s")
        case "format":
            manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 9'))
        case _:
            for file in (tmp_path / "s").iterdir():
                file.unlink()
    with pytest.raises(DataError, match=r"prepare|hornbook prepare|not a token shard|format 1") as caught:
        hb.TokenData(tmp_path / "s")
    assert "\n" not in str(caught.value)


def test_an_id_beyond_the_vocabulary_is_refused_when_it_is_read(tok: hb.Tokenizer, tmp_path: Path) -> None:
    prepare(TEXTS, tok, tmp_path / "s", heldout=0.1)
    shard = tmp_path / "s" / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2] + b"\xff\xff")
    train = hb.TokenData(tmp_path / "s").train
    assert len(train.read(0, 10)) == 10
    with pytest.raises(DataError, match=f"the token 65535, beyond the tokenizer's {tok.vocab_size}: prepare them"):
        train.read(len(train) - 3, 3)


def test_that_nothing_was_held_out_is_said(tok: hb.Tokenizer, tmp_path: Path, caplog) -> None:
    prepare(["one", "two", "three"], tok, tmp_path / "s", heldout=1e-9)
    assert "none of the 3 documents was held out" in caplog.text
    caplog.clear()
    hb.TokenData.from_text(["one", "two", "three"], tok, heldout=0)
    assert not caplog.text


def test_prepare_replaces_shards_but_nothing_else(tok: hb.Tokenizer, tmp_path: Path) -> None:
    prepare(TEXTS[:30], tok, tmp_path / "s")
    assert prepare(TEXTS, tok, tmp_path / "s", heldout=0).train.documents == len(TEXTS)
    other = tmp_path / "mine"
    other.mkdir()
    (other / "diary.txt").write_text("dear diary")
    with pytest.raises(DataError, match="would be lost"):
        prepare(TEXTS, tok, other)
    assert (other / "diary.txt").read_text() == "dear diary"
    with pytest.raises(DataError, match="empty"):
        prepare([], tok, tmp_path / "s")
    assert hb.TokenData(tmp_path / "s").train.documents == len(TEXTS), "what was there is still there"


def test_one_document_keeps_its_end_back(tok: hb.Tokenizer) -> None:
    text = "\n".join(f"line {i}" for i in range(1000))
    data = hb.TokenData.from_text([text], tok, heldout=0.1)
    train, heldout = (tok.decode(s.read(1, len(s))) for s in (data.train, data.heldout))
    assert train + heldout == text
    assert train.endswith("\n")
    assert 0.08 < len(heldout) / len(text) < 0.1


def test_a_mark_inside_a_text_is_text(tok: hb.Tokenizer) -> None:
    text = "one <|endoftext|> two"
    data = hb.TokenData.from_text([text, "three"], tok, heldout=[])
    assert data.train.documents == 2
    assert tok.decode(data.train.read(1, int(data.train.starts[1]) - 1)) == text


def test_bad_requests(tok: hb.Tokenizer) -> None:
    with pytest.raises(ConfigError, match="below 1"):
        hb.TokenData.from_text(TEXTS, tok, heldout=1.5)
    with pytest.raises(DataError, match="empty"):
        hb.TokenData.from_text(["", ""], tok)
    with pytest.raises(DataError, match="empty"):
        hb.TokenData.from_text([], tok)
    with pytest.raises(DataError, match="end-of-text"):
        hb.TokenData.from_text(TEXTS, hb.Tokenizer.train(TEXTS, vocab_size=260, special_tokens=()))
    with pytest.raises(DataError, match="do not fill one row"):
        Batches(hb.TokenData.from_text(TEXTS[:3], tok, heldout=0).train, 2, 1000)


def synthetic(lengths: list[int]) -> Split:
    """Documents of a 0 and then the numbers that say where they are, so that a row tells its origin."""
    starts = np.cumsum([0, *lengths])
    ids = np.arange(starts[-1]) + 1
    ids[starts[:-1]] = 0
    return Split([ids[:50].astype(np.uint32), ids[50:].astype(np.uint32)], starts, 0)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=3, max_size=40),
    batch_size=st.integers(1, 5),
    T=st.integers(1, 30),
    packing=st.sampled_from(["documents", "stream"]),
    stop=st.integers(0, 25),
)
@settings(max_examples=150)
def test_batches(lengths: list[int], batch_size: int, T: int, packing, stop: int) -> None:
    split = synthetic(lengths)
    if len(split) < T + 2:
        return
    one = Batches(split, batch_size, T, seed=7, packing=packing)
    two = Batches(split, batch_size, T, seed=7, packing=packing)
    for _ in range(stop):
        two.next()
    cursor = dict(two.cursor)
    expected = [one.next() for _ in range(30)]
    resumed = Batches(split, batch_size, T, seed=7, packing=packing)
    resumed.cursor = cursor
    everything = split.read(0, len(split))
    for step in range(stop, 30):
        ids, targets = resumed.next()
        assert ids.equal(expected[step][0])
        assert targets.equal(expected[step][1])
        assert ids.shape == targets.shape == (batch_size, T)
        assert ids[:, 1:].equal(targets[:, :-1])
        for row in ids.tolist():
            numbered = [i for i in row if i]
            if packing == "stream" and numbered:
                first = numbered[0] - 1 - row.index(numbered[0])
                assert row == everything[first : first + T].tolist(), "neighbours in the text"


def test_an_epoch_of_documents_begins_each_at_most_once_and_most_exactly_once() -> None:
    split = synthetic([10] * 200)
    batches = Batches(split, 1, 16, seed=0, packing="documents")
    seen: Counter[int] = Counter()
    while batches.cursor["epoch"] == 0:
        row = batches.next()[0][0].tolist()
        assert row[0] == 0, "a row starts where a document starts"
        seen.update(i for i in row if i)
    assert max(seen.values()) == 1
    assert len(seen) > 0.75 * 200 * 9  # the rest was cut at the ends of rows


def test_an_epoch_of_a_stream_reads_all() -> None:
    split = synthetic([10] * 200)
    batches = Batches(split, 1, 16, seed=0, packing="stream")
    seen: Counter[int] = Counter()
    while batches.cursor["epoch"] == 0:
        seen.update(i for i in batches.next()[0][0].tolist() if i)
    assert max(seen.values()) == 1
    assert len(seen) >= len(split) - 200 - 2 * 17


def test_packing_is_chosen_by_length() -> None:
    assert Batches(synthetic([10] * 20), 1, 16).packing == "documents"
    assert Batches(synthetic([100] * 20), 1, 16).packing == "stream"


def test_epochs_and_seeds_differ() -> None:
    split = synthetic([10] * 50)
    a, b = (Batches(split, 4, 16, seed=s).next()[0] for s in (0, 1))
    assert not a.equal(b)
    later = Batches(split, 4, 16)
    later.cursor = {"epoch": 1, "row": 0}
    assert not later.next()[0].equal(a)


def test_copying() -> None:
    V = 10**12  # so many that none is drawn twice
    ids, targets = copy_batch(6, 64, V, seed=0, step=3)
    again = copy_batch(6, 64, V, seed=0, step=3)
    assert ids.equal(again[0])
    assert targets.equal(again[1])
    assert not ids.equal(copy_batch(6, 64, V, seed=0, step=4)[0])
    for row, target in zip(ids[::2], targets[::2], strict=True):
        scored = target != -100
        assert 31 <= int(scored.sum()) <= 33
        assert scored[int(scored.long().argmax()) :].all()
        # What is scored is a repetition: the token that followed the same token the first time.
        where = {int(t): i for i, t in reversed(list(enumerate(row.tolist())))}
        for i in torch_nonzero(scored):
            assert int(row[where[int(row[i])] + 1]) == int(target[i])
            assert where[int(row[i])] < i
    assert all(len(set(row.tolist())) <= 6 for row in ids[1::2])


def torch_nonzero(mask) -> list[int]:
    return [i for i, m in enumerate(mask.tolist()) if m]
