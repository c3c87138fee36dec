"""What heroes are like, how a trait is tested, and the moral that follows.

A trait allows two outcomes. For each there is one sentence in which the trait meets the obstacle and one
moral, so the moral is never an ornament: it says what that sentence showed. Half a dozen of the traits are
faults; the hero begins with one and ends without it.
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
    """``shown`` follows "was <trait>, and"; ``turns`` maps each outcome that suits the trait to its turn."""

    shown: str
    turns: dict[str, Turn]


OUTCOMES = ("wit", "tool", "helper", "gift")

TRAITS = {
    "patient": Trait(
        "{he} could watch a bud all morning to see it open",
        {
            "wit": Turn(
                '"There is no hurry," said {N}, and {he} sat down and looked at the trouble from every side.',
                "whoever waits and watches will find a way",
            ),
            "tool": Turn(
                '"Slowly does it," said {N}, and {he} set to work, a little at a time.',
                "great things are done little by little",
            ),
        },
    ),
    "brave": Trait(
        "{he} was not afraid of thunder or the dark",
        {
            "wit": Turn(
                'For once {N} felt cold with fear. "I am afraid, and I will try all the same," {he} said.',
                "courage means to be afraid and still go on",
            ),
            "tool": Turn(
                '"Somebody has to be first," said {N}, and {he} stepped forward with {his} chin held high.',
                "a brave first step is half the journey",
            ),
        },
    ),
    "clever": Trait(
        "{he} could answer any riddle in the land",
        {
            "wit": Turn(
                '{N} walked up and down and thought hard. "Aha!" {he} cried at last. "I have it!"',
                "a good idea is better than a strong back",
            ),
            "tool": Turn(
                '"What have I brought, and what can it do?" {N} asked, and then {he} began to smile.',
                "a clever head makes much out of little",
            ),
        },
    ),
    "careful": Trait(
        "{he} tried every step before {he} took it",
        {
            "wit": Turn(
                '"Look first and leap later," said {N}, and {he} studied the ground inch by inch.',
                "it is better to look twice than to fall once",
            ),
            "tool": Turn(
                '"I thought that something like this might happen," said {N}, who had come prepared.',
                "whoever prepares in time can travel without worry",
            ),
        },
    ),
    "curious": Trait(
        "{he} turned over every stone to see what was below",
        {
            "wit": Turn(
                '"Now how did that happen?" asked {N}, and {he} went closer to find out.',
                "one good question can open a closed road",
            ),
            "tool": Turn(
                '"I wonder what would happen if I tried something new," said {N}.',
                "those who try new things find new roads",
            ),
        },
    ),
    "hardworking": Trait(
        "{he} never left a job half done",
        {
            "wit": Turn(
                '{N} tried once and failed, and tried again and failed. "The third time counts," {he} said.',
                "those who do not give up will arrive",
            ),
            "tool": Turn(
                '"Then I had better begin," said {N}, and {he} did not rest until it was done.',
                "steady work can move a mountain",
            ),
        },
    ),
    "kind": Trait(
        "{he} always stopped when someone was in trouble",
        {
            "helper": Turn(
                '{N} did not know what to do. "I only hope that nobody was hurt here," {he} said.',
                "a kindness always finds its way back",
            ),
            "gift": Turn(
                "{N} could not bear to see anyone so sad, and {he} gave the {obj} to the {helper}.",
                "what is given with love is never lost",
            ),
        },
    ),
    "generous": Trait(
        "{he} never ate a cake without giving half of it away",
        {
            "helper": Turn(
                '"If I had a boat or a pair of wings, I would lend them to everyone," sighed {N}.',
                "whoever gives help will be given help",
            ),
            "gift": Turn(
                '"Please take it," said {N}, and {he} gave the {obj} to the {helper} with a bow.',
                "an open hand is never empty for long",
            ),
        },
    ),
    "honest": Trait(
        "{he} told the truth even when it was hard",
        {
            "helper": Turn(
                '"I cannot do this alone," {N} said aloud, because it was the truth.',
                "there is no shame in saying that you need help",
            ),
            "gift": Turn(
                '"It is not worth much," said {N}, who would not lie, "but it is yours," '
                "and {he} gave the {obj} to the {helper}.",
                "a true word is worth more than gold",
            ),
        },
    ),
    "cheerful": Trait(
        "{he} sang even when it rained",
        {
            "helper": Turn(
                '"At least it is not raining too!" laughed {N}, and {he} sang so merrily that it rang for miles.',
                "a merry song brings friends from far away",
            ),
            "wit": Turn(
                '"A puzzle! How lucky that I like puzzles," laughed {N}, and soon {he} had the answer.',
                "trouble weighs less when you laugh at it",
            ),
        },
    ),
    "humble": Trait(
        "{he} never talked about the good things {he} did",
        {
            "helper": Turn(
                '"Others know more than I do," said {N}. "I will ask the first one who comes along."',
                "the wise are not too proud to ask",
            ),
            "gift": Turn(
                '"You will make better use of it than I do," said {N}, and {he} gave the {obj} to the {helper}.',
                "the best gifts are given quietly",
            ),
        },
    ),
    "gentle": Trait(
        "even the butterflies were not afraid of {him}",
        {
            "helper": Turn(
                '{N} did not shout or stamp. {He} only called softly, "Is anyone there?"',
                "a soft voice is heard where shouting is not",
            ),
            "gift": Turn(
                "{N} stroked the {helper} until it was calm, and then {he} gave it the {obj}.",
                "a gentle heart can dry any tears",
            ),
        },
    ),
    "proud": Trait(
        "{he} did not like to be told anything",
        {
            "helper": Turn(
                '"I need nobody!" said {N}. But {he} tried and failed until {he} called, "Please, help me!"',
                "pride walks alone, but friends arrive together",
            ),
            "wit": Turn(
                '"I know everything," said {N}, and {he} fell flat on {his} nose. Then {he} began to think.',
                "those who know everything learn nothing",
            ),
        },
    ),
    "hasty": Trait(
        "{he} never looked before {he} jumped",
        {
            "wit": Turn(
                '{N} rushed ahead and fell into the mud. "Next time I will think first," {he} groaned.',
                "haste only makes the road longer",
            ),
            "tool": Turn(
                '"Quick, quick!" cried {N}, and {he} slipped and fell. The second time {he} went slowly.',
                "slow and sure is faster than quick and sorry",
            ),
        },
    ),
    "stubborn": Trait(
        "{he} never changed {his} mind",
        {
            "helper": Turn(
                '"I will go straight on," said {N}, and {he} tried until {he} was worn out. '
                '"Well, now I will listen," {he} sighed.',
                "good advice is worth a change of mind",
            ),
            "wit": Turn(
                '{N} pushed straight ahead until {he} could push no more. "Or is there another way?" {he} asked.',
                "when one door stays shut, it is wise to try another",
            ),
        },
    ),
    "greedy": Trait(
        "{he} always wanted more than {he} had",
        {
            "helper": Turn(
                '"Why should anyone help me, when I hardly ever share?" asked {N} sadly.',
                "even one small kindness is remembered",
            ),
            "gift": Turn(
                '"It is mine!" cried {N}. Then {he} felt ashamed, and {he} gave the {obj} to the {helper}.',
                "sharing brings more joy than keeping",
            ),
        },
    ),
    "shy": Trait(
        "{he} hid whenever strangers came by",
        {
            "helper": Turn(
                '{N} wanted to hide. Instead {he} took a deep breath and called, "Can anybody help me?"',
                "one bold word can win a friend",
            ),
            "gift": Turn(
                "{N} was too shy to speak, so {he} held out the {obj} to the {helper} and smiled.",
                "a gift can speak when words are hard to find",
            ),
        },
    ),
    "timid": Trait(
        "{he} jumped at every rustling leaf",
        {
            "wit": Turn(
                "{N} hid behind a stone, but the longer {he} looked, the smaller the danger seemed.",
                "most troubles shrink when you look at them",
            ),
            "tool": Turn(
                '{N} trembled and nearly ran home. "Only one step," {he} whispered, "and then one more."',
                "the longest road is walked one step at a time",
            ),
        },
    ),
    "lazy": Trait(
        "{he} never did today what could wait until tomorrow",
        {
            "wit": Turn(
                '{N} sat and sighed, and nothing changed. "Sighing is no use," {he} said, and stood up.',
                "wishing is not the same as doing",
            ),
            "tool": Turn(
                "{N} lay down and waited for someone else to do the work, but nobody came. So up {he} got.",
                "work that is put off does not do itself",
            ),
        },
    ),
    "grumpy": Trait(
        "{he} complained about sunshine and rain alike",
        {
            "helper": Turn(
                '"The whole world is against me," grumbled {N}. "Not the whole world," said a voice.',
                "a good friend can sweeten the sourest day",
            ),
            "gift": Turn(
                "{N} grumbled, but {he} gave the {obj} to the {helper} after all, and had to smile.",
                "doing good is the best cure for a bad mood",
            ),
        },
    ),
}
