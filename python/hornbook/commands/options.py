"""From the words after a command to its options: defaults, then a TOML file, then the command line.

A command is a frozen dataclass. Its fields are the options, the texts behind them their help, its docstring the
command's, and ``run()`` does the work. So the options of a command line, of a ``--config`` file and of a call from
Python are the same, and checked by the same code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
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
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = tyro.cli(kind, prog=prog, description=about, args=argv, **_start(kind, start))
    except SystemExit as end:
        if end.code:
            print(in_one_line(said.getvalue(), prog), file=sys.stderr)
        raise
    sys.stderr.write(said.getvalue())
    if print_only:
        sys.stdout.write(config_.to_toml(options))
        return None
    return options


def in_one_line(box: str, prog: str) -> str:
    """What tyro draws a box around, as one line: the fault, the nearest option if it names some, where to read on."""
    rows = [row.strip("│ ") for row in box.strip().splitlines() if row[0] not in "╭╰"]
    ends = [i for i, row in enumerate(rows) if row and not row.strip("─-")]
    if not box.startswith("╭"):  # where the terminal has no such signs: a title, and a rule below it
        rows, ends = rows[ends[0] + 1 :] if ends else rows, [end - ends[0] - 1 for end in ends[1:]]
    fault, more = rows[: ends[0]] if ends else rows, rows[ends[0] + 1 :] if ends else []
    if not fault:
        return box.strip()
    if fault[0].startswith("Missing from"):
        needed = [row for row in fault[1:] if re.match(r"--|[A-Z.]+( |$)", row)]
        words = f"{', '.join(needed)} {'are' if len(needed) > 1 else 'is'} needed"
    else:
        words = re.sub(r"^Error parsing (--\S+: )?(\w+: )?", r"\1", " ".join(fault))
        words = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"a whole number is expected, not \1", words)
        words = re.sub(r"could not convert string to float: (.*)", r"a number is expected, not \1", words)
    words = words.rstrip(".").replace(". Expected", "; expected")
    words = words[:1].lower() + words[1:] if words[1:2].islower() else words
    if "Perhaps you meant:" in more and (near := re.match(r"--[\w.-]+", more[more.index("Perhaps you meant:") + 1])):
        words += f"; did you mean {near[0]}?"
    return f"{prog}: {words} (see {prog} --help)"


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
