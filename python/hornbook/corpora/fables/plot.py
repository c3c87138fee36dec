"""From facts to sentences. One plot for all: who, what for, what stood in the way, how it was passed, the moral.

Each slot has a handful of frames. A frame is long, and most of its words are fixed; what varies are facts,
and a fact is paid for (in bits) where it is first told and free ever after, to whoever remembers it. A model
that looks back only two words must pay for it each time. That difference is what the corpus teaches.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log2

from .cast import HELPERS, HOMES, a
from .facts import Facts
from .obstacles import OBSTACLES
from .places import PLACES
from .traits import TRAITS

OPENING = (
    "Once there was {a_trait} little {kind} named {N}, who lived {home_long}.",
    "Long ago, {home_long}, there lived {a_trait} little {kind} named {N}.",
    "There was once {a_trait} little {kind} named {N}, who lived {home_long}.",
    "{Home_long} there lived {a_trait} little {kind} named {N}.",
    "Everyone in the valley knew {N}, the {trait} little {kind} {home_long}.",
    "This is the story of {N}, {a_trait} little {kind} who lived {home_long}.",
    "{A_trait} little {kind} named {N} made {his} home {home_long}.",
    "Far from any city, {home_long}, lived {a_trait} little {kind} named {N}.",
)
SHOWN = (
    "{Shown}.",
    "{N} was so {trait} that {shown}.",
    "Everyone said that {shown}.",
    "All the neighbors knew that {shown}.",
)
TREASURE = (
    "{He} owned one fine thing, {his} {obj}.",
    "The finest thing {he} had was {his} {obj}.",
    "Wherever {he} went, {he} carried {his} {obj}.",
    "What {he} loved best of all was {his} {obj}.",
    "Beside the bed {he} kept {his} {obj}, the gift of an old friend.",
    "Nothing was as dear to {him} as {his} {obj}.",
    "{He} took good care of {his} {obj}, a gift from long ago.",
    "{N} was never seen without {his} {obj}.",
)
MORNING = (
    "One morning", "One bright morning", "One misty morning", "One windy morning", "One quiet morning",
    "One cool morning",
    "One sunny morning",
    "One gray morning",
)  # fmt: skip
DEPARTURE = (
    "{morning} {N} took {his} {obj} and left the {home} to {want}.",
    '{morning} {N} left the {home} with {his} {obj}. "I want to {want}," {he} said.',
    "{morning} {N} felt a wish to {want}, took {his} {obj}, and left the {home}.",
    '"Today I will {want}!" said {N} {morning_low}, and left the {home} with {his} {obj}.',
    "{morning} {N} set out from the {home} with {his} {obj} to {want}.",
    '{morning} {N} waved to the {home}, took {his} {obj}, and said, "I will go and {want}."',
)
ROAD = {
    "wit": (
        "",
        " Soon the {home} was out of sight.",
        " Larks rose from the wheat, and the dust of the road was warm.",
        " It was a long way, and {he} hummed to make it shorter.",
        ' "Come back soon!" called the neighbors.',
        " Clouds sailed along above {him}.",
    ),
    "tool": (
        " {He} also packed {a_tool}, just in case.",
        " A neighbor lent {him} {a_tool} for the road.",
        " By the gate {he} found {a_tool} and took it along.",
        ' "Take {a_tool}, too," advised the neighbors, and {he} did.',
    ),
    "helper": (
        " Around the first bend {he} {kindness}.",
        " A mile from the {home} {he} {kindness}.",
        " Before long {he} {kindness}.",
    ),
    "gift": ("",),
}
OBSTACLE = (
    " Halfway to {place}, {clause}.",
    " But on the way to {place}, {clause}.",
    " Then trouble came: {clause}.",
    " But then {he} had to stop, for {clause}.",
    " But not far from {place}, {clause}.",
    " What was that ahead? {Clause}.",
)
ALONE = (" The little {kind}", " So the little {kind}", " Then the little {kind}", " And the little {kind}")
MEETING = (
    ' An old {helper} came by. "If only I had {an_obj} like yours!" it said.',
    ' Along came an old {helper}. "What a lovely {obj}!" it sighed.',
    ' An old {helper} stared at {his} {obj}. "I own nothing," it said.',
    ' There sat an old {helper} in tears. "Nobody ever gave me {an_obj}," it said.',
)
HELP = (
    ' "You helped me, little {kind}," said the old {helper}, and it {guided}.',
    ' "Little {kind}, it is my turn," said the old {helper}, and it {guided}.',
    " The old {helper} had heard the little {kind}, and it {guided}.",
)
THANKS = (
    ' "Thank you, little {kind}," it said, and it {guided}.',
    ' "Come, little {kind}," it said, and it {guided}.',
    " It hugged the little {kind}, and then it {guided}.",
)
RETURN = {
    True: (
        "At last the little {kind} came home to the {home} and put {his} {obj} back in its place.",
        "Tired and happy, the little {kind} came home to the {home} with {his} {obj}.",
        "Then the little {kind} carried {his} {obj} home to the {home}.",
        "The little {kind} came home to the {home} with {his} {obj} and a good story.",
        "When the little {kind} was back in the {home}, {he} fell asleep beside {his} {obj}.",
        "Then {N} the little {kind} went home to the {home} with {his} {obj}.",
        "Home to the {home} went the little {kind} with {his} {obj}, singing all the way.",
    ),
    False: (
        "The little {kind} came home to the {home} without {his} {obj}, but with a light heart.",
        "The little {kind} went home to the {home}, glad that {his} {obj} had a new friend.",
        "When the little {kind} was back in the {home}, {he} did not miss {his} {obj} at all.",
        "Then {N} the little {kind} went home to the {home} without {his} {obj}.",
    ),
}
MORAL = (
    "And so {N} learned that {moral}.",
    "From that day on, {N} knew that {moral}.",
    "They still say in the {home}, where {N} lives, that {moral}.",
    "Everyone who hears of {N} agrees that {moral}.",
    "To this day {N} will tell you that {moral}.",
    "And {N} never forgot that {moral}.",
    "What did {N} learn? That {moral}.",
)


def tell(f: Facts, random: Callable[[], float]) -> tuple[str, float]:
    """The text of ``f`` and the bits that the choice of sentences took.

    ``random`` gives numbers in [0, 1); every choice is an even one.
    """
    bits = 0.0

    def pick(options: tuple[str, ...]) -> str:
        nonlocal bits
        bits += log2(len(options))
        return options[int(random() * len(options))]

    she = f.pronoun == "she"
    trait, obstacle = TRAITS[f.trait], OBSTACLES[f.obstacle]
    morning = pick(MORNING)
    w = {
        "N": f.hero,
        "he": f.pronoun,
        "He": "She" if she else "He",
        "his": "her" if she else "his",
        "His": "Her" if she else "His",
        "him": "her" if she else "him",
        "himself": "herself" if she else "himself",
        "kind": f.kind,
        "home": f.home,
        "home_long": HOMES[f.home],
        "Home_long": "I" + HOMES[f.home][1:],
        "trait": f.trait,
        "a_trait": a(f.trait),
        "A_trait": a(f.trait).capitalize(),
        "want": f.want,
        "place": f.place,
        "obj": f.object,
        "an_obj": a(f.object),
        "helper": f.helper,
        "moral": f.moral,
        "morning": morning,
        "morning_low": morning.replace("One", "one"),
    }
    w["shown"] = trait.shown.format_map(w)
    w["Shown"] = w["He"] + w["shown"][len(f.pronoun) :]
    w["clause"] = obstacle.clause.format_map(w)
    w["Clause"] = w["clause"][0].upper() + w["clause"][1:]
    w["guided"] = obstacle.guided.format_map(w)
    w["a_tool"] = obstacle.tool
    if f.outcome == "helper":
        w["kindness"] = HELPERS[f.helper]
    test = trait.turns[f.outcome].test
    # The blank before a sentence that may be missing stands inside it.
    parts = [pick(OPENING), " ", pick(SHOWN), " ", pick(TREASURE), "\n", pick(DEPARTURE), pick(ROAD[f.outcome])]
    parts.append(pick(OBSTACLE))
    if f.outcome == "gift":
        parts += [pick(MEETING), " ", test, pick(THANKS)]
    elif f.outcome == "helper":
        parts += [" ", test, pick(HELP)]
    else:
        parts += [" ", test, pick(ALONE), " ", obstacle.wit if f.outcome == "wit" else obstacle.tooled, "."]
    ending = dict(PLACES[f.place])[f.want]
    parts += ["\n", ending, " ", pick(RETURN[f.keeps_object]), " ", pick(MORAL)]
    return "".join(parts).format_map(w), bits
