"""Files that are never seen half written, and readers that say in one line what is wrong with one."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor


def write(path: Path, content: str | bytes) -> None:
    """Put ``content`` at ``path``: what was there stays until the new file is whole and on the disk."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def lock(path: Path, taken: str) -> IO[str]:
    """A file that one holder at a time can have open, until it closes the file or its process ends in whatever way.

    Raises:
        ConfigError: saying ``taken``, if another one holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (the caller closes it)
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):  # a file system without locks has none
            return open(path, "a", encoding="utf-8")
        raise ConfigError(f"{taken}: wait for it, or stop it first") from None
    return file


def write_directory(path: Path, fill: Callable[[Path], None]) -> None:
    """Let ``fill`` write files into a new folder, then give the whole folder the name ``path``.

    An older folder of that name is replaced. After a crash either the old one is there or the new one, or,
    in the instant between the two renames, the old one under a name that starts with a dot.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        fill(beside)
        put_directory(beside, path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def put_directory(beside: Path, path: Path) -> None:
    """Give the folder ``beside`` the name ``path``, once all that is in it is on the disk; see `write_directory`."""
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    for file in beside.rglob("*"):
        if file.is_file():
            with open(file, "rb+") as handle:
                os.fsync(handle.fileno())
    sync_directory(beside)
    try:
        if path.exists():
            os.replace(path, old)
        os.replace(beside, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames inside ``path`` last. Windows has no such call and needs none."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """JSON for people to read: indented, with a line break at the end."""
    write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or a CheckpointError that names the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from None
    except RecursionError:
        raise CheckpointError(f"{path}: cannot be read as JSON: too deeply nested") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file."""
    from safetensors.torch import save

    write(path, save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, {"format": "pt"}))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU, or a CheckpointError that names the file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file: {error}") from None
