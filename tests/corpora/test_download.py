"""A download against a server on this machine that does to it what servers, networks and disks do."""

from __future__ import annotations

import errno
import hashlib
import http.server
import logging
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import httpx
import pytest
from hornbook.corpora import download, places, remote
from hornbook.corpora.download import Limits, Remote, UnreachableError, fetch, local
from hornbook.errors import DataError

DATA = random.Random(1).randbytes(300_000)
QUICK = Limits(connect=5, stall=0.15, total=20, attempts=3, pause=0.01)


class Server(http.server.ThreadingHTTPServer):
    """Answers the n-th request with the n-th of ``plan``, and with the last of them from then on."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: list[Callable[[Handler], None]] = [whole]
        self.ranges: list[str | None] = []
        self.heard: list[str] = []

    def remote(self, path: str = "/file.bin", data: bytes = DATA) -> Remote:
        url = f"http://127.0.0.1:{self.server_port}{path}"
        return Remote("file.bin", url, hashlib.sha256(data).hexdigest(), len(data))

    def handle_error(self, request: object, client_address: object) -> None:
        """Those who hang up are part of the plan."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        server.ranges.append(self.headers.get("Range"))
        server.heard.append(self.path)
        server.plan[min(len(server.ranges), len(server.plan)) - 1](self)

    def answer(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def start(self) -> int:
        return int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))

    def part(self, body: bytes, length: int | None = None) -> None:
        """Of DATA what was asked for; ``body`` is what is sent of it."""
        start = self.start()
        where = {"Content_Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"} if start else {}
        self.answer(206 if start else 200, body, len(DATA) - start if length is None else length, **where)

    def log_message(self, format: str, *args: object) -> None:
        pass


def whole(handler: Handler) -> None:
    handler.part(DATA[handler.start() :])


def drops(after: int) -> Callable[[Handler], None]:
    def plan(handler: Handler) -> None:
        start = handler.start()
        handler.part(DATA[start : start + after])
        handler.wfile.flush()
        handler.close_connection = True

    return plan


def stalls(after: int, seconds: float = 0.5) -> Callable[[Handler], None]:
    def plan(handler: Handler) -> None:
        start = handler.start()
        handler.part(DATA[start : start + after])
        handler.wfile.flush()
        time.sleep(seconds)
        handler.close_connection = True

    return plan


def drips(handler: Handler) -> None:
    handler.part(b"")
    for byte in DATA[:1000]:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.02)
    handler.close_connection = True


def ignores_range(handler: Handler) -> None:
    handler.answer(200, DATA)


def corrupts(handler: Handler) -> None:
    start = handler.start()
    handler.part(bytes([DATA[start] ^ 1]) + DATA[start + 1 :])


def status(code: int, **headers: str) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(code, b"an error page", **headers)


def redirect(to: str, code: int = 302) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(code, b"", Location=to)


