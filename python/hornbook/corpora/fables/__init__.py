"""Fables: as many small English stories as asked, the same ones for the same seed, on any machine.

>>> from hornbook.corpora import fables
>>> one = fables.story(0)
>>> one.facts.hero in one.text
True
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal

from ...errors import DataError, nearest
from . import judge
from .cast import ADJECTIVES, HELPERS, HOMES, KINDS, NOUNS
from .draw import SPLITS, facts_at, is_heldout
from .facts import Facts, Story
from .judge import training_pairs
from .naming import GIVEN_NAMES
from .obstacles import OBSTACLES
from .places import PLACES
from .plot import tell
from .traits import OUTCOMES, TRAITS

Split = Literal["train", "heldout"]


def story(index: int, *, seed: int = 0, split: Split = "train") -> Story:
    """Story number ``index`` of a split; a pure function, so stories can be had in any order.

    Two stories of one seed and split have different facts, whatever their indices below 2^28.

    Raises:
        DataError: for a negative index or an unknown split.
    """
    if index < 0:
        raise DataError(f"a story's index starts at 0, got {index}; give 0 or more")
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}{nearest(str(split), SPLITS)}")
    facts, bits, rng = facts_at(index, seed, split)
    text, more = tell(facts, rng.random)
    return Story(text, facts, bits + more)


def stories(*, seed: int = 0, split: Split = "train", start: int = 0) -> Iterator[Story]:
    """All stories from ``start`` on, without end."""
    for index in itertools.count(start):
        yield story(index, seed=seed, split=split)


def generate(size: int, *, seed: int = 0, split: Split = "train") -> list[Story]:
    """As many stories as fit into ``size`` bytes of UTF-8, each counted with one byte that separates it.

    >>> from hornbook.corpora import fables
    >>> sum(len(s.text) + 1 for s in fables.generate(10_000)) <= 10_000
    True
    """
    made: list[Story] = []
    for one in stories(seed=seed, split=split):
        size -= len(one.text) + 1  # the text is ASCII: a character is a byte
        if size < 0:
            return made
        made.append(one)
    raise AssertionError("stories() has no end")


def names() -> tuple[str, ...]:
    """The given names, held-out ones among them; invented names are made besides."""
    return GIVEN_NAMES


def combination(facts: Facts | judge.Reading) -> tuple[str | None, ...]:
    """What a story is about, without its name and helper: equal for two stories that tell the same things."""
    return (
        facts.kind, facts.home, facts.object, facts.trait, facts.want, facts.obstacle, facts.outcome,
    )  # fmt: skip


WORLD: dict[str, tuple[str, ...]] = {
    "kind": KINDS,
    "home": tuple(HOMES),
    "trait": tuple(TRAITS),
    "place": tuple(PLACES),
    "want": tuple(want for wants in PLACES.values() for want, _ in wants),
    "adjective": ADJECTIVES,
    "noun": NOUNS,
    "obstacle": tuple(OBSTACLES),
    "outcome": OUTCOMES,
    "tool": tuple(obstacle.tool for obstacle in OBSTACLES.values()),
    "helper": tuple(HELPERS),
    "moral": tuple(turn.moral for trait in TRAITS.values() for turn in trait.turns.values()),
}  # the values that each field of `Facts` can have

__all__ = [
    "WORLD",
    "Facts",
    "Split",
    "Story",
    "combination",
    "generate",
    "is_heldout",
    "judge",
    "names",
    "stories",
    "story",
    "training_pairs",
]
