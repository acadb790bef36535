"""Connections of clients that send too much, too slowly, or nothing; and of those who do nothing wrong."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import httpx
import pytest
import uvloop
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from maxserve.core.http.failures import Failure, plain_failure
from maxserve.core.interfaces.http_server import HttpServerContext
from maxserve.plugins.uvicorn import connection
from maxserve.plugins.uvicorn.connection import allow_connections
from maxserve.plugins.uvicorn.options import ConnectionLimits
from maxserve.plugins.uvicorn.server import UvicornServer
from maxserve.testing.http_server import HttpServerChecks

Start = Callable[..., tuple[str, int]]


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    response = await answer(Request(scope, receive))
    await response(scope, receive, send)


async def answer(request: Request) -> Response:
    path = request.url.path
    if path == "/length":
        return PlainTextResponse(str(len(await request.body())))
    if path == "/refused":
        return JSONResponse({"error": "no"}, 413)
    if path == "/slow":
        await asyncio.sleep(0.3)
    if path == "/stream":
        return StreamingResponse(ticks(int(request.query_params["count"])), media_type="text/event-stream")
    if path == "/endless":
        return StreamingResponse(endless())
    return PlainTextResponse(f"{request.method} {path}")


async def ticks(count: int) -> Any:
    for i in range(count):
        await asyncio.sleep(0.1)
        yield f"data: {i}\n\n"


CUT_OFF = threading.Event()


async def endless() -> Any:
    try:
        while True:
            yield "x" * 100_000
            await asyncio.sleep(0)
    finally:
        CUT_OFF.set()


def refusal(failure: Failure, headers: Headers) -> Response:
    answer = plain_failure(failure)
    answer.headers["x-origin"] = headers.get("origin") or "none"
    return answer


@pytest.fixture
def start() -> Iterator[Start]:
    """Serves `application` within limits, in a thread, and gives host and port."""
    stops: list[Callable[[], object]] = []
    threads: list[threading.Thread] = []

    def start(**limits: Any) -> tuple[str, int]:
        listening = socket.create_server(("127.0.0.1", 0))
        started = threading.Event()

        async def serve() -> None:
            sections = {ConnectionLimits: ConnectionLimits(**limits)}
            server = UvicornServer(HttpServerContext(sections=sections, grace=7.0, refusal=refusal))
            loop = asyncio.get_running_loop()
            stops.append(lambda: loop.call_soon_threadsafe(lambda: server.stop(at_once=True)))
            started.set()
            await server.serve(application, [listening])

        def run() -> None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve())

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        assert started.wait(10)
        host, port = listening.getsockname()
        return host, port

    yield start
    for stop in stops:
        stop()
    for thread in threads:
        thread.join(10)


def opened(address: tuple[str, int]) -> closing[socket.socket]:
    line = socket.create_connection(address, timeout=20)
    return closing(line)


def everything(line: socket.socket) -> bytes:
    """What the server says until it closes."""
    answer = b""
    try:
        while piece := line.recv(65536):
            answer += piece
    except ConnectionResetError:
        pass
    return answer


def asked(address: tuple[str, int], data: bytes) -> bytes:
    with opened(address) as line:
        line.sendall(data)
        return everything(line)


def sent_until_cut(line: socket.socket, piece: bytes, times: int) -> int:
    """The bytes that went out before the connection was cut off."""
    for i in range(times):
        try:
            line.sendall(piece)
        except OSError:
            return i * len(piece)
    return times * len(piece)


def failure(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert error.keys() == {"message", "param", "code"}
    assert b"x-origin:" in head
    assert b"content-type: application/json" in head
    return int(head.split()[1]), error["message"]


GET = b"GET /a HTTP/1.1\r\nHost: x\r\n"


def test_what_is_ordinary(start: Start) -> None:
    host, port = start()
    with httpx.Client(base_url=f"http://{host}:{port}") as client:
        for _ in range(3):
            assert client.get("/a").text == "GET /a"
            assert client.post("/length", content=b"x" * 1_000_000).text == "1000000"
            assert client.post("/length", content=iter([b"x" * 10] * 1000)).text == "10000"
            assert client.get("/a", headers={"X-Long": "y" * 60_000}).status_code == 200


# --- headers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (GET + b"X: " + b"a" * 66_000 + b"\r\n\r\n", 431),
        (GET + b"X: " + b"a" * 1_000_000, 431),
        (GET + b"X" * 100_000, 431),
        (GET + b"".join(b"X-%d: y\r\n" % i for i in range(300)) + b"\r\n", 431),
        (GET + b"A:\r\n" * 100_000, 431),
        (b"GET /" + b"a" * 66_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET /" + b"a" * 1_000_000, 414),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (GET + b"Content-Length: x\r\n\r\n", 400),
        (GET + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ],
)
def test_headers_that_are_refused(start: Start, request_: bytes, status: int) -> None:
    found, message = failure(asked(start(), request_))
    assert found == status
    assert message


def test_the_origin_of_a_refused_request_is_known(start: Start) -> None:
    request = GET + b"Origin: https://chat.example\r\nX: " + b"a" * 100_000
    assert b"x-origin: https://chat.example\r\n" in asked(start(), request)


def test_a_header_without_end_is_cut_off_early(start: Start) -> None:
    """Long before the sixty megabytes that it would be, and others are answered meanwhile."""
    address = start()
    with opened(address) as line:
        line.sendall(GET + b"X: ")
        sent = sent_until_cut(line, b"a" * 100_000, 600)
        assert asked(address, GET + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert sent < 30_000_000


def test_headers_of_pipelined_requests_are_counted_one_by_one(start: Start) -> None:
    request = GET + b"X: " + b"a" * 30_000 + b"\r\n\r\n"
    last = GET + b"Connection: close\r\n\r\n"
    assert asked(start(), request * 5 + last).count(b"HTTP/1.1 200") == 6


# --- time -------------------------------------------------------------------------------------------------------------


def test_a_header_that_comes_too_slowly(start: Start) -> None:
    with opened(start(header_timeout=0.3)) as line:
        line.sendall(b"GET /a HTTP/1.1\r\n")
        begun = time.monotonic()
        line.settimeout(0.05)
        answer = b""
        while not answer:
            assert time.monotonic() - begun < 10
            line.sendall(b"X: y\r\n")
            with suppress(TimeoutError):
                answer = line.recv(65536)
        line.settimeout(10)
        status, message = failure(answer + everything(line))
        assert status == 408
        assert "--header-timeout" in message


def test_who_says_nothing_is_cut_off_without_a_word(start: Start) -> None:
    with opened(start(header_timeout=0.2)) as line:
        assert everything(line) == b""


def test_a_body_that_comes_too_slowly(start: Start) -> None:
    with opened(start(body_timeout=0.3, min_body_rate=1000)) as line:
        line.sendall(b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        status, message = failure(everything(line))
        assert status == 408
        assert "--min-body-rate" in message


def test_a_body_that_comes_just_fast_enough(start: Start) -> None:
    with opened(start(body_timeout=0.4, min_body_rate=100)) as line:
        line.sendall(b"POST /length HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(10):
            time.sleep(0.15)
            line.sendall(b"x" * 100)
        assert everything(line).endswith(b"1000")


def test_streams_and_slow_answers_are_not_cut(start: Start) -> None:
    address = start(header_timeout=0.2, body_timeout=0.2, keep_alive_timeout=0.2, send_timeout=0.2)
    answer = asked(address, b"GET /stream?count=12 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.endswith(b"0\r\n\r\n")
    assert b"data: 11" in answer


def test_idle_connections_are_closed(start: Start) -> None:
    with opened(start(keep_alive_timeout=0.2)) as line:
        line.sendall(GET + b"\r\n")
        assert everything(line).endswith(b"GET /a")


def test_who_does_not_read_is_cut_off(start: Start) -> None:
    CUT_OFF.clear()
    with opened(start(send_timeout=0.3)) as line:
        line.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        assert CUT_OFF.wait(20)


# --- number -----------------------------------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(start: Start) -> None:
    requests = [b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % i for i in range(8)]
    answer = asked(start(), b"".join(requests) + GET + b"Connection: close\r\n\r\n")
    places = [answer.index(b"GET /%d" % i) for i in range(8)]
    assert places == sorted(places)
    assert answer.endswith(b"GET /a")


def test_too_many_pipelined_requests(start: Start) -> None:
    """The first ones are answered, and the connection ends: a client sends the others anew."""
    answer = asked(start(), b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" + (GET + b"\r\n") * 20_000)
    assert answer.count(b"HTTP/1.1 200") == connection.MOST_PIPELINED + 1


def test_nonsense_behind_a_request_does_not_disturb_its_answer(start: Start) -> None:
    answer = asked(start(), b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"GET /slow")


def test_tiny_chunks(start: Start) -> None:
    request = b"POST /length HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    status, message = failure(asked(start(), request + b"1\r\na\r\n" * 20_000))
    assert (status, message) == (400, "the body comes in too many tiny chunks")
    fine = b"1\r\na\r\n" * 9_000 + b"0\r\n\r\n"
    assert asked(start(), request.replace(b"Host", b"Connection: close\r\nHost") + fine).endswith(b"9000")


def test_the_oldest_idle_connection_makes_room(start: Start) -> None:
    address = start(max_connections=3)
    with opened(address) as first, opened(address) as second, opened(address) as third:
        for line in (first, second, third):
            line.sendall(GET + b"\r\n")
            assert line.recv(65536).startswith(b"HTTP/1.1 200")
        with opened(address) as fourth:
            fourth.sendall(GET + b"\r\n")
            assert fourth.recv(65536).startswith(b"HTTP/1.1 200")
            assert everything(first) == b""
            second.sendall(GET + b"\r\n")
            assert second.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_flood_of_connections_that_say_nothing_keeps_no_other_out(start: Start) -> None:
    address = start(max_connections=10)
    lines = [socket.create_connection(address, timeout=20) for _ in range(50)]
    try:
        assert asked(address, GET + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 200")
    finally:
        for line in lines:
            line.close()


def test_where_all_are_being_answered_there_is_no_room(start: Start) -> None:
    address = start(max_connections=2)
    with opened(address) as first, opened(address) as second:
        for line in (first, second):
            line.sendall(b"GET /stream?count=20 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert line.recv(65536).startswith(b"HTTP/1.1 200")
        answer = asked(address, b"")
        assert failure(answer)[0] == 503
        assert b"retry-after" in answer
        assert b"data: 19" in everything(first)


# --- bodies that no route waits for, other versions and methods ----------------------------------------------------


def test_an_answer_that_does_not_wait_for_the_body_arrives(start: Start) -> None:
    host, port = start()
    with httpx.Client(base_url=f"http://{host}:{port}") as client:
        assert client.post("/refused", content=b"x" * 20_000_000).status_code == 413
        assert client.get("/a").status_code == 200


def test_a_body_that_is_not_wanted_may_not_go_on_for_ever(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "UNWANTED_BYTES", 1_000_000)
    with opened(start()) as line:
        line.sendall(b"POST /refused HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert sent_until_cut(line, b"10000\r\n" + b"x" * 0x10000 + b"\r\n", 1000) < 30_000_000


def test_expect_100_continue(start: Start) -> None:
    address = start()
    for path, first in ((b"/length", b"HTTP/1.1 100 Continue\r\n\r\n"), (b"/refused", b"HTTP/1.1 413")):
        with opened(address) as line:
            line.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
            assert line.recv(65536).startswith(first)
            line.sendall(b"abc")


def test_http_1_0_gets_no_chunks(start: Start) -> None:
    address = start()
    answer = asked(address, b"GET /stream?count=2 HTTP/1.0\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert body == b"data: 0\n\ndata: 1\n\n"
    assert asked(address, b"GET /a HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nGET /a")


OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 3\r\n\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"Content-Length: 300000\r\n\r\n" + b"x" * 300_000,
    ],
)
def test_offers_of_other_protocols_are_passed_over(start: Start, body: bytes) -> None:
    """Java's client offers h2c with every request, and its body would be lost with the offer."""
    address = start()
    expected = b"3" if body.endswith((b"abc", b"0\r\n\r\n")) else b"300000"
    with opened(address) as line:
        for _ in range(2):
            line.sendall(b"POST /length HTTP/1.1\r\nHost: x\r\n" + OFFER + body)
            assert line.recv(65536).endswith(b"\r\n\r\n" + expected)
        line.sendall(b"GET /a HTTP/1.1\r\nHost: x\r\n" + OFFER + b"\r\n")
        assert line.recv(65536).endswith(b"GET /a")


