"""What a fable says, as data: questions, preferences and rewards are built on this, not on the text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that was decided about one story. All values are plain words, as they stand in the text.

    ``tool`` is empty unless the outcome is "tool"; ``helper`` is empty unless it is "helper" or "gift".
    """

    hero: str  # "Mira": the only proper name of the story
    pronoun: str  # "she" or "he"
    kind: str  # "fox"
    home: str  # "mill"
    trait: str  # "patient"
    want: str  # "pick pears for a birthday cake"
    place: str  # "the orchard": where the want is to be had
    adjective: str  # "blue"
    noun: str  # "kettle"
    obstacle: str  # "a fallen bridge"
    outcome: str  # one of `traits.OUTCOMES`: how the obstacle was passed
    tool: str  # "a long plank"
    helper: str  # "heron"
    moral: str  # "whoever waits and watches will find a way"

    @property
    def object(self) -> str:
        """The hero's treasure, "blue kettle"."""
        return f"{self.adjective} {self.noun}"

    @property
    def keeps_object(self) -> bool:
        """Whether the hero still has the treasure when the story ends."""
        return self.outcome != "gift"

    def key(self) -> tuple[str, ...]:
        """What identifies the combination: everything from which the rest follows."""
        return (
            self.hero, self.pronoun, self.kind, self.home, self.trait, self.want, self.adjective, self.noun,
            self.obstacle, self.outcome, self.helper,
        )  # fmt: skip


@dataclass(slots=True)
class Story:
    """A fable, what it says, and how many bits of choice it took.

    ``bits`` is the sum of -log2 p over every choice that the generator made: the facts under the
    distribution of the story's own split, and the sentences. Two chains of choices might spell the same
    text, so it is an upper bound of the text's own surprise; no model can do better on average than the
    mean of ``bits`` minus what such doubles save, which is next to nothing.
    """

    text: str
    facts: Facts
    bits: float
