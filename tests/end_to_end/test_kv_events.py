"""What a router hears of a live server: the very tokens that it is told of a request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
import zmq

from maxserve.testing.live import LiveServer
from tests.plugins.events.router import Index, read

PAGE = 16
PROMPT = "the quick brown fox jumps over the lazy dog and runs away from it into the wood where nothing is seen " * 2


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"ipc://{tmp_path_factory.mktemp('events')}/replay"


@pytest.fixture(scope="module")
def told(
    model_folder: Callable[..., Path], serving: Callable[..., AbstractContextManager[LiveServer]], endpoint: str
) -> Iterator[LiveServer]:
    """A server that publishes its events."""
    with serving(*options(model_folder(), endpoint)) as server:
        yield server


def options(model: Path, endpoint: str) -> tuple[str, ...]:
    events = ("--kv-events.enable-kv-cache-events", "--kv-events.endpoint", endpoint.replace("replay", "events"))
    events += ("--kv-events.replay-endpoint", endpoint, "--kv-events.topic", "kv@pod@tiny")
    return ("--model", str(model), "--served-model-name", "tiny", "--kv-cache-page-size", str(PAGE), *events)


def index(endpoint: str, replica: int = 0) -> Index:
    """Of all events of a replica so far."""
    context, made = zmq.Context[zmq.Socket[bytes]](), Index()
    with context, context.socket(zmq.DEALER) as asker:
        asker.setsockopt(zmq.RCVTIMEO, 10_000)
        asker.connect(endpoint)
        asker.send_multipart([b"", bytes(8)])
        while batch := asker.recv_multipart()[3]:
            made.add(read(batch, replica))
    return made


def post(server: LiveServer, path: str, body: dict[str, Any], **headers: str) -> Any:
    answer = httpx.post(server.url + path, json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def settled(endpoint: str, tokens: list[int], wanted: int, replica: int = 0) -> int:
    """How many tokens are found, once events had time to come."""
    found = -1
    for _ in range(100):
        found = index(endpoint, replica).found(tokens, PAGE)
        if found == wanted:
            break
        time.sleep(0.02)
    return found


def test_a_router_knows_what_the_next_request_finds(told: LiveServer, endpoint: str) -> None:
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 1, "temperature": 0}
    (rendered,) = post(told, "/v1/completions/render", body)
    tokens = rendered["token_ids"]
    whole = (len(tokens) - 1) // PAGE * PAGE
    assert whole >= 3 * PAGE
    assert settled(endpoint, tokens[:whole], 0) == 0
    post(told, "/v1/completions", body)
    assert settled(endpoint, tokens[:whole], whole) == whole
    usage = post(told, "/v1/completions", body)["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == whole
    httpx.post(told.url + "/reset_prefix_cache").raise_for_status()
    assert settled(endpoint, tokens[:whole], 0) == 0


def test_a_salted_request_is_not_told(told: LiveServer, endpoint: str) -> None:
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 1, "cache_salt": "mine"}
    (rendered,) = post(told, "/v1/completions/render", body)
    post(told, "/v1/completions", body)
    post(told, "/v1/completions", {**body, "prompt": "something else " * 20, "cache_salt": None})
    assert settled(endpoint, rendered["token_ids"], 0) == 0


def test_each_replica_tells_what_its_own_cache_has(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/replay"
    replicas = ("--devices", "cpu:0,1", "--data-parallel-degree", "2")
    server = LiveServer(*options(model_folder(), endpoint), *replicas)
    try:
        server.wait_ready()
        body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 1}
        (rendered,) = post(server, "/v1/completions/render", body)
        tokens = rendered["token_ids"]
        whole = (len(tokens) - 1) // PAGE * PAGE
        post(server, "/v1/completions", body, **{"X-data-parallel-rank": "1"})
        assert settled(f"{endpoint}_dp1", tokens[:whole], whole, replica=1) == whole
        assert index(endpoint).found(tokens[:whole], PAGE) == 0
    finally:
        server.stop()
