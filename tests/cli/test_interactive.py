"""``hornbook sample --interactive``: through a pipe, and on a terminal with its keys."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import hornbook as hb
import pytest
import torch
from hornbook.cli import main
from hornbook.commands import interactive
from hornbook.commands.interactive import HARMLESS, HELP, NAMES, Settings
from hornbook.errors import ConfigError


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model directory whose model writes whatever it likes, and never ends by itself for long."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    hb.GPT(hb.GPTConfig(vocab_size=257, context_length=16, n_layer=1, n_head=2, d_model=16)).save_pretrained(folder)
    hb.Tokenizer.train(["-"], vocab_size=257).save(folder)
    return folder


def said(monkeypatch, capsys, model: Path, lines: str, *options: str) -> tuple[str, str]:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    main(["sample", str(model), "--interactive", *options])
    return capsys.readouterr()


def test_through_a_pipe(monkeypatch, capsys, model: Path) -> None:
    """Only the texts go to stdout, and they are those of `generate` with the settings of the moment."""
    gpt, tok = hb.load(model)
    assert tok is not None
    lines = "ab\n/temperature 0.5\n/top-k 9\nab\n//ab\n\n/seed none\n/temperature 0\nab\n"
    out, err = said(monkeypatch, capsys, model, lines, "--seed", "3", "--max-new-tokens", "6")
    how = {"max_new_tokens": 6, "seed": 3}
    expected = [hb.generate(gpt, tok, "ab", **how)]
    expected += [hb.generate(gpt, tok, p, temperature=0.5, top_k=9, **how) for p in ("ab", "/ab", "")]
    expected += [hb.generate(gpt, tok, "ab", temperature=0, max_new_tokens=6)]
    assert out == "".join(text + "\n" for text in expected)
    assert [line for line in err.splitlines() if not line.startswith("kernels")] == [
        "temperature 0.5", "top-k 9", "seed none", "temperature 0.0",
    ]  # fmt: skip
    assert interactive.PROMPT not in err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/temprature 1", "there is no command /temprature; did you mean '/temperature'?"),
        ("/temperature hot", "/temperature wants a number, such as 0.7, not 'hot'"),
        ("/top-k 1.5", "/top-k wants a whole number, such as 40, not '1.5'"),
        ("/top-p 2", "top_p must be above 0 and at most 1"),
        ("/temperature nan", "temperature"),
        ("/tokens 0", "tokens must be at least 1"),
        ("/seed -1", "seed must be at least 0"),
        ("/penalty 0", "repetition_penalty must be above 0"),
        ("/top-p 0.5 0.6", "/top-p wants one value"),
        ("/", "the end, as are Ctrl-C and Ctrl-D here"),
        ("/top-p", "top-p 1.0"),
        ("/show", "temperature 1.0  top-k 0  top-p 1.0  min-p 0.0  penalty 1.0  seed none  tokens 200"),
    ],
)
def test_settings(line: str, words: str, capsys) -> None:
    before = Settings()
    assert interactive._obey(line[1:].split(), before) == before, "what is wrong changes nothing"
    assert words in capsys.readouterr().err
    assert interactive._obey(["quit"], before) is None


def test_help_names_every_setting() -> None:
    assert all(f"  /{name} " in HELP for name in NAMES)
    changed = Settings()
    for name in NAMES:
        changed = changed.changed(name, interactive.EXAMPLES[name])
    assert changed == Settings(0.7, 40, 0.9, 0.05, 1.2, 1, 200)
    with pytest.raises(ConfigError):
        Settings(top_p=0)


def test_a_prompt_of_its_own_is_an_error(model: Path) -> None:
    with pytest.raises(SystemExit, match="leave out --prompt"):
        main(["sample", str(model), "--interactive", "--prompt", "x"])


def test_a_model_cannot_play_with_the_terminal() -> None:
    assert "\x1b[2J\r\x9b1m\x7fä\t\n中".translate(HARMLESS) == "\ufffd[2J\ufffd\ufffd1m\ufffdä\t\n中"


class Terminal:
    """A process on a terminal of its own: what it writes, and keys to press."""

    def __init__(self, *command: str) -> None:
        import fcntl
        import pty
        import termios

        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0), env=os.environ | {"TERM": "dumb", "NO_COLOR": "1"},
        )  # fmt: skip
        os.close(theirs)
        self.text = ""

    def press(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def wait(self, words: str, seconds: float = 60.0) -> str:
        """Read until ``words`` come; returns what came before them, and forgets both."""
        import select

        ends = time.monotonic() + seconds
        while words not in self.text:
            assert time.monotonic() < ends, f"waited for {words!r}; there was {self.text[-2000:]!r}"
            if select.select([self.ours], [], [], 0.5)[0]:
                self.text += os.read(self.ours, 65536).decode("utf-8", "replace").replace("\r\n", "\n")
        before, _, self.text = self.text.partition(words)
        return before

    def ended(self) -> int:
        """The exit status; what is still written is read, as a terminal does: a full one would hold up the end."""
        import select

        ends = time.monotonic() + 60
        with contextlib.suppress(OSError):  # the other side is closed
            while self.process.poll() is None:
                assert time.monotonic() < ends, f"it does not end; there was {self.text[-2000:]!r}"
                if select.select([self.ours], [], [], 0.5)[0]:
                    self.text += os.read(self.ours, 65536).decode("utf-8", "replace")
        os.close(self.ours)
        return self.process.wait(30)


@pytest.fixture
def terminal(model: Path) -> Iterator[Terminal]:
    if os.name != "posix":
        pytest.skip("pseudo-terminals are POSIX's")
    made = Terminal(sys.executable, "-m", "hornbook", "sample", str(model), "--interactive", "--seed", "1")
    yield made
    if made.process.poll() is None:
        made.process.kill()


def test_on_a_terminal(model: Path, terminal: Terminal) -> None:
    gpt, tok = hb.load(model)
    assert tok is not None
    terminal.wait("Ctrl-D ends\n> ")
    terminal.press("/tokens 5\n")
    terminal.wait("tokens 5\n> ")
    terminal.press("ab\n")
    written = terminal.wait("\n> ")
    expected = hb.generate(gpt, tok, "ab", max_new_tokens=5, seed=1).translate(HARMLESS)
    assert written.partition("\n")[2] == expected, "after the echo"

    terminal.press("/tokens 100000000\n")
    terminal.wait("tokens 100000000\n> ")
    for keys in ("ab\n", "\x1b[A\n"):  # and again, by the history
        terminal.press(keys)
        terminal.wait("ab\n")
        terminal.wait(expected[:2])  # it streams
        terminal.press("\x03")  # Ctrl-C
        terminal.wait("[stopped]\n> ")
    assert terminal.process.poll() is None
    time.sleep(0.6)  # sooner it would be meant for the text
    terminal.press("\x03")
    assert terminal.ended() == 0


def test_the_end_of_the_input(terminal: Terminal) -> None:
    terminal.wait("> ")
    terminal.press("\x04")  # Ctrl-D
    assert terminal.ended() == 0


@pytest.mark.parametrize("writing", [True, False])
def test_sigterm_ends_all(terminal: Terminal, writing: bool) -> None:
    terminal.wait("> ")
    if writing:
        terminal.press("/tokens 100000000\n")
        terminal.wait("tokens 100000000\n> ")
        terminal.press("ab\n")
        terminal.wait("ab\n")
        terminal.wait("\ufffd")  # of an untrained model, most bytes are no character
    terminal.process.send_signal(signal.SIGTERM)
    if not writing:  # between its prompt and its waiting, Python's readline overlooks a signal until the next key
        with contextlib.suppress(subprocess.TimeoutExpired):
            terminal.process.wait(2)
        with contextlib.suppress(OSError):
            terminal.press("\n")
    assert terminal.ended() == 143
    assert not re.search("Traceback", terminal.text)
