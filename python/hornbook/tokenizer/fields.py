"""Reading JSON that others wrote: every complaint names the place in the file and what stands there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import TokenizerError

HIGHEST_ID = 1 << 27  # a wild id would cost memory for all the holes below it


class Field:
    """A value in a JSON file, and the path to it: ``model.byte_fallback``, ``added_tokens[3].lstrip``."""

    __slots__ = ("path", "value")

    def __init__(self, value: Any, path: str = "") -> None:
        self.value = value
        self.path = path

    def __getitem__(self, key: str | int) -> Field:
        """The field below; the value None if it is missing. Raises TokenizerError unless this is an object."""
        if isinstance(key, int):
            return Field(self.value[key], f"{self.path}[{key}]")
        value = self.mapping().get(key)
        if not key.isidentifier():
            return Field(value, f"{self.path}[{shown(key)}]")
        return Field(value, f"{self.path}.{key}" if self.path else key)

    def refuse(self, why: str) -> TokenizerError:
        """The error that says where, what and why; to be raised."""
        if self.value is None:
            return TokenizerError(f"{self.path or 'the file'} is missing or null: {why}")
        return TokenizerError(f"{self.path or 'the file'} is {shown(self.value)}: {why}")

    def mapping(self) -> dict[str, Any]:
        if not isinstance(self.value, dict):
            raise self.refuse("expected a JSON object")
        return self.value

    def list(self) -> Iterator[Field]:
        """The items; those of an empty list if the value is missing."""
        if not isinstance(self.value, list | None):
            raise self.refuse("expected a list")
        return (self[i] for i in range(len(self.value or ())))

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.refuse("expected a string")
        if not self.value.isascii() and any("\ud800" <= char <= "\udfff" for char in self.value):
            raise self.refuse("it holds half of a surrogate pair, which no text does")
        return self.value

    def flag(self, default: bool = False) -> bool:
        if not isinstance(self.value, bool | None):
            raise self.refuse("expected true or false")
        return default if self.value is None else self.value

    def id(self) -> int:
        if not is_id(self.value):
            raise self.refuse(f"expected a token id, a whole number from 0 to {HIGHEST_ID}")
        return self.value

    def only(self, known: Iterable[str]) -> Field:
        """Itself, if it has no other keys than these, or such that are off.

        A key of a later version may change ids, unless it is null, false or empty.
        """
        for key in self.mapping().keys() - set(known):
            if self.value[key] not in (None, False, "", [], {}):
                raise self[key].refuse("this key is not known here, and it may change ids; remove it if it does not")
        return self

    def off(self, why: str, *keys: str) -> None:
        """Raises unless each of the keys is missing, null, false, zero or empty."""
        for key in keys:
            if self[key].value:
                raise self[key].refuse(why)


def is_id(value: object) -> bool:
    """Is this a number that can be a token's id?"""
    return type(value) is int and 0 <= value <= HIGHEST_ID


def shown(value: Any) -> str:
    """A value as JSON spells it, cut where it gets long."""
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 80 else f"{text[:76]} ..."


def parse(data: bytes) -> Any:
    """JSON, of which no object may have a key twice. Raises ValueError, and TokenizerError for such a key."""
    try:
        return json.loads(data, object_pairs_hook=_unique)
    except RecursionError:
        raise TokenizerError("the JSON is nested too deeply to be a tokenizer") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise TokenizerError(f"an object in it has the key {shown(twice)} twice; which one counts is not said")
    return out
