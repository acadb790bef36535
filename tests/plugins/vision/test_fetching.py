"""Images over HTTP, from a server of the test on loopback; and whom the server must not talk to."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from maxserve.plugins.vision.fetching import Deadline, fetch
from maxserve.plugins.vision.limits import ImageLimits

SLOW = 0.05  # seconds between two bytes of a slow answer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: list[dict[str, str]] = []  # noqa: RUF012 (what clients sent, for all of a test)

    def do_GET(self) -> None:
        self.asked.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
        what, _, rest = self.path.lstrip("/").partition("/")
        if what == "to":
            self.send_response(302)
            self.send_header("Location", rest if "://" in rest else f"/{rest}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif what == "loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif what == "slow":
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(200):
                    self.wfile.write(b"x")
                    time.sleep(SLOW)
            except OSError:
                pass
        elif what == "endless":
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"x" * 1000)
            except OSError:
                pass
        elif what == "size":
            self._answer(int(rest))
        elif what == "short":
            self.send_response(200)
            self.send_header("Content-Length", "50")
            self.end_headers()
            self.wfile.write(b"abc")
            self.close_connection = True
        else:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _answer(self, size: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if size <= 1000:
            self.wfile.write(b"x" * size)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    Handler.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def limits(*hosts: str, private: bool = True, seconds: float = 20.0) -> ImageLimits:
    return ImageLimits(count=1, size=100, pixels=1, seconds=seconds, hosts=hosts, private=private)


def test_a_body(port: int) -> None:
    assert fetch(f"http://127.0.0.1:{port}/size/7", limits(f"127.0.0.1:{port}")) == b"x" * 7
    asked = Handler.asked[-1]
    assert asked["accept-encoding"] == "identity"
    assert asked["host"] == f"127.0.0.1:{port}"
    assert not {"cookie", "authorization"} & asked.keys()


def test_redirects_within_what_is_allowed(port: int) -> None:
    base = f"http://127.0.0.1:{port}"
    allowed = limits(f"127.0.0.1:{port}")
    assert fetch(f"{base}/to/size/5", allowed) == b"x" * 5
    assert fetch(f"{base}/to/{base}/to/size/5", allowed) == b"x" * 5
    with pytest.raises(ValueError, match="redirects more"):
        fetch(f"{base}/loop", allowed)


def test_redirects_are_checked_anew(port: int) -> None:
    base = f"http://127.0.0.1:{port}"
    for place in (f"http://localhost:{port}/size/5", "http://127.0.0.1:1/", "file:///etc/passwd"):
        with pytest.raises(ValueError, match=r"--allowed-image-domains|a URL like"):
            fetch(f"{base}/to/{place}", limits(f"127.0.0.1:{port}"))
    assert [each["path"] for each in Handler.asked if "size" in each["path"].split("/")[1]] == []


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("size/101", "--max-image-bytes"),
        ("size/1000000000", "--max-image-bytes"),
        ("endless", "--max-image-bytes"),
        ("short", "broke off|cannot be fetched"),
        ("none", "answered 404"),
        ("a b", "percent-encoded"),
    ],
)
def test_what_is_not_taken(port: int, path: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fetch(f"http://127.0.0.1:{port}/{path}", limits(f"127.0.0.1:{port}"))


def test_a_slow_server_gets_no_more_than_the_time(port: int) -> None:
    """Each byte comes in time, all of them do not."""
    with pytest.raises(ValueError, match="--image-timeout"):
        fetch(f"http://127.0.0.1:{port}/slow", limits(f"127.0.0.1:{port}", seconds=0.3))


@pytest.fixture
def dripping() -> Iterator[int]:
    """A host that accepts, and then sends a byte now and then of what never becomes a status line."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                while not over.is_set():
                    line, _ = listener.accept()
                    threading.Thread(target=drip, args=(line,), daemon=True).start()
            except OSError:
                pass

        def drip(line: socket.socket) -> None:
            with line:
                try:
                    while not over.wait(SLOW):
                        line.sendall(b"H")
                except OSError:
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_time_bounds_what_comes_before_the_body_too(dripping: int, scheme: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ValueError, match=r"--image-timeout|cannot be fetched"):
        fetch(f"{scheme}://127.0.0.1:{dripping}/a.png", limits(f"127.0.0.1:{dripping}", seconds=0.3))
    assert time.monotonic() - begun < 2


def test_waiting_for_a_thread_counts(port: int) -> None:
    with pytest.raises(ValueError, match="--image-timeout"):
        fetch(f"http://127.0.0.1:{port}/size/5", limits(f"127.0.0.1:{port}"), Deadline(0.0))


def test_no_socket_stays_open(port: int, dripping: int) -> None:
    """Also where a fetch ends before its answer does. An open one would be a ResourceWarning, which is an error."""
    for path in ("size/101", "none", "to/size/5", "short", "loop"):
        with suppress(ValueError):
            fetch(f"http://127.0.0.1:{port}/{path}", limits(f"127.0.0.1:{port}"))
    with suppress(ValueError):
        fetch(f"http://127.0.0.1:{dripping}/", limits(f"127.0.0.1:{dripping}", seconds=0.1))
    gc.collect()


def test_an_address_that_does_not_answer_leaves_time_for_the_next(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one belongs to a queue of connections that is full."""
    with socket.socket() as full, socket.socket() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting.connect(full.getsockname())
        found = [(socket.AF_INET, full.getsockname()), (socket.AF_INET, ("127.0.0.1", port))]
        monkeypatch.setattr("maxserve.plugins.vision.fetching.addresses_of", lambda *_: found)
        url = f"http://pictures.example:{port}/size/3"
        assert fetch(url, limits(f"pictures.example:{port}", seconds=4.0)) == b"xxx"


def test_private_addresses_need_leave(port: int) -> None:
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(ValueError, match="not a public address"):
            fetch(f"http://{host}:{port}/size/5", limits(f"{host}:{port}", private=False))
    assert not Handler.asked


def test_the_address_that_was_checked_is_the_one_that_is_used(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that means something public when it is checked and something else a moment later."""
    calls: list[str] = []

    def resolve(host: str, port: int, **_: object) -> list[object]:
        calls.append(host)
        place = ("127.0.0.1", port)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place)]

    monkeypatch.setattr("maxserve.plugins.vision.resolving.socket.getaddrinfo", resolve)
    assert fetch(f"http://pictures.example:{port}/size/3", limits(f"pictures.example:{port}")) == b"xxx"
    assert calls == ["pictures.example"]
    with pytest.raises(ValueError, match="not a public address"):
        fetch(f"http://pictures.example:{port}/size/3", limits(f"pictures.example:{port}", private=False))


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@a.example/x",
        "http:///x",
        "http://[::1",
        "http://a.example:99999/x",
        "http://a.example:x/",
        "ftp://a.example/x",
    ],
)
def test_urls_that_cannot_be(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL"):
        fetch(url, limits("*"))
