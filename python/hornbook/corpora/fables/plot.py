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
    "Once there was a small {kind} named {N}, who lived {home_long}.",
    "Long ago, {home_long}, there lived a little {kind} named {N}.",
    "There was once a young {kind} named {N}, and {he} made {his} home {home_long}.",
    "{Home_long} there lived a small {kind} whose name was {N}.",
    "Everyone in the valley liked {N}, the little {kind} who lived {home_long}.",
    "This is the story of {N}, a young {kind} who lived {home_long}.",
)
SHOWN = (
    "{He} was {trait}, and {shown}.",
    "Everyone knew that {he} was {trait}, and that {shown}.",
    "{N} was {a_trait} little {kind}, and {shown}.",
)
TREASURE = (
    "{His} dearest treasure was {an_obj}, which once had been {his} grandmother's.",
    "{He} owned only one fine thing, {an_obj}, and {he} took it everywhere.",
    "From {his} father {he} had {an_obj}, and {he} never went out without it.",
    "Beside {his} bed {he} kept {an_obj}, the gift of an old friend.",
    "With {his} own savings {he} had bought {an_obj}, and {he} was very fond of it.",
    "{His} neighbors all admired the treasure that {he} carried about, {an_obj}.",
)
MORNING = (
    "One morning", "One bright morning", "One misty morning", "One windy morning", "One quiet morning",
    "One cool morning",
)  # fmt: skip
DEPARTURE = (
    "{morning} {N} took the {obj}, left the {home}, and set out for {place} to {want}.",
    '{morning} {N} left the {home} with the {obj}. "I will go to {place} and {want}," {he} said.',
    "{morning} {he} woke with a wish to {want}, so {N} took the {obj} and went from the {home} to {place}.",
    '"Today I am going to {place} to {want}," {N} called out {morning_low}, and left the {home} with the {obj}.',
)
ROAD = {
    "wit": (
        "The road ran on between the hedges, and the {home} was soon out of sight.",
        "Larks rose from the wheat, and the dust of the road was warm.",
        "It was a long way, and {N} hummed to make it shorter.",
        "Clouds sailed over the hills, and {he} matched {his} steps to theirs.",
    ),
    "tool": (
        "{He} also packed {a_tool}, just in case.",
        "A neighbor lent {him} {a_tool} for the road.",
        "By the gate {he} found {a_tool} and took it along.",
    ),
    "helper": (
        "On the way {he} {kindness}.",
        "A mile from the {home} {he} {kindness}.",
        "Before long {he} {kindness}.",
    ),
    "gift": (),
}
OBSTACLE = (
    "Halfway to {place}, {clause}.",
    "But on the road to {place}, {clause}.",
    "{He} had not gone far when trouble came: {clause}.",
    "Then {he} had to stop, for {clause}.",
)
MEETING = (
    'An old {helper} sat there in tears. "I lost everything I had," it said. "If only I had {an_obj} like yours!"',
    'Beside the road sat an old {helper}. "What a lovely {obj}!" it sighed. "Nothing of mine was ever so fine."',
    'There an old {helper} sat all alone. "Nobody ever gives me anything," it said, and looked at the {obj}.',
)
HELP = (
    'Just then the old {helper} came by. "You helped me, little {kind}," it said, and it {guided}.',
    '"Little {kind}, I have not forgotten you," said the old {helper}, and it {guided}.',
    'But the old {helper} had followed {him}. "One good turn deserves another, little {kind}," it said, and it '
    "{guided}.",
)
THANKS = (
    'The {helper} beamed. "Let me help you too, little {kind}," it said, and it {guided}.',
    '"I will never forget this, little {kind}," said the {helper}, and it {guided}.',
)
RETURN = {
    True: (
        "That evening the {kind} came home to the {home} and put the {obj} back in its place.",
        "When the stars came out, the {kind} was home at the {home}, with the {obj} close beside {him}.",
        "Then the {kind} went home to the {home}, and {N} fell asleep with the {obj} by {his} pillow.",
        "At dusk the {kind} came home to the {home} with the {obj} and a good story to tell.",
    ),
    False: (
        "That evening the {kind} came home to the {home} without the {obj}, but with a light heart.",
        "When the stars came out, the {kind} was home at the {home}, and {N} did not miss the {obj} at all.",
        "Then the {kind} went home to the {home}, glad to know that the {obj} had a new friend.",
    ),
}
MORAL = (
    "And so {N} learned that {moral}.",
    "From that day on, {N} knew that {moral}.",
    "Ever since, they say at the {home} that {moral}.",
    "And everyone who heard the story agreed that {moral}.",
    "To this day {N} will tell you that {moral}.",
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
    w["clause"] = obstacle.clause.format_map(w)
    w["guided"] = obstacle.guided.format_map(w)
    w["a_tool"] = obstacle.tool
    if f.outcome == "helper":
        w["kindness"] = HELPERS[f.helper]
    test = trait.turns[f.outcome].test
    # The blank before a sentence stands here, so that joining is one format call.
    parts = [pick(OPENING), " ", pick(SHOWN), " ", pick(TREASURE), "\n", pick(DEPARTURE)]
    if ROAD[f.outcome]:
        parts += [" ", pick(ROAD[f.outcome])]
    parts += [" ", pick(OBSTACLE), " "]
    if f.outcome == "wit":
        parts += [test, " ", obstacle.wit]
    elif f.outcome == "tool":
        parts += [test, " ", obstacle.tooled]
    elif f.outcome == "helper":
        parts += [test, " ", pick(HELP)]
    else:
        parts += [pick(MEETING), " ", test, " ", pick(THANKS)]
    ending = dict(PLACES[f.place])[f.want]
    parts += ["\n", ending, " ", pick(RETURN[f.keeps_object]), " ", pick(MORAL)]
    return "".join(parts).format_map(w), bits
