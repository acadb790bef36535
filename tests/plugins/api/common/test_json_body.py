"""Bodies within bounds: what is counted, and where it is read."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Request
from pydantic import field_validator

from maxserve.core.http.app import create_app
from maxserve.core.interfaces.errors import RequestError
from maxserve.plugins.api.common import json_body as bodies
from maxserve.plugins.api.common.fields import Body
from maxserve.plugins.api.common.json_body import (
    MOST_CONTAINERS,
    MOST_ENTRIES,
    MOST_STRINGS,
    SMALL,
    check_count,
    read_body,
    without_lone_surrogates,
)
from maxserve.plugins.api.common.threads import Threads

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Note(Body):
    words: Any = None
    threads: list[str] = []  # noqa: RUF012 (pydantic copies it)

    @field_validator("words")
    @classmethod
    def _note_thread(cls, value: Any) -> Any:
        READERS.append(threading.current_thread().name)
        return value


READERS: list[str] = []


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    router = APIRouter()

    @router.post("/note")
    async def note(request: Request) -> int:
        return len((await read_body(request, Note)).words)

    threads = Threads(1, "bodies")
    context: Any = SimpleNamespace(once=lambda make: threads, model=SimpleNamespace(name="tiny"), observers=())
    app = create_app(context, [("/", router, "acme")])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        yield http
    threads.close()
    await asyncio.sleep(0)


async def test_large_bodies_are_read_beside_the_event_loop(client: httpx.AsyncClient) -> None:
    for size, where in ((10, "MainThread"), (SMALL + 1, "maxserve-bodies")):
        READERS.clear()
        assert (await client.post("/note", json={"words": "x" * size})).json() == size
        assert READERS[0].startswith(where)


async def test_compressed_bodies_are_named(client: httpx.AsyncClient) -> None:
    for coding, status in (("gzip", 415), ("identity", 200)):
        answer = await client.post("/note", content=b'{"words": "x"}', headers={"Content-Encoding": coding})
        assert answer.status_code == status


@pytest.mark.parametrize("size", [10, SMALL + 1])
async def test_what_is_wrong_with_a_body_is_said_wherever_it_is_read(client: httpx.AsyncClient, size: int) -> None:
    blank = b" " * size
    for content, code in (
        (b"{" + blank, "invalid_json"),
        (b"[]" + blank, "invalid_json"),
        (b'{"words": "\xff"}' + blank, "invalid_json"),
        (b'{"words": "\xed\xa0\x80"}' + blank, "invalid_json"),
        (b'{"words": ' + b"[" * 5000 + b"]" * 5000 + b"}" + blank, "invalid_json"),
    ):
        answer = await client.post("/note", content=content, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (r"cut \ud83d", "cut \ufffd"),
        (r"\ude00 begins", "\ufffd begins"),
        (r"whole \ud83d\ude00", "whole \U0001f600"),
        (r"\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
        (r"escaped \\ud83d \ud83d", "escaped \\ud83d \ufffd"),
        (r"\\\ud83d\n", "\\\ufffd\n"),
    ],
)
async def test_half_a_character_stands_for_none(text: str, read: str) -> None:
    """What programs leave that cut texts by UTF-16 units; one such message would end a conversation for good."""
    escaped = without_lone_surrogates(f'"{text}"'.encode())
    assert json.loads(escaped) == read


async def test_a_body_with_half_a_character_is_read(client: httpx.AsyncClient) -> None:
    for size in (0, SMALL):
        content = b'{"words": "\\ud83d' + b"x" * size + b'"}'
        answer = await client.post("/note", content=content, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()) == (200, size + 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"words":[' + b"{}," * MOST_CONTAINERS + b"1]}", "objects and lists"),
        (b'{"words":[' + b"[]," * MOST_CONTAINERS + b"1]}", "objects and lists"),
        (b'{"words":[' + b'"",' * MOST_STRINGS + b"1]}", "strings"),
        (b'{"words":[' + b"1," * (MOST_ENTRIES + 1) + b"1]}", "entries"),
        (b"{" + b'"a":1,' * MOST_STRINGS + b'"a":1}', "strings"),
    ],
)
async def test_too_many_values(content: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=f"more than \\d+ {said}") as caught:
        check_count(content)
    assert (caught.value.status, caught.value.code) == (400, "too_many_values")


async def test_the_bound_is_answered_with_400(client: httpx.AsyncClient) -> None:
    content = b'{"words":[' + b"{}," * MOST_CONTAINERS + b"1]}"
    answer = await client.post("/note", content=content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_many_values")


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [' * 20_000,
        '"' * 300_000,
        "\\" * 300_000,
        '\\"' * 200_000 + "\\",
        "a, b, c, " * 500_000,
        'x = {"a": [1, 2], "b": "c\\\\"}, ' * 40_000,
    ],
)
async def test_what_is_within_strings_does_not_count(text: str) -> None:
    check_count(json.dumps({"messages": [{"role": "user", "content": text}], "a": text}).encode())


async def test_no_end_of_a_string() -> None:
    check_count(b'{"a": "' + b"[,{" * 500_000)
    check_count(b'{"a": "' + b'\\"' * 500_000)


def count(value: Any) -> tuple[int, int, int]:
    """Containers, commas and strings of a value."""
    if isinstance(value, str):
        return 0, 0, 1
    if not isinstance(value, list | dict):
        return 0, 0, 0
    parts = list(value) if isinstance(value, list) else [*value.keys(), *value.values()]
    found = [count(part) for part in parts]
    return (
        1 + sum(f[0] for f in found),
        max(0, len(value) - 1) + sum(f[1] for f in found),
        sum(f[2] for f in found),
    )


def made(rng: random.Random, depth: int) -> Any:
    kind = rng.randrange(6 if depth else 4)
    if kind < 2:
        return "".join(rng.choices('a"\\{}[],:\u00e4\n', k=rng.randrange(12)))
    if kind < 4:
        return rng.choice([1, None, True, -2.5])
    if kind == 4:
        return [made(rng, depth - 1) for _ in range(rng.randrange(6))]
    return {str(i) + rng.choice('"\\,{'): made(rng, depth - 1) for i in range(rng.randrange(6))}


async def test_counts_are_those_of_the_parsed_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right at its bounds a body is taken, and with one less in any of them it is not; in slices of any size."""
    rng = random.Random(1)
    for i in range(300):
        value = made(rng, 5)
        text = json.dumps(value, ensure_ascii=bool(i % 2), indent=i % 3 or None).encode()
        containers, entries, strings = count(value)
        monkeypatch.setattr(bodies, "_SLICE", rng.randrange(1, 40))
        names = {"MOST_CONTAINERS": containers, "MOST_ENTRIES": entries, "MOST_STRINGS": strings}
        for name, bound in names.items():
            monkeypatch.setattr(bodies, name, bound)
        check_count(text)
        for name, bound in names.items():
            if bound:
                monkeypatch.setattr(bodies, name, bound - 1)
                with pytest.raises(RequestError):
                    check_count(text)
                monkeypatch.setattr(bodies, name, bound)
