"""What Hornbook raises when the fault lies in what it was given.

Each message says what was expected, what came and what to do. The command line prints it as one line and
exits with status 1; a traceback is for faults of our own.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HornbookError(Exception):
    """The base of every error that a caller can cause and mend."""


class ConfigError(HornbookError, ValueError):
    """A configuration that makes no sense, or one from another version."""


class DataError(HornbookError, ValueError):
    """Text, tokens or shards that are missing, empty or broken."""


class CheckpointError(HornbookError, ValueError):
    """A checkpoint or model directory that is missing, truncated or of another shape."""


class TokenizerError(HornbookError, ValueError):
    """A vocabulary, pattern or id that does not fit."""


class TerminationError(KeyboardInterrupt):
    """SIGTERM came to a command: it ends in the same order as after Ctrl-C, also where Ctrl-C only stops a text."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown ``word``: "; did you mean 'x'?" or the known words."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}"