def test_no_proxy(start: Start) -> None:
    assert failure(asked(start(), b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n"))[0] == 405


def test_a_client_that_leaves_in_the_middle_of_its_body(start: Start) -> None:
    address = start()
    with opened(address) as line:
        line.sendall(b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
    assert asked(address, GET + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_the_limit_of_open_files_is_raised_or_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[Any] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: set_to.append(both))
    for both, allowed, raised in (
        ((1024, 4096), 3840, [(4096, 4096)]),
        ((1024, 100_000), 5000, [(5256, 100_000)]),
        ((1024, resource.RLIM_INFINITY), 5000, [(5256, resource.RLIM_INFINITY)]),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 5000, []),
        ((10_000, 10_000), 5000, []),
        ((64, 64), 1, [(64, 64)]),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda _, both=both: both)
        set_to.clear()
        assert allow_connections(5000) == allowed
        assert set_to == raised


def test_clients_that_read_and_send_slowly_at_once_keep_no_other_waiting(start: Start) -> None:
    address = start(send_timeout=30, body_timeout=30, header_timeout=30)
    with opened(address) as reads, opened(address) as sends, opened(address) as begins:
        reads.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")  # and takes nothing of the answer
        sends.sendall(b"POST /length HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 9\r\n\r\n1234")
        begins.sendall(b"GET /a HT")
        for _ in range(5):
            assert asked(address, GET + b"Connection: close\r\n\r\n").endswith(b"GET /a")
        begins.sendall(b"TP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert everything(begins).endswith(b"GET /a")
        sends.sendall(b"56789")
        assert everything(sends).endswith(b"9")


class TestUvicorn(HttpServerChecks):
    http_server = "uvicorn"
