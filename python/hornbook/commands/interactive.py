"""``hornbook sample --interactive``: prompts in, text out, and settings to turn in between."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, TerminationError, nearest
from ..sample import Sampling
from .common import note

Writer = Callable[..., Iterator[str]]

PROMPT = "> "
HELP = """Write the beginning of a text; an empty line begins a new document. Ctrl-C stops
the writing. Settings:
  /temperature 0.7   0: always the likeliest token; 1: the model's distribution
  /top-k 40          draw from the k likeliest tokens only; 0 for all
  /top-p 0.9         from the likeliest whose probabilities sum to p; 1 for all
  /min-p 0.05        leave out tokens less than min_p times as likely as the
                     likeliest; 0 for none
  /penalty 1.2       above 1 makes tokens that occurred less likely
  /seed 1            the same seed writes the same text; none: another each time
  /tokens 200        the most to write
  /show              the settings now
  /help              this
  /quit              the end, as are Ctrl-C and Ctrl-D here
A text that begins with / is written with two: //usr."""


@dataclass(frozen=True)
class Settings:
    """What can be turned; checked when it is made."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    penalty: float = 1.0
    seed: int | None = None
    tokens: int = 200

    def __post_init__(self) -> None:
        Sampling(self.temperature, self.top_k, self.top_p, self.min_p, self.penalty)
        if self.tokens < 1:
            raise ConfigError(f"tokens must be at least 1, not {self.tokens}")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed must be at least 0 and below 2**63, or none, not {self.seed}")

    def changed(self, name: str, value: str) -> Settings:
        """With the setting ``name``, as it is typed, at what ``value`` says.

        Raises:
            ConfigError: naming what was expected.
        """
        key = name.replace("-", "_")
        kind = int if key in ("top_k", "seed", "tokens") else float
        if key == "seed" and value.lower() == "none":
            return dataclasses.replace(self, seed=None)
        try:
            return dataclasses.replace(self, **{key: kind(value)})
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            expected = "a whole number" if kind is int else "a number"
            raise ConfigError(f"/{name} wants {expected}, such as {EXAMPLES[name]}, not {value!r}") from None

    def __str__(self) -> str:
        return "  ".join(f"{name} {'none' if v is None else v}" for name, v in zip(NAMES, self._values(), strict=True))

    def _values(self) -> tuple[Any, ...]:
        return dataclasses.astuple(self)

    def for_stream(self) -> dict[str, Any]:
        """The arguments of `sample.stream`."""
        options = dataclasses.asdict(self)
        return options | {"repetition_penalty": options.pop("penalty"), "max_new_tokens": options.pop("tokens")}


NAMES = tuple(field.name.replace("_", "-") for field in dataclasses.fields(Settings))
EXAMPLES = {line.split()[0][1:]: line.split()[1] for line in HELP.splitlines() if line.startswith("  /")}
COMMANDS = (*NAMES, "show", "help", "quit")

# What a model writes is only text: it may not move the cursor or colour the terminal.
HARMLESS = dict.fromkeys([*(c for c in range(0x20) if c not in (0x09, 0x0A)), 0x7F, *range(0x80, 0xA0)], "\ufffd")


def run(write: Writer, settings: Settings) -> None:
    """Read prompts and commands from stdin until it ends, and write continuations to stdout.

    Args:
        write: `sample.stream` with all its arguments but the prompt and those of `Settings.for_stream`.
        settings: to begin with.
    """
    person = sys.stdin.isatty()
    if person:
        note("a prompt, or /help; Ctrl-D ends")
        if sys.stdout.isatty():
            with contextlib.suppress(ImportError):  # Windows has none
                import readline  # noqa: F401 (gives `input` its line editing, and the history of this session)
    stopped = 0.0
    while True:
        try:
            line = _line(person)
        except EOFError:
            if person:
                note("")
            return
        except TerminationError:
            raise
        except KeyboardInterrupt:
            note("")
            if time.monotonic() - stopped < 0.5:  # meant for the text that has just ended
                continue
            return
        if line.startswith("/") and not line.startswith("//"):
            changed = _obey(line[1:].split(), settings)
            if changed is None:
                return
            settings = changed
            continue
        try:
            _continue(write, line[1:] if line.startswith("//") else line, settings)
        except TerminationError:
            raise
        except KeyboardInterrupt:
            sys.stdout.write("\n")
            sys.stdout.flush()
            note("[stopped]")
        except ConfigError as error:  # such as an empty prompt for a tokenizer without an end-of-text token
            note(f"hornbook: {error}")
        stopped = time.monotonic()


def _line(person: bool) -> str:
    """The next line. `input` edits lines only between a terminal's stdin and stdout; the prompt is no result."""
    if person and sys.stdout.isatty():
        return input(PROMPT)
    if person:
        sys.stderr.write(PROMPT)
        sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


def _continue(write: Writer, prompt: str, settings: Settings) -> None:
    screen = sys.stdout.isatty()
    for piece in write(prompt, **settings.for_stream()):
        sys.stdout.write(piece.translate(HARMLESS) if screen else piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()


def _obey(words: list[str], settings: Settings) -> Settings | None:
    """The settings after a command; None to end."""
    name, *values = words or ["help"]
    if name in ("quit", "exit"):
        return None
    if name == "help":
        note(HELP)
    elif name == "show":
        note(str(settings))
    elif name not in NAMES:
        note(f"hornbook: there is no command /{name}{nearest(f'/{name}', [f'/{known}' for known in COMMANDS])}")
    elif len(values) > 1:
        note(f"hornbook: /{name} wants one value, such as {EXAMPLES[name]}")
    else:
        try:
            settings = settings.changed(name, values[0]) if values else settings
            value = getattr(settings, name.replace("-", "_"))
            note(f"{name} {'none' if value is None else value}")
        except ConfigError as error:
            note(f"hornbook: {error}")
    return settings
