"""One file from the network, whole and as pinned, or a line that says why not.

A file is known by its SHA-256: whatever a server, a proxy or a disk does to it, only these bytes get its name. What has
arrived stays in ``NAME.part``, where the next attempt, or the next run, goes on. Only HTTPS is spoken, also after a
redirect; proxies are taken from the environment (HTTPS_PROXY, NO_PROXY), as httpx has it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import files
from ..errors import ConfigError, DataError
from .places import cache_folder, data_folder

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("hornbook")

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Remote:
    """A file that is to be had from the network.

    Attributes:
        name: what it is called here, in HORNBOOK_DATA and in the cache.
        size: its bytes, and with them the limit of what a server may send.
    """

    name: str
    url: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Limits:
    """How long to wait, in seconds.

    Attributes:
        connect: for a connection.
        stall: for the next bytes.
        total: for the whole file, pauses and other processes that are at it included.
        attempts: without a byte of progress before giving up.
        pause: before the second attempt; it doubles with each.
    """

    connect: float = 20.0
    stall: float = 30.0
    total: float = 3600.0
    attempts: int = 4
    pause: float = 1.0


class UnreachableError(DataError):
    """There is no way to the server, as where there is no network."""


class _AgainError(Exception):
    """What another attempt may mend; ``wait`` is how many seconds the server asks for, ``anew`` not to go on."""

    def __init__(self, words: str, wait: float = 0.0, *, anew: bool = False) -> None:
        super().__init__(words)
        self.wait, self.anew = wait, anew


def local(remote: Remote) -> Path | None:
    """The file, if it is here: in the folder of HORNBOOK_DATA, or downloaded before. Its hash has been checked.

    Raises:
        DataError: if HORNBOOK_DATA holds another file of this name.
    """
    folder = data_folder()
    if folder is not None and (own := folder / remote.name).is_file():
        if not _is_it(own, remote):
            raise DataError(
                f"{own}: is not the file that is pinned ({remote.size} bytes, SHA-256 {remote.sha256[:16]}...); rename "
                "it, or let HORNBOOK_DATA name another folder"
            )
        return own
    with contextlib.suppress(DataError):  # nobody has a cache who has no home
        if _is_it(kept := cache_folder() / remote.name, remote):
            return kept
    return None


def fetch(remote: Remote, *, limits: Limits = Limits(), _loopback: bool = False) -> Path:
    """The file, downloaded if it is not here.

    Several processes may ask for the same file at once: one downloads, the others wait for it.

    Args:
        _loopback: HTTP is allowed on this machine itself; for tests.

    Raises:
        UnreachableError: if there is no network.
        DataError: if the server does not have the file, sends another one, is too slow or stalls; for a full disk or a
            folder that cannot be written to. What has arrived is kept, unless it is wrong.
    """
    if (found := local(remote)) is not None:
        return found
    folder = cache_folder()
    deadline = time.monotonic() + limits.total
    part = folder / f"{remote.name}.part"
    try:
        with _alone(folder / f".{remote.name}.lock", remote, deadline):
            if (found := local(remote)) is not None:
                return found  # the process before has brought it
            _download(remote, part, limits, deadline, _loopback)
            os.replace(part, folder / remote.name)
            files.sync_directory(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"{part}: the disk is full, and {remote.name} needs {remote.size} bytes; make room (what has arrived "
                "is kept), or name another folder in HORNBOOK_CACHE"
            ) from None
        reason = error.strerror or error
        raise DataError(f"{folder}: cannot be written to: {reason}; name another in HORNBOOK_CACHE") from None
    return folder / remote.name


@contextlib.contextmanager
def _alone(lock: Path, remote: Remote, deadline: float) -> Iterator[None]:
    """Until no other process holds the lock."""
    told = False
    while True:
        try:
            held = files.lock(lock, f"{remote.name} is being downloaded by another process")
            break
        except ConfigError as error:
            if time.monotonic() > deadline:
                raise DataError(str(error)) from None
            if not told:
                log.info("%s is being downloaded by another process; waiting for it", remote.name)
            told = True
            time.sleep(0.1)
    with held:
        yield


def _download(remote: Remote, part: Path, limits: Limits, deadline: float, loopback: bool) -> None:
    """Bring the whole file to ``part``, in as many attempts as it takes."""
    import httpx

    failures = wrong = 0
    progress = False
    with _client(limits) as client, _bar(remote) as show:
        while True:
            before = _size(part)
            try:
                if before != remote.size:
                    _attempt(client, remote, part, before, deadline, loopback, show)
                if _is_it(part, remote):
                    return
                part.unlink()
                if before == 0 or wrong:  # else the bytes from before may have been of another file: once more
                    raise DataError(
                        f"{remote.url}: sent another file than the pinned one (SHA-256 {remote.sha256[:16]}...); "
                        "nothing of it is kept"
                    )
                wrong += 1
                continue
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
                words = f"no way to {httpx.URL(remote.url).host} ({_words(error)})"
                if not progress:
                    raise UnreachableError(f"{remote.name}: {words}") from None
                failure = _AgainError(words)
            except httpx.TimeoutException:
                failure = _AgainError(f"nothing came for {limits.stall:g} seconds")
            except httpx.TransportError as error:
                failure = _AgainError(f"the connection broke ({_words(error)})")
            except _AgainError as error:
                failure = error
            if failure.anew:
                part.unlink(missing_ok=True)
            now = _size(part)
            progress |= now > before
            failures = 1 if now > before else failures + 1
            wait = max(limits.pause * 2 ** (failures - 1), failure.wait)
            if failures >= limits.attempts or time.monotonic() + wait > deadline:
                raise DataError(f"{remote.url}: {failure}; {now} of {remote.size} bytes are here. Try again later")
            log.info("%s: %s; trying again in %.0f s", remote.name, failure, wait)
            time.sleep(wait)


def _attempt(
    client: httpx.Client, remote: Remote, part: Path, have: int, deadline: float, loopback: bool, show: Any
) -> None:
    """Ask for what is missing and append it to ``part``; more than ``remote.size`` is never taken."""
    with _response(client, remote, have if have < remote.size else 0, loopback) as response:
        have = _begin(response, remote, have if have < remote.size else 0)
        with open(part, "r+b" if have else "wb") as file:
            file.seek(have)
            for chunk in response.iter_raw():
                have += len(chunk)
                if have > remote.size or time.monotonic() > deadline:
                    break
                file.write(chunk)
                show(have)
            file.flush()
            os.fsync(file.fileno())
    if have > remote.size:
        part.unlink()
        raise DataError(f"{remote.url}: sends more than the {remote.size} bytes of the pinned file")
    if have < remote.size and time.monotonic() > deadline:
        raise DataError(f"{remote.url}: too slow: {_size(part)} of {remote.size} bytes are here. Try again later")
    if have < remote.size:
        raise _AgainError(f"the connection ended after {have} of {remote.size} bytes")


@contextlib.contextmanager
def _response(client: httpx.Client, remote: Remote, have: int, loopback: bool) -> Iterator[httpx.Response]:
    """The answer at the end of at most five redirects, each of them looked at before it is followed."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    request = client.build_request("GET", remote.url, headers=headers)
    for _ in range(6):
        url = request.url
        if url.scheme != "https" and not (loopback and url.scheme == "http" and url.host in LOOPBACK):
            raise DataError(f"{remote.url}: leads to {url}, and only https is followed")
        response = client.send(request, stream=True)
        if response.next_request is None:
            try:
                yield response
            finally:
                response.close()
            return
        response.close()
        request = response.next_request
    raise DataError(f"{remote.url}: is redirected again and again")


