"""The demo, short: that it is repeatable and keeps what was there. tests/test_readme.py runs it whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import hornbook as hb
import pytest
from hornbook import demo
from hornbook.corpora import fables
from hornbook.ngram import Trigram


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    """A tenth of the corpus and few judged stories, for speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "CORPUS_BYTES", 500_000)
        patch.setattr(demo, "HELDOUT_BYTES", 30_000)
        patch.setattr(demo, "JUDGED", 4)
        yield


def test_the_same_seed_and_steps_give_the_same_model(small, tmp_path: Path, capsys) -> None:
    one = demo.run(out=tmp_path / "demo", steps=8, seed=3, stories=1)
    said = capsys.readouterr().out
    again = demo.run(out=tmp_path / "demo", steps=8, seed=3, stories=1)
    assert (tmp_path / "demo-2").is_dir(), "the first run is still there"
    a, b = (hb.load(tmp_path / name)[0].state_dict() for name in ("demo", "demo-2"))
    assert all(a[name].equal(b[name]) for name in a)
    assert one["bits_per_byte"] == again["bits_per_byte"]
    assert json.loads((tmp_path / "demo" / "report.json").read_text())["steps"] == 8
    assert world_is_shown_whole(said)
    for words in ("1. Text", "2. Tokens", "3. Model", "4. Training", "5. Writing", "Try next"):
        assert words in said
    other = demo.run(out=tmp_path / "other", steps=8, seed=4, stories=0)
    assert other["bits_per_byte"] != one["bits_per_byte"]


def world_is_shown_whole(said: str) -> bool:
    """The first story is printed to its last word, wherever lines break."""
    return " ".join(fables.story(0, seed=3).text.split()) in " ".join(said.split())


def test_the_marks(small) -> None:
    """The trigram is worse than the generator, which nothing that learns from the text can beat by much."""
    world = demo.make_world()
    assert world.marks.generator < 0.5 * world.marks.trigram
    assert world.marks.trigram == Trigram(world.data.train, 2048).bits_per_byte(world.data.heldout)
    heldout = fables.generate(demo.HELDOUT_BYTES, split="heldout")
    assert world.marks.generator == pytest.approx(sum(s.bits for s in heldout) / sum(len(s.text) for s in heldout))
    assert world.tokenizer.vocab_size == demo.VOCAB_SIZE


def test_judging() -> None:
    """Real stories pass, and stories whose second half is another's do not."""
    texts = [story.text for story in fables.generate(50_000)]
    assert set(demo.judge(texts).values()) == {1.0}
    mixed = [a[: len(a) // 2] + b[len(b) // 2 :] for a, b in zip(texts[::2], texts[1::2], strict=False)]
    assert demo.judge(mixed)["keeps_hero"] < 0.2


def test_probe(small) -> None:
    world = demo.make_world()
    few, many = (
        demo.steps_in(minutes, demo.new_model(0), world, 0) for minutes in (2.0, 20.0)
    )  # not fewer than it takes at least
    assert 3 < many / few < 30
