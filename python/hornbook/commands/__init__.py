"""What each command of ``hornbook`` does: one file a command, or a family of them.

The table names where each command's class is, so that a command imports only what it needs: those that need no torch
answer at once. Results go to stdout, all else to stderr.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .options import Command

COMMANDS: dict[str, str | dict[str, str]] = {
    "demo": "hornbook.commands.demo:Demo",
    "corpus": {
        "list": "hornbook.commands.corpus:List",
        "show": "hornbook.commands.corpus:Show",
        "write": "hornbook.commands.corpus:Write",
    },
    "tokenizer": {
        "train": "hornbook.commands.tokenizer:Train",
        "count": "hornbook.commands.tokenizer:Count",
        "encode": "hornbook.commands.tokenizer:Encode",
        "decode": "hornbook.commands.tokenizer:Decode",
        "show": "hornbook.commands.tokenizer:Show",
        "compare": "hornbook.commands.compare:Compare",
    },
    "prepare": "hornbook.commands.prepare:Prepare",
    "train": "hornbook.commands.train:Train",
    "sample": "hornbook.commands.sample:Sample",
    "doctor": "hornbook.commands.doctor:Doctor",
    "bench": {
        "attention": "hornbook.benchmarks.commands:Attention",
        "kernels": "hornbook.benchmarks.commands:Kernels",
        "model": "hornbook.benchmarks.commands:Model",
        "start": "hornbook.benchmarks.commands:Start",
        "tokenizer": "hornbook.benchmarks.commands:Tokenizer",
    },
}


def find(where: str) -> type[Command]:
    """The class that an entry of `COMMANDS` names."""
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)
