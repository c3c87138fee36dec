"""The command ``hornbook``: finds the command that was asked for, and turns faults into one line.

`commands` has the commands themselves.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import traceback
from typing import Any, NoReturn

from .commands import COMMANDS, find
from .errors import HornbookError, TerminationError, nearest

ABOUT = {
    "demo": "text in, story out: corpus, tokenizer, model, training and writing in about three minutes",
    "corpus": "what there is to read: list, show, write",
    "tokenizer": "byte-level BPE: train, count, encode, decode, show, compare",
    "prepare": "text → token shards",
    "train": "token shards → a trained model, resumable",
    "sample": "a trained model → text",
    "doctor": "what this machine can run, and why",
    "bench": "how fast the tokenizer is, and on a CUDA GPU the kernels and a model",
}
PLANNED = ("chat", "sft", "reward", "dpo", "ppo", "grpo", "eval", "import", "export", "serve", "explore", "lesson")


def start() -> None:
    """`main` of a process of its own: when it is done, no signal disturbs what Python still tidies up."""
    try:
        main()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def main(argv: list[str] | None = None) -> None:
    """Run one command. Exits with 1 for a fault of the input, 2 for one of usage, 130 after Ctrl-C, 143 after SIGTERM.

    A fault is one line on stderr; with ``HORNBOOK_DEBUG=1`` in the environment, the traceback as well.
    """
    # PyTorch's CPU threads wait for each other by spinning, for long. Where other programs want the cores too, that
    # makes a small model's step up to ten times as slow as giving up the core soon. Read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "100000")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would tell of every request
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):  # a terminal that knows few characters gets a "?" for the others
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if isinstance(sys.stdin, io.TextIOWrapper):  # what it is not, is said: some locales would let it pass
        sys.stdin.reconfigure(encoding="utf-8", errors="strict")
    with _Signals() as signals:
        try:
            _run(argv, signals)
            sys.stdout.flush()
        except (Exception, KeyboardInterrupt) as error:
            if signals.came is not None and isinstance(error, KeyboardInterrupt | ImportError):  # as some make of it
                sys.exit(128 + signals.came)
            _explain(error)


def _explain(fault: BaseException) -> None:
    """End the process with one line for a fault of the input or the machine; raise what is a fault of the program."""
    try:
        raise fault
    except HornbookError as error:
        _fail(str(error))
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except UnicodeDecodeError as error:
        _fail(f"standard input is not {error.encoding} at byte {error.start}: {error.reason}")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}")
    except ImportError as error:  # a package that Hornbook needs is missing or broken
        _fail(f"{next(iter(str(error).splitlines()), error)}; `hornbook doctor` says what is broken and how to cure it")
    except MemoryError as error:
        _fail(f"not enough memory{f': {error}' if str(error) else ''}")
    except KeyboardInterrupt:
        sys.exit(130)


class _Signals:
    """SIGTERM ends a command in the same order as Ctrl-C does: by a KeyboardInterrupt.

    Attributes:
        came: the number of the signal that ends the command, or None.
        working: whether there is work to end in order. While libraries are still being loaded there is none, and they
            would not stand it: some take a KeyboardInterrupt for a missing module and try again. Then the process ends.
    """

    def __init__(self) -> None:
        self.came: int | None = None
        self.working = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        with contextlib.suppress(ValueError):  # not the main thread: signals are not ours
            self._before = {number: signal.signal(number, self._act) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _act(self, number: int, frame: object) -> None:
        if not self.working:
            os._exit(128 + number)
        self.came = number
        raise TerminationError if number == signal.SIGTERM else KeyboardInterrupt


def _fail(message: str) -> NoReturn:
    if os.environ.get("HORNBOOK_DEBUG", "0") not in ("", "0"):
        traceback.print_exc()
    sys.exit(f"hornbook: {message}")


def _run(argv: list[str], signals: _Signals) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return
    if argv[0] == "--version":
        from . import __version__

        print(f"hornbook {__version__}")
        return
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        hint = "is planned, but not in this version" if name in PLANNED else f"is no command{nearest(name, COMMANDS)}"
        _usage(f"hornbook: {name!r} {hint} (see hornbook --help)")
    where = COMMANDS[name]
    if isinstance(where, dict):
        if not rest or rest[0] in ("-h", "--help"):
            print(_help_of(name, where))
            return
        if rest[0] not in where:
            _usage(f"hornbook {name}: {rest[0]!r} is no command of it{nearest(rest[0], where)}")
        name, where, rest = f"{name} {rest[0]}", where[rest[0]], rest[1:]
    from .commands.options import parse  # brings tyro, most of the time that `hornbook --help` would take

    command = parse(find(where), rest, f"hornbook {name}")
    if command is not None:
        signals.working = True
        command.run()


def _usage(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(2)


def _help() -> str:
    rows = "\n".join(f"  {name:10} {ABOUT[name]}" for name in COMMANDS)
    return (
        "usage: hornbook COMMAND [OPTIONS]\n\n"
        "A large language model from scratch: tokenizer, model, training, writing.\n\n"
        f"commands:\n{rows}\n\n"
        "hornbook COMMAND --help shows a command's options; hornbook --version the version.\n"
        "HORNBOOK_KERNELS=reference|torch|fused|auto chooses implementations for every command."
    )


def _help_of(name: str, commands: dict[str, str]) -> str:
    rows = "\n".join(f"  {sub:10} {(find(where).__doc__ or '').splitlines()[0]}" for sub, where in commands.items())
    return f"usage: hornbook {name} COMMAND [OPTIONS]\n\n{ABOUT[name]}\n\ncommands:\n{rows}"