def _begin(response: httpx.Response, remote: Remote, have: int) -> int:
    """What the answer's first byte is; whether it is an answer at all is found out first."""
    status = response.status_code
    if status == 416:
        raise _AgainError("the server has no such part of it", anew=True)
    if status in (408, 429) or status >= 500:
        asked = response.headers.get("Retry-After", "")
        raise _AgainError(
            f"the server answers {status} {response.reason_phrase}", float(asked) if asked.isdigit() else 0.0
        )
    if status not in (200, 206):
        raise DataError(f"{remote.url}: the server answers {status} {response.reason_phrase}")
    if status == 200:
        have = 0  # it does not know of parts, and begins again
    elif response.headers.get("Content-Range", "").split("/")[0].split("-")[0] != f"bytes {have}":
        raise _AgainError("the server sends another part than it was asked for", anew=True)
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and have + int(announced) != remote.size:
        raise DataError(f"{remote.url}: announces {have + int(announced)} bytes; the pinned file has {remote.size}")
    return have


def _client(limits: Limits) -> httpx.Client:
    import httpx

    try:
        return httpx.Client(timeout=httpx.Timeout(limits.stall, connect=limits.connect), follow_redirects=False)
    except (ImportError, ValueError) as error:  # a proxy of a kind that needs another package, or no URL at all
        raise DataError(f"the proxy that the environment names cannot be used: {_words(error)}") from None


def _is_it(path: Path, remote: Remote) -> bool:
    """Whether a file is the pinned one, by its size and its hash."""
    try:
        return path.stat().st_size == remote.size and files.sha256(path) == remote.sha256
    except OSError:
        return False


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _words(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def _bar(remote: Remote) -> Iterator[Any]:
    """What is called with the bytes that have arrived: a bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda have: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("download {task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(remote.name, total=remote.size)
        yield lambda have: bar.update(task, completed=have)
