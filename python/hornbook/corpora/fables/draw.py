"""Which story has which facts: the index goes through a permutation, so no two stories of a seed agree.

Seven facts (kind, home, object, want, obstacle, trait) make one number in a mixed radix; story ``i`` takes
the number that a keyed permutation puts at place ``i``. So the facts differ by construction, any story can
be had without those before it, and nothing has to be remembered. The name, the outcome and the helper are
drawn beside it.

Held out by construction are pairs of facts: a stable hash picks a tenth of all (kind, home), (noun,
obstacle) and (trait, want) pairs and a tenth of the names. A story with at least one of them belongs to the
held-out split, any other to training, so the two share no combination and training never sees the pair.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log2
from random import Random
from zlib import crc32

from .cast import ADJECTIVES, HELPERS, HOMES, KINDS, NOUNS
from .facts import Facts
from .naming import (
    GIVEN,
    GIVEN_NAMES,
    HELD_OUT,
    HELD_OUT_SHARE,
    INVENTED_SHARE,
    LONG,
    LONG_SHARE,
    SHORT,
)
from .obstacles import OBSTACLES
from .places import PLACES
from .traits import TRAITS

SPLITS = ("train", "heldout")
PARTS = 10  # one pair in so many is held out
TRIES = 64  # places of the permutation that each story owns; the first one of its split is taken

_HOMES, _HELPERS = tuple(HOMES), tuple(HELPERS)
_WANTS = tuple((place, want) for place, wants in PLACES.items() for want, _ in wants)
_OBSTACLES, _TRAITS = tuple(OBSTACLES), tuple(TRAITS)
_TURNS = {name: tuple(trait.turns) for name, trait in TRAITS.items()}
_LEFT = len(KINDS) * len(_HOMES) * len(ADJECTIVES) * len(NOUNS)
_RIGHT = len(_WANTS) * len(_OBSTACLES) * len(_TRAITS)
SPACE = _LEFT * _RIGHT


def _pair(first: str, second: str) -> bool:
    return crc32(f"{first}|{second}".encode()) % PARTS == 0


_KIND_HOME = frozenset((k, h) for k in KINDS for h in _HOMES if _pair(k, h))
_NOUN_OBSTACLE = frozenset((n, o) for n in NOUNS for o in _OBSTACLES if _pair(n, o))
_TRAIT_WANT = frozenset((t, w) for t in _TRAITS for _, w in _WANTS if _pair(t, w))

# How likely an unsplit draw is to fall into training. The four conditions are independent.
TRAIN_SHARE = (
    (1 - HELD_OUT_SHARE)
    * (1 - len(_KIND_HOME) / (len(KINDS) * len(_HOMES)))
    * (1 - len(_NOUN_OBSTACLE) / (len(NOUNS) * len(_OBSTACLES)))
    * (1 - len(_TRAIT_WANT) / (len(_TRAITS) * len(_WANTS)))
)
_CORE_BITS = log2(SPACE)
_NAME_BITS = {
    "given": -log2((1 - INVENTED_SHARE) / len(GIVEN_NAMES)),
    "short": -log2(INVENTED_SHARE * (1 - LONG_SHARE) / len(SHORT)) + 1,  # and the pronoun
    "long": -log2(INVENTED_SHARE * LONG_SHARE / len(LONG)) + 1,
}
_SPLIT_BITS = {"train": log2(TRAIN_SHARE), "heldout": log2(1 - TRAIN_SHARE)}


def is_heldout(facts: Facts) -> bool:
    """Whether ``facts`` hold a pair, or a name, that training never shows."""
    return _is_heldout(facts.hero, facts.kind, facts.home, facts.noun, facts.obstacle, facts.trait, facts.want)


def _is_heldout(hero: str, kind: str, home: str, noun: str, obstacle: str, trait: str, want: str) -> bool:
    return (
        hero in HELD_OUT
        or (kind, home) in _KIND_HOME
        or (noun, obstacle) in _NOUN_OBSTACLE
        or (trait, want) in _TRAIT_WANT
    )


def _mix(x: int) -> int:
    """A 64-bit integer, stirred (the finalizer of splitmix64, Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return x ^ (x >> 31)


def _permute(place: int, key: int) -> tuple[int, int]:
    """The number at ``place`` of the permutation that ``key`` chooses, as (number // _RIGHT, number % _RIGHT).

    A Feistel network whose halves are added modulo their own sizes: every round can be undone, so it is a
    permutation whatever the sizes are (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).
    """
    epoch, place = divmod(place, SPACE)
    key += epoch * 0x9E3779B97F4A7C15
    left, right = divmod(place, _RIGHT)
    for _ in range(3):
        key = _mix(key + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
        left = (left + _mix(key ^ right)) % _LEFT
        right = (right + _mix(key + 1 ^ left << 1)) % _RIGHT
    return left, right


def facts_at(index: int, seed: int, split: str) -> tuple[Facts, float, Random]:
    """The facts of a story, the bits they took, and the random source that goes on to choose the sentences."""
    key = _mix(seed * 2 + SPLITS.index(split) + 0x1F123BB5 & 0xFFFFFFFFFFFFFFFF)
    rng = Random(_mix(key ^ _mix(index + 1 & 0xFFFFFFFFFFFFFFFF)))
    random = rng.random
    held_out = split == "heldout"
    for attempt in range(TRIES):
        left, right = _permute(index * TRIES + attempt, key)
        left, kind = divmod(left, len(KINDS))
        left, home = divmod(left, len(_HOMES))
        adjective, noun = divmod(left, len(NOUNS))
        right, want = divmod(right, len(_WANTS))
        obstacle, trait = divmod(right, len(_TRAITS))
        hero, pronoun, bits = _name(random)
        place, want = _WANTS[want]
        words = KINDS[kind], _HOMES[home], NOUNS[noun], _OBSTACLES[obstacle], _TRAITS[trait], want
        if _is_heldout(hero, *words) == held_out:
            break
    else:  # 64 draws in training in a row, once in ten billion stories
        raise AssertionError(f"no {split} story at index {index}")
    kind, home, noun, obstacle, trait, want = words
    turns = _TURNS[trait]
    outcome = turns[int(random() * len(turns))]
    bits += _CORE_BITS + log2(len(turns)) + _SPLIT_BITS[split]
    helper = ""
    if outcome in ("helper", "gift"):
        helper = _HELPERS[int(random() * len(_HELPERS))]
        bits += log2(len(_HELPERS))
    facts = Facts(
        hero=hero,
        pronoun=pronoun,
        kind=kind,
        home=home,
        trait=trait,
        want=want,
        place=place,
        adjective=ADJECTIVES[adjective],
        noun=noun,
        obstacle=obstacle,
        outcome=outcome,
        tool=OBSTACLES[obstacle].tool if outcome == "tool" else "",
        helper=helper,
        moral=TRAITS[trait].turns[outcome].moral,
    )
    return facts, bits, rng


def _name(random: Callable[[], float]) -> tuple[str, str, float]:
    """A name, its pronoun and the bits of both."""
    if random() >= INVENTED_SHARE:
        name = GIVEN_NAMES[int(random() * len(GIVEN_NAMES))]
        return name, GIVEN[name], _NAME_BITS["given"]
    pronoun = "she" if random() < 0.5 else "he"
    if random() < LONG_SHARE:
        return LONG[int(random() * len(LONG))], pronoun, _NAME_BITS["long"]
    return SHORT[int(random() * len(SHORT))], pronoun, _NAME_BITS["short"]