@pytest.fixture
def server(tmp_path: Path, monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("HORNBOOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HORNBOOK_DATA", raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with Server() as made:
        thread = threading.Thread(target=lambda: made.serve_forever(poll_interval=0.01))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def get(what: Remote, limits: Limits = QUICK) -> Path:
    return fetch(what, limits=limits, _loopback=True)


def fails(what: Remote, words: str, limits: Limits = QUICK) -> None:
    with pytest.raises(DataError, match=words) as caught:
        get(what, limits)
    assert "\n" not in str(caught.value)
    assert not (places.cache_folder() / what.name).exists()


def part() -> bytes:
    file = places.cache_folder() / "file.bin.part"
    return file.read_bytes() if file.exists() else b""


def test_a_file_is_brought_once(server):
    assert local(server.remote()) is None
    path = get(server.remote())
    assert path == places.cache_folder() / "file.bin"
    assert path.read_bytes() == DATA
    assert get(server.remote()) == local(server.remote()) == path
    assert server.ranges == [None]
    assert {file.name for file in path.parent.iterdir()} == {"file.bin", ".file.bin.lock"}


def test_what_a_disk_has_changed_is_brought_again(server):
    path = get(server.remote())
    path.write_bytes(DATA[:1000] + b"x" + DATA[1001:])
    assert local(server.remote()) is None
    assert get(server.remote()).read_bytes() == DATA


def test_the_folder_of_the_user_comes_first(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HORNBOOK_DATA", str(tmp_path))
    (tmp_path / "file.bin").write_bytes(DATA)
    assert get(server.remote()) == tmp_path / "file.bin"
    assert server.ranges == []
    for wrong in (DATA[:-1], DATA[:-1] + b"x"):
        (tmp_path / "file.bin").write_bytes(wrong)
        with pytest.raises(DataError, match=r"file\.bin: is not the file that is pinned .*rename it"):
            get(server.remote())
    monkeypatch.setenv("HORNBOOK_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"HORNBOOK_DATA names .*nowhere, which is no folder"):
        get(server.remote())


def test_a_connection_that_drops_goes_on_where_it_was(server):
    server.plan = [drops(100_000), drops(1), drops(50_000), whole]
    assert get(server.remote()).read_bytes() == DATA
    assert server.ranges == [None, "bytes=100000-", "bytes=100001-", "bytes=150001-"]


def test_the_next_run_goes_on_where_the_last_one_ended(server):
    server.plan = [drops(120_000), drops(0), drops(0), drops(0), whole]
    fails(server.remote(), "120000 of 300000 bytes are here. Try again later")
    assert part() == DATA[:120_000]
    assert get(server.remote()).read_bytes() == DATA
    assert server.ranges[1:] == ["bytes=120000-"] * 4


def test_a_server_that_stalls_is_left(server):
    server.plan = [stalls(70_000), whole]
    assert get(server.remote()).read_bytes() == DATA
    assert server.ranges == [None, "bytes=70000-"]
    server.plan = [stalls(0)]
    (places.cache_folder() / "file.bin").unlink()
    began = time.monotonic()
    fails(server.remote(), r"nothing came for 0\.15 seconds")
    assert time.monotonic() - began < 5


def test_a_server_that_drips_is_left_when_time_is_up(server):
    server.plan = [drips]
    fails(server.remote(), r"too slow: \d+ of 300000 bytes are here", Limits(stall=1, total=0.3))
    assert 0 < len(part()) < 100
    assert DATA.startswith(part())


def test_a_server_without_ranges_begins_again(server):
    server.plan = [drops(100_000), ignores_range]
    assert get(server.remote()).read_bytes() == DATA
    assert server.ranges == [None, "bytes=100000-"]


@pytest.mark.parametrize("wrong", [status(416), status(206, Content_Range="bytes 7-299999/300000")])
def test_a_server_that_has_no_such_part_is_asked_for_all(server, wrong):
    server.plan = [drops(100_000), wrong, whole]
    assert get(server.remote()).read_bytes() == DATA
    assert server.ranges == [None, "bytes=100000-", None]


def test_another_file_is_refused(server):
    server.plan = [corrupts]
    fails(server.remote(), "sent another file than the pinned one .*nothing of it is kept")
    assert part() == b""
    assert len(server.ranges) == 1


def test_a_part_of_another_file_is_thrown_away(server):
    places.cache_folder().mkdir()
    for old in (b"x" * 1000, b"x" * 300_000, b"x" * 400_000):
        (places.cache_folder() / "file.bin.part").write_bytes(old)
        assert get(server.remote()).read_bytes() == DATA
        (places.cache_folder() / "file.bin").unlink()


def test_a_download_that_is_wrong_after_a_drop_is_begun_again_once(server):
    server.plan = [drops(100_000), corrupts, whole]
    assert get(server.remote()).read_bytes() == DATA
    assert server.ranges == [None, "bytes=100000-", None]


def test_no_more_is_taken_than_the_file_has(server):
    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for _ in range(100_000):
            handler.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")

    server.plan = [endless]
    fails(server.remote(), "sends more than the 300000 bytes of the pinned file")
    assert part() == b""


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (len(DATA) - 1, "announces 299999 bytes; the pinned file has 300000"),
        (10**15, "announces 1000000000000000 bytes; the pinned file has 300000"),
    ],
)
def test_another_length_is_refused_before_anything_is_taken(server, length, words):
    server.plan = [lambda handler: handler.answer(200, DATA, length)]
    fails(server.remote(), words)
    assert part() == b""


def test_a_length_that_is_right_and_a_body_that_is_longer_or_shorter(server):
    server.plan = [lambda handler: handler.answer(200, DATA + b"more", len(DATA))]
    assert get(server.remote()).read_bytes() == DATA  # what comes behind the announced end is not of this answer
    (places.cache_folder() / "file.bin").unlink()

    def short(handler: Handler) -> None:  # without any length: the end of the connection is the end
        handler.protocol_version = "HTTP/1.0"
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(DATA[:1000])
        handler.close_connection = True

    server.plan = [short]
    fails(server.remote(), "the connection ended after 1000 of 300000 bytes")


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 204, 304])
def test_an_answer_that_is_no_file_is_told(server, code):
    server.plan = [lambda handler: handler.answer(code)]
    fails(server.remote(), rf"file\.bin: the server answers {code}")
    assert len(server.ranges) == 1, "another attempt would not help"


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503])
def test_a_server_that_is_busy_is_asked_again(server, code):
    server.plan = [status(code), status(code), whole]
    assert get(server.remote()).read_bytes() == DATA
    (places.cache_folder() / "file.bin").unlink()
    server.plan = [status(code)]
    fails(server.remote(), rf"the server answers {code} .*Try again later")


