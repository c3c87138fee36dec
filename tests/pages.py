"""Pages of Markdown whose code is run: the README's and the site's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of a page that are written in ``language``; "" for those that do not say."""
    return [code for kind, code in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def run_python(page: Path) -> dict[str, Any]:
    """Run the Python of a page, block after block, in the working directory; returns the names that it made."""
    names: dict[str, Any] = {"__name__": page.stem}
    for code in blocks(page, "python"):
        exec(compile(code, str(page), "exec"), names)
    return names


def shell(line: str, folder: Path) -> str:
    """What a command line prints, run as a user would; ``hornbook`` is the one of this environment."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "COLUMNS": "110", "NO_COLOR": "1"}
    done = subprocess.run(line, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout
