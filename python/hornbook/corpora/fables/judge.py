"""What a text says, read by a program: did it keep its hero, its home and its object, and did it end?

The judge knows the world's words and nothing of the generator's sentences' order, so it reads what a model
wrote as readily as a real story, and anything else without complaint. It is strict where the world is: every
word for a kind, a home or an object has one meaning, so a second home in a story is a fault, wherever it
stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from string import Formatter

from . import plot
from .cast import ADJECTIVES, HELPERS, HOMES, KINDS, NOUNS
from .facts import Facts, Story
from .naming import ALL
from .obstacles import OBSTACLES
from .places import PLACES
from .traits import TRAITS

_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
_KINDS, _HOMES = frozenset(KINDS), frozenset(HOMES)
_ADJECTIVES, _NOUNS = frozenset(ADJECTIVES), frozenset(NOUNS)
_WANTS = {want: place for place, wants in PLACES.items() for want, _ in wants}
_TOOLS = {o.tool.removeprefix("a ").removeprefix("an "): o.tool for o in OBSTACLES.values()}
_MORALS = {turn.moral: (name, way) for name, t in TRAITS.items() for way, turn in t.turns.items()}
_MORAL_END = re.compile(" [Tt]hat (" + "|".join(re.escape(m) for m in _MORALS) + r")\.$")
_HELPER = re.compile(r"\bold (" + "|".join(HELPERS) + r")\b")
_LITTLE_HELPER = re.compile(r"\b[Ll]ittle (?:" + "|".join(HELPERS) + r")\b")


def _fixed(template: str) -> list[str]:
    """The parts of a template between its braces."""
    return [literal for literal, *_ in Formatter().parse(template)]


# The longest part of each clause that holds no name: where it stands, the obstacle does. The first letter is
# left out, for it may be a capital.
_CLAUSES = {max(_fixed(o.clause), key=len)[1:]: name for name, o in OBSTACLES.items()}


def _sentences() -> Iterable[str]:
    """Everything that the world can say, as templates."""
    for options in vars(plot).values():
        if isinstance(options, tuple):
            yield from options
    for table in (plot.ROAD, plot.RETURN):
        for options in table.values():
            yield from options
    for place, wants in PLACES.items():
        yield place
        for pair in wants:
            yield from pair
    for name, o in OBSTACLES.items():
        yield from (name, o.clause, o.wit, o.tool, o.tooled, o.guided)
    for name, t in TRAITS.items():
        yield from (name, t.shown)
        for turn in t.turns.values():
            yield from (turn.test, turn.moral)
    yield from (*KINDS, *HOMES, *HOMES.values(), *ADJECTIVES, *NOUNS, *HELPERS, *HELPERS.values())
    yield "she he her his him herself himself"


VOCABULARY = frozenset(
    word.lower() for sentence in _sentences() for part in _fixed(sentence) for word in _WORD.findall(part)
)  # every word of the world that is not a name


@dataclass(frozen=True, slots=True)
class Reading:
    """What a text says. A fact is None where the text does not say it; the first mention counts.

    ``keeps_*``: said at least twice, and every time the same (one pronoun is enough). ``complete``: the text
    ends with one of the world's morals. ``fitting``: that moral belongs to the trait and to what happened.
    ``strange``: the words that no story of the world uses, in order.
    """

    hero: str | None
    pronoun: str | None
    kind: str | None
    home: str | None
    trait: str | None
    want: str | None
    place: str | None
    adjective: str | None
    noun: str | None
    obstacle: str | None
    outcome: str | None
    tool: str | None
    helper: str | None
    moral: str | None
    keeps_hero: bool
    keeps_pronoun: bool
    keeps_kind: bool
    keeps_home: bool
    keeps_object: bool
    complete: bool
    fitting: bool
    mentions: dict[str, int]  # of the hero, kind, home and object that the text began with
    strange: tuple[str, ...]

    @property
    def object(self) -> str | None:
        """Adjective and noun, or None where the first mention lacks one of them."""
        return f"{self.adjective} {self.noun}" if self.adjective and self.noun else None


def read(text: str) -> Reading:
    """Read ``text``, whatever it is.

    >>> from hornbook.corpora import fables
    >>> fables.judge.read("Mira the fox met Mira. Mira the owl left Otto.").keeps_hero
    False
    """
    words = [(m[0], m.start()) for m in _WORD.finditer(text)]
    names, kinds, homes, objects, pronouns, strange = [], [], [], [], [], []
    trait = None
    for i, (word, start) in enumerate(words):
        lower = word.lower()
        if word[0] != lower[0]:
            bare = word.removesuffix("'s")
            if bare in ALL or (bare != "I" and not (lower in VOCABULARY and _starts_sentence(text, start))):
                names.append(bare)
                continue
        if lower not in VOCABULARY:
            strange.append(word)
        elif lower in _KINDS:
            kinds.append(lower)
        elif lower in _HOMES:
            homes.append(lower)
        elif lower in _NOUNS:
            before = words[i - 1][0].lower() if i else ""
            objects.append((before if before in _ADJECTIVES else None, lower))
        elif lower in _ADJECTIVES:
            if i + 1 == len(words) or words[i + 1][0].lower() not in _NOUNS:
                objects.append((lower, None))  # an adjective of objects with something else, or nothing
        elif lower in _PRONOUN:
            pronouns.append(_PRONOUN[lower])
        elif trait is None and lower in TRAITS:
            trait = lower
    kinds += [""] * len(_LITTLE_HELPER.findall(text))  # a helper addressed as the hero
    adjective, noun = objects[0] if objects else (None, None)
    want = next((w for w in _WANTS if w in text), None)
    obstacle = next((name for clause, name in _CLAUSES.items() if clause in text), None)
    tool = next((tool for bare, tool in _TOOLS.items() if bare in text), None)
    helper = match[1] if (match := _HELPER.search(text)) else None
    if tool:
        outcome = "tool"
    elif helper:
        outcome = "helper" if HELPERS[helper] in text else "gift"
    else:
        outcome = "wit" if obstacle else None
    ending = _MORAL_END.search(text.rstrip())
    moral = ending[1] if ending else None
    return Reading(
        hero=names[0] if names else None,
        pronoun=pronouns[0] if pronouns else None,
        kind=kinds[0] or None if kinds else None,
        home=homes[0] if homes else None,
        trait=trait,
        want=want,
        place=_WANTS[want] if want else next((p for p in PLACES if p in text), None),
        adjective=adjective,
        noun=noun,
        obstacle=obstacle,
        outcome=outcome,
        tool=tool,
        helper=helper,
        moral=moral,
        keeps_hero=_kept(names),
        keeps_pronoun=len(set(pronouns)) == 1,
        keeps_kind=_kept(kinds),
        keeps_home=_kept(homes),
        keeps_object=_kept(objects) and None not in objects[0],
        complete=moral is not None,
        fitting=moral is not None and _MORALS[moral] == (trait, outcome),
        mentions={
            "hero": names.count(names[0]) if names else 0,
            "kind": kinds.count(kinds[0]) if kinds else 0,
            "home": homes.count(homes[0]) if homes else 0,
            "object": objects.count(objects[0]) if objects else 0,
        },
        strange=tuple(strange),
    )


_PRONOUN = {
    "she": "she", "her": "she", "herself": "she", "he": "he", "him": "he", "his": "he", "himself": "he",
}  # fmt: skip


def _kept(mentions: list) -> bool:
    return len(mentions) > 1 and len(set(mentions)) == 1


def _starts_sentence(text: str, start: int) -> bool:
    """Whether the word at ``start`` may have its capital from its place: first, after a stop, or in a quote."""
    before = text[max(0, start - 4) : start]
    if not before or before[-1] in '"\n':
        return True
    return before.rstrip(' "\n')[-1:] in ("", ".", "!", "?")


PAIRED = ("kind", "home", "trait", "want", "noun", "obstacle")


def pairs(facts: Facts | Reading) -> set[tuple[str, str, str, str]]:
    """Every two of the facts in `PAIRED`, as (fact, value, fact, value); what a reading lacks is left out."""
    said = [(name, value) for name in PAIRED if (value := getattr(facts, name))]
    return {(*a, *b) for i, a in enumerate(said) for b in said[i + 1 :]}


def training_pairs(stories: Iterable[Story]) -> set[tuple[str, str, str, str]]:
    """All the `pairs` that these stories show together."""
    return {pair for story in stories for pair in pairs(story.facts)}


def unseen(reading: Facts | Reading, seen: set[tuple[str, str, str, str]]) -> set[tuple[str, str, str, str]]:
    """The pairs of ``reading`` that are not among ``seen``: what a model put together by itself."""
    return pairs(reading) - seen
