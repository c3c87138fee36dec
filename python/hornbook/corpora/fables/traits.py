"""What heroes are like, how a trait is tested, and the moral that follows.

A trait allows two outcomes. For each there is one sentence in which the trait meets the obstacle and one
moral, so the moral is never an ornament: it says what that sentence showed. Eight of the traits are faults;
the hero begins with one and learns better.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Turn:
    """How a trait meets an obstacle (``test``) and what the story then teaches (``moral``)."""

    test: str
    moral: str


@dataclass(frozen=True, slots=True)
class Trait:
    """A clause about the hero that shows the trait, and its turn for each outcome that suits it."""

    shown: str
    turns: dict[str, Turn]


OUTCOMES = ("wit", "tool", "helper", "gift")

TRAITS = {
    "patient": Trait(
        "{he} could watch a bud until it opened",
        {
            "wit": Turn(
                '"There is no hurry," said {N}, and {he} sat down to look and wait.',
                "whoever waits and watches will find a way",
            ),
            "tool": Turn(
                '"A little at a time," said {N}, and {he} set to work.',
                "great things are done little by little",
            ),
        },
    ),
    "brave": Trait(
        "{he} always went first",
        {
            "wit": Turn(
                '"I am afraid, but I will try," said {N}.',
                "courage means to be afraid and still go on",
            ),
            "tool": Turn(
                '"Somebody has to be first," said {N}, and {he} stepped forward.',
                "a brave first step is half the journey",
            ),
        },
    ),
    "clever": Trait(
        "{he} could answer any riddle in the land",
        {
            "wit": Turn(
                '{N} thought hard. "I have it!" {he} cried at last.',
                "a good idea is better than a strong back",
            ),
            "tool": Turn(
                '"What have I brought, and what can it do?" asked {N}.',
                "a clever head makes much out of little",
            ),
        },
    ),
    "careful": Trait(
        "{he} tested every step",
        {
            "wit": Turn(
                '"Look first and leap later," said {N}, looking around.',
                "it is better to look twice than to fall once",
            ),
            "tool": Turn(
                '"I thought so," said {N}, who had come prepared.',
                "whoever prepares can travel without worry",
            ),
        },
    ),
    "curious": Trait(
        "{he} looked under every stone",
        {
            "wit": Turn(
                '"What have we here?" asked {N}, and {he} looked closely.',
                "one good question can open a closed road",
            ),
            "tool": Turn(
                '"Let me try something new," said {N}.',
                "those who try new things find new roads",
            ),
        },
    ),
    "hardworking": Trait(
        "{he} never left a job half done",
        {
            "wit": Turn(
                '{N} tried and failed, and tried and failed. "Once more," {he} said.',
                "those who do not give up will arrive",
            ),
            "tool": Turn(
                '"Then I had better begin," said {N}, and {he} did not rest.',
                "steady work can move a mountain",
            ),
        },
    ),
    "kind": Trait(
        "{he} always stopped to help",
        {
            "helper": Turn(
                '"I hope that nobody else gets stuck here," said {N}.',
                "a kindness always finds its way back",
            ),
            "gift": Turn(
                '"Do not be sad," said {N}, and gave {his} {obj} to the {helper}.',
                "what is given with love is never lost",
            ),
        },
    ),
    "generous": Trait(
        "{he} always gave away half of {his} cake",
        {
            "helper": Turn(
                '"I would give my last crumb for some help," said {N}.',
                "whoever gives help will be given help",
            ),
            "gift": Turn(
                '"Please take it," said {N}, and gave {his} {obj} to the {helper}.',
                "an open hand is never empty for long",
            ),
        },
    ),
    "honest": Trait(
        "{he} told the truth even when it was hard",
        {
            "helper": Turn(
                '"I cannot do this alone," said {N}, and that was the truth.',
                "there is no shame in needing help",
            ),
            "gift": Turn(
                '"It is not worth much," said {N}, who would not lie, "but it is yours," '
                "and {he} gave {his} {obj} to the {helper}.",
                "a true word is worth more than gold",
            ),
        },
    ),
    "cheerful": Trait(
        "{he} sang even when it rained",
        {
            "helper": Turn(
                '"A song cannot make it worse!" laughed {N}, and {he} sang out loud.',
                "a merry song brings friends from far away",
            ),
            "wit": Turn(
                '"How lucky that I like puzzles!" laughed {N}.',
                "trouble weighs less when you laugh at it",
            ),
        },
    ),
    "humble": Trait(
        "{he} never talked about {himself}",
        {
            "helper": Turn(
                '"Others know more than I do," said {N}. "I will ask."',
                "the wise are not too proud to ask",
            ),
            "gift": Turn(
                '"You need it more than I do," said {N}, and gave {his} {obj} to the {helper}.',
                "the best gifts are given quietly",
            ),
        },
    ),
    "gentle": Trait(
        "{he} would not harm a fly",
        {
            "helper": Turn(
                '{N} did not shout. "Could somebody help, please?" {he} asked softly.',
                "a soft voice is heard where shouting is not",
            ),
            "gift": Turn(
                "{N} stroked the {helper} until it was calm, and then {he} gave it {his} {obj}.",
                "a gentle heart can dry any tears",
            ),
        },
    ),
    "proud": Trait(
        "{he} did not like to be told anything",
        {
            "helper": Turn(
                '"I need nobody!" said {N}. But {he} failed, and called, "Please, help me!"',
                "pride walks alone, but friends arrive together",
            ),
            "wit": Turn(
                '"I know all about this," said {N}, and got it wrong. Then {he} began to think.',
                "those who know everything learn nothing",
            ),
        },
    ),
    "hasty": Trait(
        "{he} never looked before {he} jumped",
        {
            "wit": Turn(
                '{N} jumped in and made it worse. "Next time I will think first," {he} groaned.',
                "haste only makes the road longer",
            ),
            "tool": Turn(
                '"Quick, quick!" cried {N}, and got it wrong. The second time {he} went slowly.',
                "slow and sure is faster than quick and sorry",
            ),
        },
    ),
    "stubborn": Trait(
        "{he} never changed {his} mind",
        {
            "helper": Turn(
                '"I need no advice," said {N}. But by noon {he} was ready to listen.',
                "good advice is worth a change of mind",
            ),
            "wit": Turn(
                '{N} pushed ahead and got nowhere. "Is there another way?" {he} asked at last.',
                "when one door is shut, it is wise to try another",
            ),
        },
    ),
    "greedy": Trait(
        "{he} always wanted more than {he} had",
        {
            "helper": Turn(
                '"Who would help me, when I hardly ever share?" asked {N}.',
                "even one small kindness is remembered",
            ),
            "gift": Turn(
                '"It is mine!" cried {N}. Then {he} felt ashamed, and gave {his} {obj} to the {helper}.',
                "sharing brings more joy than keeping",
            ),
        },
    ),
    "shy": Trait(
        "{he} hid whenever strangers came by",
        {
            "helper": Turn(
                '{N} wanted to hide, but {he} called, "Can anybody help me?"',
                "one bold word can win a friend",
            ),
            "gift": Turn(
                "Without a word, {N} held out {his} {obj} to the {helper} and smiled.",
                "a gift can speak when words are hard to find",
            ),
        },
    ),
    "timid": Trait(
        "{he} jumped at every rustling leaf",
        {
            "wit": Turn(
                "{N} hid. But the longer {he} looked, the smaller the trouble seemed.",
                "most troubles shrink when you look at them",
            ),
            "tool": Turn(
                '"Only one step," whispered {N}, "and then one more."',
                "the longest road is walked one step at a time",
            ),
        },
    ),
    "lazy": Trait(
        "{he} put everything off until tomorrow",
        {
            "wit": Turn(
                "{N} sat and sighed, and nothing changed. So up {he} got.",
                "wishing is not the same as doing",
            ),
            "tool": Turn(
                '"Someone else will do it," yawned {N}. But nobody came.',
                "work that is put off does not do itself",
            ),
        },
    ),
    "grumpy": Trait(
        "{he} complained about sunshine and rain alike",
        {
            "helper": Turn(
                '"Nobody likes me," grumbled {N}. "I do," said a voice.',
                "a good friend can sweeten the sourest day",
            ),
            "gift": Turn(
                "{N} grumbled, but gave {his} {obj} to the {helper}, and had to smile.",
                "doing good is the best cure for a bad mood",
            ),
        },
    ),
}
