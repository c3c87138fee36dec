"""Where texts lie that are not part of Hornbook: a folder of the user's own, and one of what was downloaded."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from ..errors import DataError


def data_folder() -> Path | None:
    """The folder that HORNBOOK_DATA names, where files are looked for before anything is downloaded.

    Raises:
        DataError: if there is no such folder.
    """
    named = os.environ.get("HORNBOOK_DATA")
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise DataError(f"HORNBOOK_DATA names {named}, which is no folder; correct it or unset it")
    return folder


def cache_folder() -> Path:
    """Where downloads are kept: HORNBOOK_CACHE, or ``hornbook`` in the place that the system has for such files.

    That is XDG_CACHE_HOME or ~/.cache on Linux, ~/Library/Caches on macOS, LOCALAPPDATA on Windows. It need not exist.

    Raises:
        DataError: if none is named and the user has no home.
    """
    if named := os.environ.get("HORNBOOK_CACHE"):
        return Path(named).expanduser()
    system = platform.system()
    if system == "Windows" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "hornbook" / "Cache"
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if system not in ("Windows", "Darwin") and os.path.isabs(xdg):  # its specification: others are to be ignored
        return Path(xdg) / "hornbook"
    home = os.path.expanduser("~")
    if not os.path.isabs(home) or not Path(home).is_dir():
        raise DataError("there is no home folder to keep downloads in; name a folder in HORNBOOK_CACHE")
    below = {"Windows": "AppData/Local/hornbook/Cache", "Darwin": "Library/Caches/hornbook"}
    return Path(home) / below.get(system, ".cache/hornbook")
