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
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source}: expected a table of settings, found {type(values).__name__}")
    fields = {f.name: f for f in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(f"{source}: {kind.__name__} has no setting {key!r}{nearest(key, fields)}")
        default = fields[key].default
        if type(default) in (int, float, str, bool) and not _fits(value, default):
            raise ConfigError(
                f"{source}: {key} should be of type {type(default).__name__} like {default!r}, but is {value!r}"
            )
        if isinstance(default, tuple) and isinstance(value, list):  # TOML and JSON know lists only
            value = tuple(value)
        checked[key] = value
    try:
        return kind(**checked)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    return value is None or isinstance(value, type(default))


def check_types(config: Any) -> None:
    """Raise ConfigError for a field whose value is not of the type that the dataclass declares."""
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if not _matches(value, hint):
            words = (
                str(hint).replace("typing.", "") if typing.get_origin(hint) else getattr(hint, "__name__", str(hint))
            )
            raise ConfigError(f"{name} should be of type {words}, but is {value!r}")


def _matches(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in inner
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, option) for option in inner)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


def to_dict(config: Any) -> dict[str, Any]:
    """The fields of a dataclass, as JSON can hold them."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def to_toml(tables: Mapping[str, Any]) -> str:
    """Dataclasses as the tables of a TOML file; a field that is None is left out."""
    lines = []
    for name, config in tables.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {_toml(value)}" for key, value in to_dict(config).items() if value is not None]
        lines.append("")
    return "\n".join(lines)


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
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
