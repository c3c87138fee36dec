"""Files that are never seen half written, and readers that say in one line what is wrong with one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor


def write(path: Path, content: str | bytes) -> None:
    """Put ``content`` at ``path``: what was there stays until the new file is whole and on the disk."""
    with writing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to. It gets the name ``path`` when all is written and on the disk; after an error it is gone."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk does not say where
            raise OSError(error.errno, error.strerror, str(path)) from None
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


SUMS = "SHA256SUMS"


def write_sums(directory: Path) -> None:
    """Write SHA256SUMS: a line for every other file of the folder, as ``sha256sum --check SHA256SUMS`` reads it."""
    names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    write(directory / SUMS, "".join(f"{_sum(directory / name)}  {name}\n" for name in names if name != SUMS))


def check_sums(directory: Path) -> None:
    """Hold the files of a folder against its SHA256SUMS; without such a file there is nothing to hold them against.

    Raises:
        CheckpointError: naming the first file that is missing or is not the one that was written.
    """
    sums = directory / SUMS
    if not sums.is_file():
        return
    for line in read_text(sums).splitlines():
        expected, _, name = line.partition("  ")
        inside = name and not Path(name).is_absolute() and ".." not in Path(name).parts
        path = directory / name
        if not inside or len(expected) != 64:
            raise CheckpointError(f"{sums}: damaged: not a checksum and the name of a file: {line[:80]!r}")
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file, but {SUMS} names it; take another checkpoint")
        if _sum(path) != expected:
            raise CheckpointError(
                f"{path}: not the file that was written here (its SHA-256 is not that of {SUMS}): it is damaged or was "
                f"swapped. Take another checkpoint; if you changed it yourself, remove {SUMS}"
            )


def _sum(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None


def sha256(path: Path) -> str:
    """Of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: Path) -> str:
    """A file of UTF-8, or a CheckpointError that names it."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read as text: {error}") from None


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
