"""What one client does to a live server, and how long the others wait meanwhile."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

LONGEST = 1.0  # seconds that others may wait: far more than they do, for machines that are busy with other tests
CHAT = "/v1/chat/completions"
TURN = b'{"role":"user","content":"a"}'


@pytest.fixture(scope="module")
def server(two_processes: Any) -> Any:
    return two_processes


def address(server: Any) -> tuple[str, int]:
    parts = urlsplit(server.url)
    return str(parts.hostname), int(parts.port or 0)


@contextmanager
def others_wait(server: Any) -> Iterator[list[float]]:
    """The seconds that /health took, again and again, while the body of the context runs."""
    waits: list[float] = []
    over = threading.Event()

    def watch(client: httpx.Client) -> None:
        while not waits or not over.is_set():
            begun = time.monotonic()
            assert client.get("/health").status_code == 200
            waits.append(time.monotonic() - begun)
            time.sleep(0.02)

    with httpx.Client(base_url=server.url, timeout=60) as client:
        watching = threading.Thread(target=watch, args=(client,))
        watching.start()
        try:
            yield waits
        finally:
            over.set()
            watching.join()


def memory(server: Any, what: str) -> int:
    """Megabytes of the API process: VmRSS now, or VmHWM at most."""
    rows = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(row.split()[1]) // 1024 for row in rows if row.startswith(what))


def said(server: Any, data: bytes) -> str:
    """The status line that answers raw bytes."""
    with socket.create_connection(address(server), timeout=30) as line:
        line.sendall(data)
        with line.makefile("rb") as answer:
            return answer.readline().decode().strip()


def test_a_header_without_end(server: Any) -> None:
    before = memory(server, "VmRSS")
    with others_wait(server) as waits, socket.create_connection(address(server), timeout=30) as line:
        line.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\nX: ")
        sent = 0
        try:
            while sent < 60_000_000:
                line.sendall(b"a" * 1_000_000)
                sent += 1_000_000
        except OSError:
            pass
        assert sent < 60_000_000
    assert max(waits) < LONGEST
    assert memory(server, "VmRSS") < before + 30


@pytest.mark.parametrize(("count", "code"), [(1_700_000, "too_many_values"), (16_000, "context_length_exceeded")])
def test_a_flood_of_messages(server: Any, count: int, code: str) -> None:
    """Megabytes of tiny messages: those beyond the bound are never made, the others hold up no request."""
    body = b'{"messages":[' + (TURN + b",") * (count - 1) + TURN + b"]}"
    with others_wait(server) as waits:
        line = http.client.HTTPConnection(*address(server), timeout=120)
        line.request("POST", CHAT, body, {"Content-Type": "application/json"})
        answer = line.getresponse()
        error = json.loads(answer.read())["error"]
        line.close()
    assert (answer.status, error["code"]) == (400, code)
    assert max(waits) < LONGEST
    assert memory(server, "VmHWM") < 1024


def test_memory_goes_back(server: Any) -> None:
    body = b'{"messages":[{"role":"user","content":"' + b"a" * 30_000_000 + b'"}]}'
    for _ in range(3):
        answer = httpx.post(server.url + CHAT, content=body, headers={"Content-Type": "application/json"}, timeout=60)
        assert answer.status_code == 400
    end = time.monotonic() + 20
    while memory(server, "VmRSS") > 200:
        assert time.monotonic() < end, f"{memory(server, 'VmRSS')} MB after large bodies"
        time.sleep(0.1)


def test_thousands_of_prompts_in_one_post(server: Any) -> None:
    """Another client's request is among those that run, and not behind all of them."""
    ended: dict[str, float] = {}

    def ask(name: str, prompts: Any) -> None:
        body = {"prompt": prompts, "max_tokens": 8, "ignore_eos": True}
        assert httpx.post(server.url + "/v1/completions", json=body, timeout=300).status_code == 200
        ended[name] = time.monotonic()

    with others_wait(server) as waits:
        many = threading.Thread(target=ask, args=("many", ["the quick"] * 600))
        many.start()
        time.sleep(0.3)
        ask("one", "the lazy")
        assert "many" not in ended
        many.join()
    assert max(waits) < LONGEST


@pytest.mark.parametrize(
    ("line", "host", "more", "refused"),
    [
        (f"POST {CHAT}", "127.0.0.1", "Origin: http://evil.example\r\n", True),
        ("POST /reset_prefix_cache", "127.0.0.1", "Origin: http://evil.example\r\n", True),
        ("GET /v1/models", "evil.example", "", True),
        (f"POST {CHAT}", "evil.example", "Origin: http://evil.example\r\nContent-Type: application/json\r\n", True),
        (f"POST {CHAT}", "127.0.0.1", "Origin: http://127.0.0.1\r\n", True),
        (f"POST {CHAT}", "127.0.0.1", "", False),
        ("GET /v1/models", "localhost", "", False),
    ],
)
def test_pages_of_other_sites(server: Any, line: str, host: str, more: str, refused: bool) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}) if CHAT in line else ""
    head = f"{line} HTTP/1.1\r\nHost: {host}\r\n{more}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    status = said(server, (head + body).encode()).split()[1]
    assert status in (("403", "415") if refused else ("200",))


@pytest.mark.parametrize("nested", [lambda n: "[" * n + "]" * n, lambda n: '{"a":' * n + "1" + "}" * n])
def test_what_is_nested_deeply_or_no_text_is_a_400(server: Any, nested: Callable[[int], str]) -> None:
    whole = {"messages": json.dumps([{"role": "user", "content": "a"}]), "max_tokens": "1", "prompt": '"a"'}
    places = [
        "messages",
        "tools",
        "response_format",
        "stop",
        "metadata",
        "chat_template_kwargs",
        "x",
        "prompt",
        "model",
    ]
    with httpx.Client(base_url=server.url, timeout=60, headers={"Content-Type": "application/json"}) as client:
        for path in (CHAT, "/v1/completions", "/v1/messages", "/v1/responses", "/tokenize", "/v1/embeddings"):
            for place in places:
                for value in (nested(190), nested(5000), '"\\ud800"', '{"\\ud800": 1}'):
                    fields = {**whole, place: value}
                    body = "{" + ",".join(f'"{name}":{text}' for name, text in fields.items()) + "}"
                    answer = client.post(path, content=body)
                    assert answer.status_code < 500, (path, place, value[:40], answer.text)
