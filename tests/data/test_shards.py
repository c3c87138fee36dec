"""Shards that are damaged, of another version, or of llm.c's making."""

from __future__ import annotations

import itertools
import json
import random
import struct
import time
import zlib
from pathlib import Path

import hornbook as hb
import numpy as np
import pytest
from hornbook import shards
from hornbook.data import Batches, heldout_rows, prepare
from hornbook.errors import DataError

from ..damage import mutated

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


# Damage


@pytest.mark.parametrize("damage", ["swap", "swap all", "bounds", "flip", "manifest", "manifest number", "docs flip"])
def test_damage_is_noticed(tok: hb.Tokenizer, tmp_path: Path, damage: str) -> None:
    texts = [f"Document {i:03} is here." for i in range(200)]
    tok = hb.Tokenizer.train(["a"], vocab_size=257)  # every shard is as long as the others
    prepare(texts, tok, tmp_path / "s", heldout=0, shard_tokens=250)
    zero, one = (tmp_path / "s" / f"train-0000{i}.bin" for i in (0, 1))
    bounds = tmp_path / "s" / "train-00000.docs.npy"
    manifest = tmp_path / "s" / "manifest.json"
    match damage:
        case "swap":
            content = zero.read_bytes()
            zero.write_bytes(one.read_bytes())
            one.write_bytes(content)
        case "swap all":
            prepare(texts[::-1], tok, tmp_path / "other", heldout=0, shard_tokens=251)
            for path in (tmp_path / "other").glob("train*"):
                path.replace(tmp_path / "s" / path.name)
        case "flip":
            zero.write_bytes(zero.read_bytes()[:1500] + bytes([zero.read_bytes()[1500] ^ 1]) + zero.read_bytes()[1501:])
        case "bounds" | "docs flip":
            values = np.load(bounds)
            values[3] += 1 if damage == "bounds" else 1 << 40
            np.save(bounds, values)
        case "manifest":
            manifest.write_text(manifest.read_text()[:-20])
        case _:
            manifest.write_text(manifest.read_text().replace('"documents": 200', '"documents": 201'))
    if damage in ("flip", "swap", "swap all"):  # ids for ids of the same length: what only reading all of it can tell
        hb.TokenData(tmp_path / "s")
    else:
        with pytest.raises(DataError, match="prepare"):
            hb.TokenData(tmp_path / "s")
    with pytest.raises(DataError, match="prepare") as caught:
        hb.TokenData(tmp_path / "s", verify=True)
    assert "\n" not in str(caught.value)


def test_shards_of_an_older_version_still_load(tok: hb.Tokenizer, tmp_path: Path) -> None:
    data = prepare(TEXTS, tok, tmp_path / "s")
    path = tmp_path / "s" / "manifest.json"
    old = {key: value for key, value in json.loads(path.read_text()).items()
           if key in ("format", "tokenizer", "vocab_size", "eot_id", "source", "splits")}  # fmt: skip
    path.write_text(json.dumps(old))
    assert documents(hb.TokenData(tmp_path / "s", verify=True).train, tok) == documents(data.train, tok)


# llm.c's files


def llm_c_reads(path: Path) -> list[int]:
    """A shard, read with the checks of llm.c's dataloader.h, by other means than ours."""
    content = path.read_bytes()
    header = struct.unpack("<256i", content[:1024])
    assert (header[0], header[1]) in ((20240520, 1), (20240801, 7))
    size = 2 if header[0] == 20240520 else 4
    assert header[2] > 0
    assert len(content) == 256 * 4 + header[2] * size
    return [value for (value,) in struct.iter_unpack("<H" if size == 2 else "<I", content[1024:])]


def llm_c_writes(path: Path, ids: list[int], wide: bool = False) -> None:
    """As its data_common.py's write_datafile."""
    header = [20240801, 7] if wide else [20240520, 1]
    body = struct.pack(f"<{len(ids)}{'I' if wide else 'H'}", *ids)
    path.write_bytes(struct.pack("<256i", *header, len(ids), *[0] * 253) + body)


