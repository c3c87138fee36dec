"""Heroes' names: given ones from many countries, and invented ones from one syllabary.

The invented ones exist so that a model cannot learn all names by heart and has to copy them. A tenth of
them is kept for the held-out split; because they are made of the same syllables as the others, reading one
needs nothing that training did not show.
"""

from __future__ import annotations

import itertools
from zlib import crc32

# The pronoun goes with the name. None of these is an English word, at the head of a sentence or elsewhere.
GIVEN = {
    "Mira": "she", "Anna": "she", "Nina": "she", "Clara": "she", "Freya": "she", "Ingrid": "she",
    "Lucia": "she", "Elena": "she", "Ines": "she", "Leila": "she", "Nadia": "she", "Fatima": "she",
    "Priya": "she", "Asha": "she", "Kavya": "she", "Amara": "she", "Zuri": "she", "Ngozi": "she",
    "Aiko": "she", "Yuki": "she", "Mei": "she", "Linh": "she", "Hana": "she", "Miriam": "she",
    "Tova": "she", "Olga": "she", "Katya": "she", "Zofia": "she", "Emma": "she", "Leilani": "she",
    "Oskar": "he", "Hugo": "he", "Felix": "he", "Theo": "he", "Otto": "he", "Sven": "he",
    "Lars": "he", "Bjorn": "he", "Pablo": "he", "Diego": "he", "Mateo": "he", "Luca": "he",
    "Enzo": "he", "Amir": "he", "Omar": "he", "Yusuf": "he", "Tariq": "he", "Samir": "he",
    "Ravi": "he", "Anil": "he", "Arjun": "he", "Kofi": "he", "Kwame": "he", "Chidi": "he",
    "Kenji": "he", "Haru": "he", "Minh": "he", "Ezra": "he", "Ivan": "he", "Boris": "he",
    "Misha": "he", "Pavel": "he", "Tomas": "he", "Kai": "he",
}  # fmt: skip

FIRST = (
    "Ba", "Be", "Da", "Do", "Fe", "Ga", "Ka", "Ki", "Lo", "Lu", "Mo", "Na", "Ne", "Pa", "Pe", "Ra",
    "Ri", "Ta", "Ve", "Zo",
)  # fmt: skip
MIDDLE = ("ba", "di", "le", "ka", "lo", "mi", "ni", "ro", "ru", "so", "ti", "vo")
LAST = ("ba", "bu", "da", "fi", "ko", "la", "lu", "mi", "nu", "pi", "ri", "ro", "sa", "va", "vi", "zu")
# What the syllabary makes by accident: words, and beginnings that no parent wants to read aloud.
UNSUITABLE = frozenset(
    ("Gala", "Kava", "Kiva", "Nada", "Nasa", "Nazu", "Nero", "Papi", "Peda", "Rapi", "Tabu", "Tapi", "Veda")
)
UNSUITABLE_START = ("Feka", "Kaka", "Peni")
INVENTED_SHARE = 0.4  # of the stories
LONG_SHARE = 0.5  # of the invented names: three syllables, not two


def _stable(word: str, parts: int) -> bool:
    """True for about one ``word`` in ``parts``, the same ones on every machine and in every release."""
    return crc32(word.encode()) % parts == 0


def _suitable(*syllables: str) -> bool:
    """Whether these make a name: no syllable twice in a row, no known word, no given name."""
    name = "".join(syllables)
    return (
        all(x.lower() != y for x, y in itertools.pairwise(syllables))
        and name not in UNSUITABLE
        and name not in GIVEN
        and not name.startswith(UNSUITABLE_START)
    )


SHORT = tuple(f + z for f in FIRST for z in LAST if _suitable(f, z))
LONG = tuple(f + m + z for f in FIRST for m in MIDDLE for z in LAST if _suitable(f, m, z))
ALL = frozenset((*GIVEN, *SHORT, *LONG))
HELD_OUT = frozenset([*(n for n in GIVEN if _stable("given " + n, 12)), *(n for n in SHORT + LONG if _stable(n, 10))])


def _share(names: tuple[str, ...]) -> float:
    return sum(n in HELD_OUT for n in names) / len(names)


GIVEN_NAMES = tuple(GIVEN)
HELD_OUT_SHARE = (1 - INVENTED_SHARE) * _share(GIVEN_NAMES) + INVENTED_SHARE * (
    LONG_SHARE * _share(LONG) + (1 - LONG_SHARE) * _share(SHORT)
)
