"""The directive ``hornbook-commands``: every command of ``hornbook`` and its options, as the real parser prints them.

Each command is asked for ``--help``, on a terminal so wide that nothing is broken into lines, and what it answers
becomes a section with a list of options. What all of them say alike stands once, above.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from typing import Any
from unittest import mock

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

WIDE = {"COLUMNS": "2000", "NO_COLOR": "1"}
NOTHING = re.compile(r"\s*\(default: (?:|''|None|\{\})\)$")  # says no more than that an option need not be given
Options = list[tuple[str, str]]  # how it is written, what it does


def commands() -> Iterator[tuple[str, ...]]:
    """("demo",), ("corpus", "list"), ..."""
    from hornbook.commands import COMMANDS

    for name, command in COMMANDS.items():
        yield from ((name, sub) for sub in command) if isinstance(command, dict) else [(name,)]


def help_of(words: tuple[str, ...]) -> str:
    """What ``hornbook WORDS --help`` prints."""
    from hornbook.cli import main

    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # to which boxes are drawn, with lines
    with mock.patch.dict(os.environ, WIDE), contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    out.seek(0)
    return out.read()


def taken_apart(text: str) -> tuple[str, str, list[tuple[str, str, Options]]]:
    """A help text as its usage, its description, and the boxes of options: title, what it says, the options."""
    head, *boxes = re.split(r"^╭─ (.+?) ─+╮$", text, flags=re.MULTILINE)
    usage, _, about = head.strip().partition("\n\n")
    groups = []
    for title, box in zip(boxes[::2], boxes[1::2], strict=True):
        said, options = [], []
        for line in re.findall(r"^│ (.*?) *│$", box, flags=re.MULTILINE):
            if re.fullmatch(r"─+", line):  # what stands above this line is about all of the box
                said, options = [" ".join(option) for option in options], []
            elif line.startswith(" ") and options:
                name, before = options[-1]
                options[-1] = (name, f"{before} {line.strip()}".strip())
            else:
                name, _, does = line.partition("  ")
                options.append((name, does.strip()))
        options = [(name, NOTHING.sub("", does)) for name, does in options if not name.startswith("-h,")]
        groups.append((title, " ".join(said).strip(), options))
    return usage.removeprefix("usage: "), about.strip(), groups


class HornbookCommands(SphinxDirective):
    has_content = False

    def run(self) -> list[nodes.Node]:
        from hornbook.commands.options import SHARED

        return [nodes.paragraph("", "", *self.inline(SHARED)), *(self.section(words, SHARED) for words in commands())]

    def section(self, words: tuple[str, ...], shared: str) -> nodes.section:
        name = " ".join(("hornbook", *words))
        usage, about, groups = taken_apart(help_of(words))
        if not usage.startswith(name):
            raise self.error(f"`{name} --help` does not begin with its usage, but with {usage!r}")
        section = nodes.section(
            "", nodes.title("", "", nodes.literal("", name)), ids=[nodes.make_id(name)], names=[name]
        )
        self.state.document.note_explicit_target(section)
        section += nodes.literal_block(usage, usage, language="text", classes=["usage"])
        if shared not in about:
            raise self.error(f"`{name} --help` does not say: {shared}")
        for part in filter(None, about.replace(shared, "").strip().split("\n\n")):
            section += nodes.paragraph("", "", *self.inline(part))
        for title, said, options in groups:
            if not options:
                continue
            if title not in ("options", "positional arguments"):
                section += nodes.rubric("", title)
            if said:
                section += nodes.paragraph("", "", *self.inline(said))
            rows = nodes.definition_list(classes=["options"])
            for written, does in options:
                term = nodes.term("", "", nodes.literal("", written))
                what = nodes.definition("", nodes.paragraph("", "", *self.inline(does)))
                rows += nodes.definition_list_item("", term, what)
            section += rows
        return section

    def inline(self, text: str) -> list[nodes.Node]:
        """Text in which ``this``, `this` and --this are code."""
        parts = re.split(r"``(.+?)``|`([^`]+)`|(?<!\S)(--\w[\w.*-]*\w)", text.replace("\n", " "))
        made: list[nodes.Node] = [nodes.Text(parts[0])]
        for i in range(1, len(parts), 4):
            made += [nodes.literal("", next(filter(None, parts[i : i + 3]))), nodes.Text(parts[i + 3])]
        return made


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("hornbook-commands", HornbookCommands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