def test_llm_c_reads_our_shards(tok: hb.Tokenizer, tmp_path: Path) -> None:
    prepare(TEXTS, tok, tmp_path / "s", heldout=0.3, shard_tokens=500)
    for split, kept in (("train", False), ("heldout", True)):
        ids = [id for path in sorted((tmp_path / "s").glob(f"{split}*.bin")) for id in llm_c_reads(path)]
        texts = [text for text in TEXTS if (zlib.crc32(text.encode()) < 0.3 * 2**32) == kept]
        assert ids == [id for text in texts for id in (tok.eot_id, *tok.encode_ordinary(text))]
    writer = shards.ShardWriter(tmp_path, "wide", 70_000, 100)
    writer.add(np.array([69_999, 5, 66_000], np.uint32), np.array([0, 3]), 9)
    writer.finish()
    assert llm_c_reads(tmp_path / "wide-00000.bin") == [69_999, 5, 66_000]
    assert np.load(tmp_path / "wide-00000.docs.npy").tolist() == [0, 3]


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("scan", [7, 1 << 22])
def test_llm_c_s_shards_load(tok: hb.Tokenizer, tmp_path: Path, wide: bool, scan: int, monkeypatch) -> None:
    """Cut anywhere, as its fineweb.py does; the beginning of the first training document is in the other split."""
    monkeypatch.setattr(shards, "SCAN_TOKENS", scan)
    ids = [id for text in TEXTS for id in (tok.eot_id, *tok.encode_ordinary(text))]
    for i in range(0, len(ids), 700):
        split = "train" if i else "val"
        llm_c_writes(tmp_path / f"fine_{split}_{i // 700:06d}.bin", ids[i : i + 700], wide)
    with pytest.raises(DataError, match=r"do not say what tokenizer made them.*tokenizer="):
        hb.TokenData(tmp_path)
    data = hb.TokenData(tmp_path, tokenizer=tok)
    held, trained = documents(data.heldout, tok), documents(data.train, tok)
    assert TEXTS[: len(held) - 1] == held[:-1]
    assert TEXTS[len(held) - 1].startswith(held[-1])
    assert trained == TEXTS[len(held) :]
    assert data.train.bytes == sum(len(text.encode()) for text in trained)
    assert len(list(heldout_rows(data.heldout, 16)))
    assert Batches(data.train, 2, 16).next()[0].shape == (2, 16)
    tok.save(tmp_path)
    one = hb.TokenData(tmp_path / "fine_val_000000.bin")
    assert documents(one.train, tok) == held
    assert not one.heldout.documents
    with pytest.raises(DataError, match="beyond the tokenizer's 258: another one made it"):
        hb.TokenData(tmp_path, tokenizer=hb.Tokenizer.train([TEXTS[0]], vocab_size=258))
    llm_c_writes(tmp_path / "fine_train_000001.bin", [5] * 10, wide)
    for path in tmp_path.glob("*_0000[01][2-9].bin"):
        path.unlink()
    for path in (*tmp_path.glob("*train*"),):
        llm_c_writes(path, [5] * 10, wide)
    with pytest.raises(DataError, match="no end-of-text token"):
        hb.TokenData(tmp_path, tokenizer=tok)


def test_our_shards_without_their_manifest_load(tok: hb.Tokenizer, tmp_path: Path) -> None:
    data = prepare(TEXTS, tok, tmp_path / "s", shard_tokens=500, heldout=0.2)
    for path in ((tmp_path / "s" / "manifest.json"), *(tmp_path / "s").glob("*.npy")):
        path.unlink()
    again = hb.TokenData(tmp_path / "s")
    for a, b in ((data.train, again.train), (data.heldout, again.heldout)):
        assert documents(a, tok) == documents(b, tok)
        assert a.bytes == b.bytes


# Mutations


MUTATIONS = 500


def mutate(tok: hb.Tokenizer, place: Path, count: int, seed: int) -> dict[str, int]:
    """Each time one file of a folder is damaged; then it is read whole, or refused in one line."""
    import tracemalloc

    texts = [*TEXTS, "größer 中文"]
    data = prepare(texts, tok, place / "s", shard_tokens=900, heldout=0.2)
    right = [
        (split.read(0, len(split)).tolist(), split.starts.tolist(), split.bytes) for split in (data.train, data.heldout)
    ]
    names = [
        path for path in (place / "s").iterdir() if path.suffix in (".bin", ".npy") or path.name == "manifest.json"
    ]
    files, chance = sorted(names), random.Random(seed)
    told = {"refused": 0, "right": 0, "other ids without verify": 0}
    tracemalloc.start()
    for number in range(count):
        path = chance.choice(files)
        before = path.read_bytes()
        match chance.randrange(12):
            case 0:
                path.write_bytes(chance.choice(files).read_bytes())  # another file in its place
            case 1:
                path.unlink()
            case _:
                path.write_bytes(mutated(before, chance))
        for verify in (True, False):
            tracemalloc.reset_peak()
            start = time.monotonic()
            try:
                read = hb.TokenData(place / "s", verify=verify)
                found = [(s.read(0, len(s)).tolist(), s.starts.tolist(), s.bytes) for s in (read.train, read.heldout)]
                if len(read.train) > 40:
                    Batches(read.train, 2, 16).next()
            except hb.errors.HornbookError as error:
                assert "\n" not in str(error)  # noqa: PT017
                told["refused"] += 1
            else:
                lost = not (place / "s" / "manifest.json").exists()
                if found == right:
                    told["right"] += 1
                else:
                    assert not verify or lost, f"mutation {number} of {path.name}: wrong, and nobody said so"
                    told["other ids without verify"] += 1
            assert tracemalloc.get_traced_memory()[1] < 64 << 20, number
            assert time.monotonic() - start < 30, number
        path.write_bytes(before)
    tracemalloc.stop()
    return told


@pytest.mark.slow
def test_mutated_shards(tok: hb.Tokenizer, tmp_path: Path) -> None:
    told = mutate(tok, tmp_path, MUTATIONS, seed=0)
    print(told)
    assert told["refused"] > MUTATIONS
    assert told["right"] > 0


@pytest.mark.slow
def test_mutated_shards_of_llm_c(tok: hb.Tokenizer, tmp_path: Path) -> None:
    """Nothing but a size and a vocabulary can be held against these: refused, or read as what they now say."""
    ids = [id for text in TEXTS for id in (tok.eot_id, *tok.encode_ordinary(text))]
    chance = random.Random(0)
    path = tmp_path / "x.bin"
    refused = 0
    for number in range(MUTATIONS):
        llm_c_writes(path, ids, wide=bool(number % 2))
        whole = path.read_bytes()
        path.write_bytes(mutated(whole, chance) if number % 4 else mutated(whole[:1024], chance) + whole[1024:])
        try:
            data = hb.TokenData(path, tokenizer=tok)
            assert data.train.read(0, len(data.train)).max() < tok.vocab_size
        except DataError:
            refused += 1
    assert MUTATIONS / 4 < refused < MUTATIONS
