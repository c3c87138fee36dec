"""First names: those of a census, which come with Hornbook, and the list that makemore learns from.

The census counted 4,275 women's and 1,219 men's names that 90 % of the people in its sample bear; 331 are on both
lists. `names.txt` has them by the sum of both shares, equal ones in the order of the alphabet.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .corpus import Corpus


def census() -> Iterator[str]:
    """The names of the US census of 1990, the most frequent first."""
    lines = Path(__file__).with_name("names.txt").read_text(encoding="ascii").splitlines()
    return (line for line in lines if not line.startswith("#"))


NAMES = Corpus(
    "names",
    "5,163 first names of the US census of 1990, most frequent first; a document is a name",
    "public domain",
    "the US Census Bureau",
    30_959,
    census,
)
