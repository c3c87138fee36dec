"""Configurations are dataclasses; here they become dictionaries and TOML, and come back checked."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from .errors import ConfigError, nearest

C = TypeVar("C")
NONE = "none"  # stands for None in TOML, which has no word for it


def from_dict(kind: type[C], values: Mapping[str, Any], source: str) -> C:
    """Make a dataclass from its fields.

    Args:
        kind: the dataclass.
        values: field name → value; fields not named keep their defaults.
        source: where the values were read, for the error message.

    Raises:
        ConfigError: for a key that ``kind`` does not have, naming the nearest one it has, for a value
            whose type is not the field's, and for what ``kind`` itself refuses.
    """
    checked = read_fields(kind, values, source)
    try:
        return kind(**checked)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def read_fields(
    kind: type[Any], values: Mapping[str, Any], source: str, defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The fields that ``values`` names, each as the type that ``kind`` declares for it.

    Lists become tuples and texts paths where such are declared, as TOML and JSON know neither. A table becomes the
    dataclass that is declared: the one in ``defaults`` (or the field's default) with what the table says changed.

    Raises:
        ConfigError: as for `from_dict`.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source}: expected a table of settings, found {type(values).__name__}")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(f"{source}: there is no setting {key!r}{nearest(key, fields)}")
        hint, default = hints[key], (defaults or {}).get(key, fields[key].default)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
            inside = f"{source} [{key}]"
            try:
                start = hint() if default is dataclasses.MISSING else default
                checked[key] = dataclasses.replace(start, **read_fields(hint, value, inside))
            except ConfigError as error:
                raise error if str(error).startswith(inside) else ConfigError(f"{inside}: {error}") from None
            continue
        converted = _converted(value, hint)
        if not _matches(converted, hint):
            is_plain = type(default) in (int, float, str, bool) and typing.get_origin(hint) is not typing.Literal
            like = f" like {default!r}" if is_plain else ""
            raise ConfigError(f"{source}: {key} should be {_words(hint)}{like}, but is {value!r}")
        checked[key] = converted
    return checked


def _converted(value: Any, hint: Any) -> Any:
    """``value`` as the type that is declared, if it is only another way to write it."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value == NONE and _says_none(hint):
            return None
        return next((made for option in inner if _matches(made := _converted(value, option), option)), value)
    if origin is tuple and isinstance(value, list):
        several = [inner[0]] * len(value) if inner[-1:] == (Ellipsis,) else inner
        return tuple(_converted(v, h) for v, h in zip(value, several, strict=False))
    return Path(value) if hint is Path and isinstance(value, str) else value


def _says_none(hint: Any) -> bool:
    """Whether a field may be None, and could not be the text that stands for it in a file."""
    options = typing.get_args(hint)
    return types.NoneType in options and not {str, Path} & set(options)


def check_types(config: Any) -> None:
    """Raise ConfigError for a field whose value is not of the type that the dataclass declares, or not a number."""
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if not _matches(value, hint) or (isinstance(value, float) and math.isnan(value)):
            raise ConfigError(f"{name} should be {_words(hint)}, but is {value!r}")


def _words(hint: Any) -> str:
    """What a field should be, in words: "of type int", or "one of 'fp32', 'bf16'"."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(map(repr, typing.get_args(hint)))}"
    return f"of type {hint if typing.get_origin(hint) else getattr(hint, '__name__', hint)}".replace("typing.", "")


def _matches(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is typing.Literal:
        return any(value == choice and type(value) is type(choice) for choice in inner)
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, option) for option in inner)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        several = [inner[0]] * len(value) if inner[-1:] == (Ellipsis,) else inner
        return len(value) == len(several) and all(map(_matches, value, several))
    if origin is list:
        return isinstance(value, list) and all(_matches(v, inner[0]) for v in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


def to_dict(config: Any) -> dict[str, Any]:
    """The fields of a dataclass, as JSON can hold them."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def to_toml(settings: Any) -> str:
    """A dataclass, or a dictionary, as TOML; dataclasses inside become tables.

    None is "none" where the field's type takes no text; elsewhere it is left out.
    """
    is_dataclass = dataclasses.is_dataclass(settings)
    given = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)} if is_dataclass else settings
    hints = typing.get_type_hints(type(settings)) if is_dataclass else {}
    tables = {name: value for name, value in given.items() if dataclasses.is_dataclass(value)}
    lines = []
    for key, value in given.items():
        if value is None and _says_none(hints.get(key)):
            lines.append(f'{key} = "{NONE}"')
        elif value is not None and key not in tables:
            lines.append(f"{key} = {_toml(_plain(value))}")
    for name, table in tables.items():
        lines += ["", f"[{name}]", to_toml(table).rstrip("\n")]
    return "\n".join(lines).lstrip("\n") + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml(v) for v in value)}]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_toml(str(key))} = {_toml(v)}' for key, v in value.items())}}}"
    # TOML's strings, numbers and booleans are JSON's, but that TOML wants the DEL character escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file, or a ConfigError that names the file and the line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not valid TOML: too deeply nested") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
