"""From the words after a command to its options: defaults, then a TOML file, then the command line.

A command is a frozen dataclass. Its fields are the options, the texts behind them their help, its docstring the
command's, and ``run()`` does the work. So the options of a command line, of a ``--config`` file and of a call from
Python are the same, and checked by the same code.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import tyro

from .. import config as config_
from ..errors import ConfigError


class Command(Protocol):
    """What every command is."""

    def run(self) -> None: ...


O = TypeVar("O", bound=Command)

SHARED = (
    "--config FILE.toml holds options as `name = value` (vocab_size, not --vocab-size); what the command line says "
    "wins. --print-config prints the options in force as such a file, and does nothing else."
)


def parse(kind: type[O], argv: list[str], prog: str) -> O | None:
    """The command that ``argv`` asks for; None if it asked for its configuration only, which is then printed.

    Raises:
        ConfigError: for a file that cannot be read, an unknown key (naming the nearest one) or a value that does not
            fit. What is wrong in ``argv`` itself ends the process with status 2, as usual for a command line.
    """
    file, print_only, argv = _shared(argv)
    values = {} if file is None else config_.read_toml(file)
    defaults = getattr(kind, "defaults", lambda values, argv: {})(values, argv)
    start = defaults | config_.read_fields(kind, values, str(file), defaults)
    about = f"{(kind.__doc__ or '').strip()}\n\n{SHARED}"
    options = tyro.cli(kind, prog=prog, description=about, args=argv, **_start(kind, start))
    if print_only:
        sys.stdout.write(config_.to_toml(options))
        return None
    return options


def _start(kind: type[Any], start: Mapping[str, Any]) -> dict[str, Any]:
    """What tyro is to begin from, if it is not the dataclass as it stands."""
    if not start:
        return {}
    missing = {f.name: tyro.MISSING for f in dataclasses.fields(kind) if _is_required(f) and f.name not in start}
    return {"default": kind(**missing, **start)}


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _shared(argv: list[str]) -> tuple[Path | None, bool, list[str]]:
    """The options that every command has, and the rest."""
    rest: list[str] = []
    file, print_only = None, False
    words = iter(argv)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word == "--print-config":
            print_only = True
        elif word == "--config" or word.startswith("--config="):
            value = next(words, None) if word == "--config" else word.partition("=")[2]
            if not value:
                raise ConfigError("--config wants the name of a TOML file")
            if file is not None:
                raise ConfigError(f"--config is given twice: {file} and {value}; put everything into one file")
            file = Path(value)
        else:
            rest.append(word)
    return file, print_only, rest
