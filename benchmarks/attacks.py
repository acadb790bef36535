"""The time that other clients wait while one of them attacks the server.

    python benchmarks/attacks.py [NAME …] [--python PYTHON] [-- options of max serve]

Each attack runs against a server of its own on loopback, for some seconds. Meanwhile other clients ask for /health and
for short chats, one after the other; told are the longest waits, the largest memory of the API process, and what the
attack was answered. Linux only.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from maxserve.testing.live import LiveServer

CHAT = "/v1/chat/completions"
TURN = b'{"role":"user","content":"a"}'
Attack = Callable[[tuple[str, int]], object]


def ask(address: tuple[str, int], path: str, body: bytes | None = None) -> int:
    line = http.client.HTTPConnection(*address, timeout=120)
    try:
        line.request("GET" if body is None else "POST", path, body, {"Content-Type": "application/json"})
        answer = line.getresponse()
        answer.read()
        return answer.status
    finally:
        line.close()


def raw(address: tuple[str, int], pieces: Iterator[bytes]) -> str:
    """Sends the pieces for as long as they are taken; the first line of what is said to them."""
    with socket.create_connection(address, timeout=60) as line:
        with contextlib.suppress(OSError):
            for piece in pieces:
                line.sendall(piece)
        try:
            return line.recv(200).decode().split("\r\n")[0]
        except OSError as error:
            return type(error).__name__


def at_once(count: int, attack: Attack, address: tuple[str, int]) -> str:
    said: list[object] = []
    threads = [threading.Thread(target=lambda: said.append(attack(address))) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ", ".join(f"{n} x {what}" for what, n in collections.Counter(map(str, said)).items())


def held(address: tuple[str, int], count: int, data: bytes, seconds: float = 5.0) -> str:
    """Connections that say that much and then nothing."""
    lines = []
    with contextlib.suppress(OSError):
        for _ in range(count):
            lines.append(socket.create_connection(address, timeout=10))
            lines[-1].sendall(data)
    time.sleep(seconds)
    for line in lines:
        line.close()
    return f"{len(lines)} connections"


def header_without_end(address: tuple[str, int]) -> str:
    return raw(address, (b"GET / HTTP/1.1\r\nHost: x\r\nX: " if not i else b"a" * 1_000_000 for i in range(61)))


def pipelined(address: tuple[str, int]) -> str:
    return raw(address, (b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n" * 10_000 for _ in range(10)))


def tiny_chunks(address: tuple[str, int]) -> str:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return raw(address, (head if not i else b"1\r\na\r\n" * 100_000 for i in range(40)))


def unread(address: tuple[str, int]) -> str:
    body = json.dumps({"prompt": "a", "max_tokens": 400, "ignore_eos": True, "stream": True, "logprobs": 5}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    return held(address, 20, head + body)


def messages(count: int) -> bytes:
    return b'{"messages":[' + (TURN + b",") * (count - 1) + TURN + b'],"max_tokens":1}'


def posted(path: str, body: bytes) -> Attack:
    return lambda address: ask(address, path, body)


FULL = 16_000  # messages whose objects and lists are fewer than the bound
ATTACKS: dict[str, Attack] = {
    "nothing": lambda _: time.sleep(3),
    "header": lambda address: at_once(4, header_without_end, address),
    "loris": lambda address: held(address, 800, b"GET / HTTP/1.1\r\nHost: x\r\nX"),
    "connections": lambda address: held(address, 6000, b""),
    "bodies": lambda address: held(
        address, 800, b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n{"
    ),
    "pipelined": lambda address: at_once(2, pipelined, address),
    "chunks": lambda address: at_once(2, tiny_chunks, address),
    "unread": unread,
    "messages": lambda address: at_once(2, posted(CHAT, messages(1_700_000)), address),
    "chat": lambda address: at_once(2, posted(CHAT, messages(FULL)), address),
    "anthropic": lambda address: at_once(2, posted("/v1/messages", messages(FULL)), address),
    "responses": lambda address: at_once(
        2,
        posted(
            "/v1/responses", messages(FULL).replace(b"messages", b"input").replace(b"max_tokens", b"max_output_tokens")
        ),
        address,
    ),
    "tokenize": lambda address: at_once(2, posted("/tokenize", messages(FULL)), address),
    "text": lambda address: at_once(
        2, posted(CHAT, b'{"messages":[{"role":"user","content":"%s"}]}' % (b"a" * 60_000_000)), address
    ),
    "ids": lambda address: at_once(2, posted("/v1/completions", b'{"prompt":[' + b"17," * 900_000 + b"1]}"), address),
    "keys": lambda address: at_once(
        2, posted(CHAT, messages(1)[:-1] + b"".join(b',"k%d":1' % i for i in range(120_000)) + b"}"), address
    ),
    "prompts": lambda address: at_once(
        1, posted("/v1/completions", json.dumps({"prompt": ["the list"] * 2000, "max_tokens": 1}).encode()), address
    ),
    "choices": lambda address: at_once(
        4, posted("/v1/completions", json.dumps({"prompt": "the list", "n": 128, "max_tokens": 4}).encode()), address
    ),
}


def longest_waits(address: tuple[str, int], attack: Attack) -> tuple[float, float, str]:
    waits: dict[str, list[float]] = {"/health": [0.0], CHAT: [0.0]}
    over = threading.Event()

    def watch(path: str, body: bytes | None) -> None:
        while not over.is_set():
            begun = time.monotonic()
            with contextlib.suppress(OSError, http.client.HTTPException):
                ask(address, path, body)
            waits[path].append(time.monotonic() - begun)
            time.sleep(0.02)

    chat = json.dumps({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}).encode()
    watching = [threading.Thread(target=watch, args=each) for each in (("/health", None), (CHAT, chat))]
    for thread in watching:
        thread.start()
    time.sleep(0.5)
    said = attack(address)
    time.sleep(0.5)
    over.set()
    for thread in watching:
        thread.join()
    return max(waits["/health"]), max(waits[CHAT]), str(said)


def peak(pid: int) -> int:
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(row.split()[1]) // 1024 for row in rows if row.startswith("VmHWM"))


def attacked(name: str, python: str, options: list[str]) -> str:
    """A row of the table. The attacker is a process of its own, so that it does not hold up those who watch."""
    server = LiveServer(*options, python=python, env={"OMP_NUM_THREADS": "1"}).wait_ready()
    try:
        parts = urlsplit(server.url)
        address = (str(parts.hostname), int(parts.port or 0))
        ask(address, CHAT, json.dumps({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}).encode())
        command = [sys.executable, __file__, "--attack", name, f"{address[0]}:{address[1]}"]
        health, chat, said = longest_waits(
            address, lambda _: subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        )
        return f"| {name} | {health * 1e3:.0f} | {chat * 1e3:.0f} | {peak(server.process.pid)} | {said[:100]} |"
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--attack", nargs=2, help=argparse.SUPPRESS)
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments = parser.parse_args(sys.argv[1:split])
    if arguments.attack:
        name, at = arguments.attack
        host, _, port = at.rpartition(":")
        print(ATTACKS[name]((host, int(port))))
        return
    print("| attack | /health, ms | short chat, ms | peak, MB | what it was answered |\n|---|---|---|---|---|")
    for name in arguments.names or ATTACKS:
        print(attacked(name, arguments.python, sys.argv[split + 1 :]), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
