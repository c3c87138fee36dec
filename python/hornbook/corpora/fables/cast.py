"""Who is in a fable, where they live and what they carry: kinds, homes, objects, helpers.

The lists do not overlap, and no sentence of the world uses a word of theirs for anything else. So a
program can tell from the words alone who is meant: a "fox" is always the hero, a "heron" always the
helper, a "mill" always the home and a "kettle" always the treasure.
"""

from __future__ import annotations

# Heroes walk: one who can fly or swim would laugh at half of the obstacles.
KINDS = (
    "fox", "hare", "mouse", "badger", "hedgehog", "rabbit", "bear", "wolf", "goat", "donkey", "lamb",
    "mole", "kitten", "puppy", "pony", "calf", "piglet", "raccoon", "weasel", "fawn", "shrew", "vole",
    "dormouse", "ferret", "porcupine", "lynx", "hamster", "llama", "tortoise", "meerkat", "lizard",
    "jackal", "foal", "panda", "koala", "armadillo", "opossum", "skunk", "stoat", "wombat", "marmot",
    "gopher", "squirrel", "chipmunk",
)  # fmt: skip

# The noun is what later sentences repeat; the phrase is how the first one says it.
HOMES = {
    "mill": "in the mill by the river",
    "lighthouse": "in the lighthouse above the rocks",
    "barn": "in the barn behind the tall hedge",
    "cottage": "in the cottage at the edge of the village",
    "bakery": "in the bakery next to the fountain",
    "tower": "in the tower with the crooked stairs",
    "boathouse": "in the boathouse beneath the willows",
    "greenhouse": "in the greenhouse full of ferns",
    "stable": "in the stable across from the church",
    "cabin": "in the cabin among the larches",
    "forge": "in the forge at the crossroads",
    "castle": "in the castle with a hundred rooms",
    "schoolhouse": "in the schoolhouse at the top of the street",
    "library": "in the library with the round windows",
    "cave": "in the cave under the ridge",
    "farmhouse": "in the farmhouse at the end of the lane",
    "chapel": "in the chapel on the lonely moor",
    "wagon": "in the wagon between the haystacks",
    "cellar": "in the cellar below the toy store",
    "attic": "in the attic over the tailor's workshop",
    "inn": "in the inn at the foot of the mountain",
    "tent": "in the tent beside the sunflowers",
    "burrow": "in the burrow among the roots of an elm",
    "theater": "in the theater with the velvet curtains",
}

# Every adjective suits every noun; what a thing is made of would not.
ADJECTIVES = (
    "red", "blue", "green", "yellow", "purple", "golden", "silver", "white", "orange", "scarlet",
    "striped", "painted", "speckled", "tiny", "shiny", "spotted",
)  # fmt: skip

NOUNS = (
    "lantern", "kettle", "flute", "bell", "drum", "kite", "cup", "bowl", "box", "comb", "mirror", "ball",
    "scarf", "hat", "cloak", "umbrella", "whistle", "spoon", "locket", "compass", "fiddle", "teapot",
    "puppet", "doll", "bracelet", "crown", "harp", "hourglass", "spyglass", "pillow",
)  # fmt: skip

# The kindness that the hero does each helper on the road, for the stories in which it is repaid.
HELPERS = {
    "heron": "pulled a thorn from the foot of an old heron",
    "owl": "found the lost spectacles of an old owl",
    "crow": "freed an old crow from a tangled net",
    "duck": "carried an old duck out of the nettles",
    "frog": "lifted an old frog out of a dry ditch",
    "goose": "shared some bread with a hungry old goose",
    "swan": "picked the burrs from an old swan",
    "robin": "mended the nest of an old robin",
    "stork": "fetched water for a thirsty old stork",
    "turtle": "turned an old turtle right side up",
    "otter": "bandaged the sore tail of an old otter",
    "beaver": "held a log for a tired old beaver",
}


def a(words: str) -> str:
    """``words`` with "a" or "an" before them, by the first letter; "honest" is the one exception needed.

    >>> a("orange kettle"), a("fox")
    ('an orange kettle', 'a fox')
    """
    return ("an " if words[0] in "aeiou" or words.startswith("honest") else "a ") + words