def test_a_server_that_says_when_is_asked_then(server):
    server.plan = [status(429, Retry_After="1"), whole]
    began = time.monotonic()
    assert get(server.remote()).read_bytes() == DATA
    assert time.monotonic() - began >= 1
    (places.cache_folder() / "file.bin").unlink()
    server.plan = [status(503, Retry_After="90")]
    began = time.monotonic()
    fails(server.remote(), "the server answers 503")  # that is longer than there is time
    assert time.monotonic() - began < 5


def test_redirects_are_followed_where_they_may(server):
    server.plan = [redirect("/elsewhere"), redirect(f"http://localhost:{server.server_port}/there", 307), whole]
    assert get(server.remote()).read_bytes() == DATA
    assert server.heard == ["/file.bin", "/elsewhere", "/there"]
    (places.cache_folder() / "file.bin").unlink()
    for to in ("http://example.org/file.bin", "ftp://127.0.0.1/file.bin", "file://127.0.0.1/etc/passwd"):
        server.plan = [redirect(to)]
        fails(server.remote(), rf"leads to {to}, and only https is followed")
    server.plan = [redirect("/file.bin")]
    fails(server.remote(), "is redirected again and again")


def test_only_https_is_spoken(server, monkeypatch):
    with pytest.raises(DataError, match=r"leads to http://127\.0\.0\.1:\d+/file\.bin, and only https is followed"):
        fetch(server.remote())
    assert server.ranges == []

    def answers(request: httpx.Request) -> httpx.Response:
        assert request.url.scheme == "https", "what is not https is not asked"
        return httpx.Response(301, headers={"Location": "http://example.org/file.bin"})

    client = httpx.Client(transport=httpx.MockTransport(answers))
    monkeypatch.setattr(download, "_client", lambda limits: client)
    secure = Remote("file.bin", "https://example.org/file.bin", hashlib.sha256(DATA).hexdigest(), len(DATA))
    with pytest.raises(DataError, match=r"leads to http://example\.org/file\.bin, and only https"):
        fetch(secure)


