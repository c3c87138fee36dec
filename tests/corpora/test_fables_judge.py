"""The judge: right about every real story, not to be fooled by a swapped word, unmoved by nonsense."""

from __future__ import annotations

import random
import re

import pytest
from hornbook.corpora import fables
from hornbook.corpora.fables import judge, naming
from hypothesis import given, settings
from hypothesis import strategies as st

KEEPS = ("keeps_hero", "keeps_pronoun", "keeps_kind", "keeps_home", "keeps_object", "complete", "fitting")
FACTS = (
    "hero", "pronoun", "kind", "home", "trait", "want", "place", "adjective", "noun", "obstacle", "outcome",
    "tool", "helper", "moral", "object",
)  # fmt: skip
STORIES = [fables.story(i, seed=11, split=split) for split in ("train", "heldout") for i in range(1000)]


def test_real_stories_are_kept_complete_and_read_right():
    for s in STORIES:
        reading = judge.read(s.text)
        assert [k for k in KEEPS if not getattr(reading, k)] == [], s.text
        assert {k: getattr(reading, k) or "" for k in FACTS} == {k: getattr(s.facts, k) for k in FACTS}, s.text
        assert reading.strange == ()
        assert judge.pairs(reading) == judge.pairs(s.facts)


def _swap(text: str, word: str, other: str) -> str:
    """``text`` with another word for ``word`` in its second half."""
    half = len(text) // 2
    changed = re.sub(rf"\b{word}\b", other, text[half:])
    assert changed != text[half:], f"no {word} in the second half of: {text}"
    return text[:half] + changed


@pytest.mark.parametrize(
    ("fact", "verdict"),
    [
        ("hero", "keeps_hero"),
        ("kind", "keeps_kind"),
        ("home", "keeps_home"),
        ("noun", "keeps_object"),
        ("adjective", "keeps_object"),
    ],
)
def test_a_swap_is_caught(fact, verdict):
    rng = random.Random(5)
    caught = 0
    for s in STORIES:
        said = getattr(s.facts, fact)
        pool = sorted(naming.ALL) if fact == "hero" else fables.WORLD[fact]
        other = rng.choice([value for value in pool if value != said])
        caught += not getattr(judge.read(_swap(s.text, said, other)), verdict)
    assert caught >= 0.99 * len(STORIES)


def test_unknown_names_are_names():
    text = STORIES[0].text.replace(STORIES[0].facts.hero, "Quentin")
    assert judge.read(text).hero == "Quentin"
    assert judge.read(text).keeps_hero  # a name that the world does not know, but kept
    broken = _swap(text, "Quentin", "Quentinlo")
    assert not judge.read(broken).keeps_hero
    assert not judge.read(text + " Bobbo laughed.").keeps_hero  # at the head of a sentence, too


def test_broken_objects_and_endings():
    s = next(s for s in STORIES if s.facts.outcome == "tool")
    f = s.facts
    assert not judge.read(_swap(s.text, f.object, f"{f.adjective} moon")).keeps_object
    assert not judge.read(s.text[:-1]).complete
    assert not judge.read(s.text[: len(s.text) * 2 // 3]).complete
    other = next(m for m in fables.WORLD["moral"] if m != f.moral)
    wrong = judge.read(s.text.replace(f.moral, other))
    assert wrong.complete
    assert not wrong.fitting
    assert judge.read(s.text + "\n").complete
    assert judge.read(s.text.replace("the ", "teh ")).strange
    pronoun = {"she": "He", "he": "She"}[f.pronoun]
    assert not judge.read(s.text + f" {pronoun} smiled.").keeps_pronoun


def test_what_is_said_once_is_not_kept():
    nothing = judge.read("")
    assert all(not getattr(nothing, k) for k in (*KEEPS, *FACTS))
    once = judge.read("Once there was a fox named Mira.")
    assert (once.hero, once.kind, once.keeps_hero) == ("Mira", "fox", False)  # said once is not kept
    assert once.mentions == {"hero": 1, "kind": 1, "home": 0, "object": 0}


def test_unseen_combinations():
    seen = fables.training_pairs(STORIES[:1000])
    known, new = STORIES[0], STORIES[1500]
    assert judge.unseen(judge.read(known.text), seen) == set()
    f = new.facts
    missing = judge.unseen(judge.read(new.text), seen)
    assert missing == judge.pairs(f) - seen
    assert ("kind", f.kind, "home", f.home) in judge.pairs(f)
    assert fables.combination(judge.read(new.text)) == fables.combination(f)


WORDS = [*sorted(judge.VOCABULARY), "Mira", "Otto", '"', ".", "\n", ",", "'s", "I", "that", "é"]


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(), st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join)))
def test_nonsense_is_read_without_complaint(text):
    reading = judge.read(text)
    assert reading.complete == (reading.moral is not None)
    judge.pairs(reading)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(STORIES), st.integers(0, 900), st.integers(0, 900))
def test_torn_stories_are_read_without_complaint(story, start, end):
    judge.read(story.text[start:end])
