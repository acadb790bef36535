"""Bodies of wrong shapes: never a 5xx, and always an error in the route's own words."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.anyio

BODIES = 300  # a route
TOOL = {"type": "object", "properties": {"a": {"type": "integer"}}}
TEXT = {"type": "text", "text": "Hi"}

SEEDS: dict[str, dict[str, Any]] = {
    "/v1/messages": {
        "model": "acme/tiny",
        "max_tokens": 5,
        "system": [TEXT],
        "messages": [
            {"role": "user", "content": [TEXT]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "x", "signature": ""},
                    {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [TEXT]}]},
        ],
        "tools": [{"name": "f", "input_schema": TOOL}],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "thinking": {"type": "disabled"},
        "metadata": {"user_id": "u"},
        "stop_sequences": ["x"],
        "temperature": 0.5,
        "stream": False,
    },
    "/v1/responses": {
        "model": "acme/tiny",
        "instructions": "Be short.",
        "max_output_tokens": 5,
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "x"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "1"},
        ],
        "tools": [{"type": "function", "name": "f", "parameters": TOOL}],
        "tool_choice": "auto",
        "text": {"format": {"type": "text"}},
        "reasoning": {"summary": "auto"},
        "metadata": {"a": "b"},
        "top_p": 0.9,
        "stream": False,
    },
    "/invocations": {"prompt": ["a"], "max_tokens": 5, "stop": ["x"], "stream": False},
    "/v2/models/tiny/infer": {
        "id": "q",
        "inputs": [{"name": "text_input", "shape": [1], "datatype": "BYTES", "data": ["a"]}],
        "outputs": [{"name": "text_output"}],
        "parameters": {"max_tokens": 5, "temperature": 0.5},
    },
    "/v2/models/tiny/generate": {"text_input": "a", "parameters": {"max_tokens": 5, "stop": "x"}},
    "/v2/models/tiny/generate_stream": {"text_input": "a", "parameters": {"max_tokens": 5}},
}
SEEDS["/v1/messages/count_tokens"] = {k: v for k, v in SEEDS["/v1/messages"].items() if k != "stream"}

JUNK: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 10**30, 2**63, "", "x", "\u0000", "💥" * 50, [], {}, [[]], [None], {"type": None}),
    *([1, "a"], {"a": {"b": [1]}}, "stop", "function", "tool_use", "image", "tool_result", "message", [TEXT] * 3),
]
NAMES = [
    "n",
    "stop",
    "type",
    "content",
    "name",
    "wizardry",
    "logprobs",
    "response_format",
    "tools",
    "text",
    "id",
    "seed",
]


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything inside."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from places(node[key])


def mutated(seed: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    body = copy.deepcopy(seed)
    for _ in range(chance.randint(1, 3)):
        if not body:
            break
        container, key = chance.choice(list(places(body)))
        match chance.randrange(4):
            case 0:
                del container[key]
            case 1 if isinstance(container, dict):
                container[chance.choice(NAMES)] = copy.deepcopy(chance.choice(JUNK))
            case 2 if isinstance(container, list):
                container.append(copy.deepcopy(container[key]))
            case _:
                container[key] = copy.deepcopy(chance.choice(JUNK))
    return body


def check_error(path: str, answer: Any) -> None:
    if path.startswith("/v1/messages"):
        assert answer["type"] == "error"
        assert answer["error"].keys() == {"type", "message"}
    elif path.startswith("/v2"):
        assert answer.keys() == {"error"}
        assert isinstance(answer["error"], str)
    else:
        assert answer["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", SEEDS)
async def test_mutated_bodies(client: httpx.AsyncClient, engine: Any, path: str) -> None:
    assert (await client.post(path, json=SEEDS[path])).status_code == 200
    chance = random.Random(path)
    statuses = set()
    for _ in range(BODIES):
        body = mutated(SEEDS[path], chance)
        response = await client.post(path, content=json.dumps(body))
        statuses.add(response.status_code)
        assert response.status_code < 500, (body, response.text)
        if response.status_code >= 400:
            check_error(path, response.json())
            assert len(response.content) < 5000
    assert {200, 400} <= statuses
    assert not engine.active


@pytest.mark.parametrize("path", SEEDS)
@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"7", b"\xff\xfe", b"{", b"[" * 50_000, b'{"a":' * 50_000])
async def test_what_is_no_body(client: httpx.AsyncClient, path: str, body: bytes) -> None:
    response = await client.post(path, content=body)
    assert response.status_code == 400
    check_error(path, response.json())


def test_the_mutations_are_the_same_each_time() -> None:
    one, other = (mutated(SEEDS["/v1/messages"], random.Random(7)) for _ in range(2))
    assert one == other != SEEDS["/v1/messages"]