def test_a_proxy_is_asked_where_the_environment_names_one(server, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    elsewhere = Remote("file.bin", "http://localhost:9/file.bin", hashlib.sha256(DATA).hexdigest(), len(DATA))
    monkeypatch.setattr(download, "LOOPBACK", ("localhost",))
    assert get(elsewhere).read_bytes() == DATA
    assert server.heard == ["http://localhost:9/file.bin"]
    (places.cache_folder() / "file.bin").unlink()
    monkeypatch.setenv("no_proxy", "localhost")
    fails(elsewhere, r"file\.bin: no way to localhost")
    monkeypatch.setenv("all_proxy", "socks9://127.0.0.1:1")
    fails(elsewhere, "the proxy that the environment names cannot be used")


def test_without_a_network_it_says_what_to_do(server, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        gone = Remote("file.bin", f"http://127.0.0.1:{closed.getsockname()[1]}/", "0" * 64, 10)
        with pytest.raises(UnreachableError, match=r"file\.bin: no way to 127\.0\.0\.1"):
            get(gone)
    monkeypatch.setattr(download, "_client", lambda limits: httpx.Client(transport=httpx.MockTransport(_no_network)))
    with pytest.raises(
        DataError, match=r"tinyshakespeare\.txt: no way to raw\..*HORNBOOK_DATA.*fables, names and stdlib"
    ):
        remote.file_of(remote.SHAKESPEARE)


def _no_network(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("[Errno -3] Temporary failure in name resolution")


def test_a_network_that_goes_away_is_waited_for(server, monkeypatch):
    calls = []

    def answers(request: httpx.Request) -> httpx.Response:
        calls.append(request.headers.get("Range"))
        if len(calls) == 1:
            return httpx.Response(200, stream=Sends(DATA[:1000], breaks=True), headers={"Content-Length": "300000"})
        if len(calls) == 2:
            raise httpx.ConnectError("no route to host")
        return httpx.Response(206, stream=Sends(DATA[1000:]), headers={"Content-Range": "bytes 1000-299999/*"})

    class Sends(httpx.SyncByteStream):
        def __init__(self, data: bytes, *, breaks: bool = False) -> None:
            self.data, self.breaks = data, breaks

        def __iter__(self) -> Iterator[bytes]:
            yield self.data
            if self.breaks:
                raise httpx.ReadError("connection reset by peer")

    monkeypatch.setattr(download, "_client", lambda limits: httpx.Client(transport=httpx.MockTransport(answers)))
    assert get(server.remote()).read_bytes() == DATA
    assert calls == [None, "bytes=1000-", "bytes=1000-"]


class Full:
    """A file on a disk with room for 100,000 bytes more."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.room = file, 100_000

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)

    def write(self, data: bytes) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)


def test_a_full_disk_leaves_nothing_half(server):
    def full(path: Path, mode: str) -> IO[bytes] | Full:
        file = open(path, mode)  # noqa: SIM115
        return Full(file) if "w" in mode or "+" in mode else file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "open", full, raising=False)
        fails(server.remote(), r"file\.bin\.part: the disk is full, and file\.bin needs 300000 bytes; .*HORNBOOK_CACHE")
    assert DATA.startswith(part())
    assert 0 < len(part()) <= 100_000
    assert get(server.remote()).read_bytes() == DATA, "with room again it goes on"


def test_a_folder_that_cannot_be_written_to(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("HORNBOOK_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be written to: .*HORNBOOK_CACHE"):
        get(server.remote())


CHILD = """
import sys
from hornbook.corpora.download import Remote, fetch
print(fetch(Remote(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])), _loopback=True).stat().st_size)
"""


def test_of_two_processes_one_downloads(server):
    def slow(handler: Handler) -> None:
        time.sleep(0.5)
        whole(handler)

    server.plan = [slow]
    what = server.remote()
    command = [sys.executable, "-c", CHILD, what.name, what.url, what.sha256, str(what.size)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [child.communicate(timeout=60)[0] for child in children] == ["300000\n"] * 2
    assert server.ranges == [None]


def test_whoever_waits_too_long_is_told(server, caplog):
    with download.files.lock(places.cache_folder() / ".file.bin.lock", "taken"), caplog.at_level(logging.INFO):
        fails(server.remote(), r"file\.bin is being downloaded by another process", Limits(total=0.2))
    assert "waiting for it" in caplog.text


def test_a_process_that_is_killed_leaves_a_part_to_go_on_from(server):
    server.plan = [stalls(200_000, 5), whole]
    what = server.remote()
    child = subprocess.Popen([sys.executable, "-c", CHILD, what.name, what.url, what.sha256, str(what.size)])
    while len(part()) < 65_536:
        time.sleep(0.01)
    child.kill()
    child.wait()
    have = len(part())
    assert get(what).read_bytes() == DATA
    assert server.ranges == [None, f"bytes={have}-"]


def test_a_terminal_is_shown_how_far_it_is(server, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    get(server.remote())
    shown = capsys.readouterr()
    assert "download file.bin" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    ("system", "variables", "expected"),
    [
        ("Linux", {"HORNBOOK_CACHE": "/a b/c", "XDG_CACHE_HOME": "/x"}, "/a b/c"),
        ("Linux", {"XDG_CACHE_HOME": "/x", "HOME": "/"}, "/x/hornbook"),
        ("Linux", {"XDG_CACHE_HOME": "relative", "HOME": "HERE"}, "HERE/.cache/hornbook"),
        ("Linux", {"HOME": "HERE"}, "HERE/.cache/hornbook"),
        ("Darwin", {"XDG_CACHE_HOME": "/x", "HOME": "HERE"}, "HERE/Library/Caches/hornbook"),
        ("Windows", {"LOCALAPPDATA": "/local", "HOME": "HERE"}, "/local/hornbook/Cache"),
        ("Windows", {"HOME": "HERE"}, "HERE/AppData/Local/hornbook/Cache"),
        ("Linux", {"HOME": "/dev/null/home"}, None),
        ("Linux", {"HOME": "relative"}, None),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="paths are written as POSIX has them")
def test_where_downloads_are_kept(system, variables, expected, tmp_path, monkeypatch):
    for name in ("HORNBOOK_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("HERE", str(tmp_path)))
    monkeypatch.setattr("platform.system", lambda: system)
    if expected is None:
        with pytest.raises(DataError, match=r"no home folder .*HORNBOOK_CACHE"):
            places.cache_folder()
    else:
        assert places.cache_folder() == Path(expected.replace("HERE", str(tmp_path)))
