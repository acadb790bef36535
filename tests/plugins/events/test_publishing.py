"""Over sockets: numbers without gaps, replay, and what must not be started."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
import zmq

from maxserve.interfaces.cache import Cache, CacheContext
from maxserve.interfaces.errors import SettingsError
from maxserve.plugins.cache.paged import PagedCache
from maxserve.plugins.events import maxserve_cache_built
from maxserve.plugins.events.options import KVEventSettings, check
from tests.plugins.events.router import Index, read

Context = Callable[..., CacheContext]
WAIT = 10_000  # ms
END = (-1).to_bytes(8, "big", signed=True)


def on(**fields: Any) -> dict[type[Any], Any]:
    return {KVEventSettings: KVEventSettings(enable_kv_cache_events=True, **fields)}


def fill(cache: PagedCache, seed: int, length: int = 20) -> list[int]:
    """A prompt that is computed and stays in the cache."""
    tokens = np.random.default_rng(seed).integers(0, 1000, length)
    cache.open(0, tokens, "")
    assert cache.reserve(0, length)
    cache.commit(0, tokens)
    cache.close(0)
    return [int(token) for token in tokens]


def publishers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "kv-events"]


@pytest.fixture
def sockets() -> Iterator[Callable[..., zmq.Socket[bytes]]]:
    context = zmq.Context[zmq.Socket[bytes]]()
    opened: list[zmq.Socket[bytes]] = []

    def connected(kind: int, address: str) -> zmq.Socket[bytes]:
        made = context.socket(kind)
        made.setsockopt(zmq.RCVTIMEO, WAIT)
        if kind == zmq.SUB:
            made.setsockopt(zmq.SUBSCRIBE, b"kv@")
        made.connect(address)
        opened.append(made)
        return made

    yield connected
    for each in opened:
        each.close(linger=0)
    context.destroy(linger=0)


def replayed(asker: zmq.Socket[bytes], start: int) -> list[tuple[int, bytes]]:
    """All batches from number `start` on, as llm-d asks for them."""
    asker.send_multipart([b"", start.to_bytes(8, "big")])
    got: list[tuple[int, bytes]] = []
    while True:
        delimiter, topic, number, batch = asker.recv_multipart()
        assert delimiter == b""
        if number == END:
            assert (topic, batch) == (b"", b"")
            return got
        assert topic == b"kv@pod@model"
        got.append((int.from_bytes(number, "big"), batch))


@pytest.fixture(autouse=True)
def _caches_go() -> Iterator[None]:
    yield
    gc.collect()
    assert publishers() == []


def test_batches_are_published_and_replayed(cache_context: Context, tmp_path: Path, sockets: Any) -> None:
    endpoint, replay = f"ipc://{tmp_path}/events", f"ipc://{tmp_path}/replay"
    context = cache_context(sections=on(endpoint=endpoint, replay_endpoint=replay, topic="kv@pod@model"), pages=64)
    cache = PagedCache(context)
    maxserve_cache_built(cache, context)
    subscriber, asker = sockets(zmq.SUB, endpoint), sockets(zmq.DEALER, replay)
    prompts = [fill(cache, 0)]
    while not subscriber.poll(20):  # what is sent before a subscription has arrived is lost: this is what replay is for
        prompts.append(fill(cache, len(prompts)))
        assert len(prompts) < 500
    prompts.append(fill(cache, len(prompts)))
    index, numbers = Index(), []
    while subscriber.poll(500):
        topic, number, batch = subscriber.recv_multipart()
        assert topic == b"kv@pod@model"
        numbers.append((int.from_bytes(number, "big"), batch))
    assert [number for number, _ in numbers] == list(range(numbers[0][0], numbers[0][0] + len(numbers)))
    missed = replayed(asker, 0)
    assert missed[-len(numbers) :] == numbers
    assert [number for number, _ in missed] == list(range(len(missed)))
    for _, batch in missed:
        index.add(read(batch))
    assert [index.found(tokens, 4) for tokens in prompts[-2:]] == [20, 20]
    assert replayed(asker, missed[-1][0]) == missed[-1:]
    assert replayed(asker, len(missed)) == []


def test_what_is_no_request_for_a_replay_has_no_answer(cache_context: Context, tmp_path: Path, sockets: Any) -> None:
    settings = on(endpoint=f"ipc://{tmp_path}/events", replay_endpoint=f"ipc://{tmp_path}/replay", topic="kv@pod@model")
    context = cache_context(sections=settings)
    cache = PagedCache(context)
    maxserve_cache_built(cache, context)
    fill(cache, 0)
    dealer = sockets(zmq.DEALER, f"ipc://{tmp_path}/replay")
    for request in ([b"x"], [b"", b"short"], [b"a", b"b", bytes(8)], [bytes(8)]):
        dealer.send_multipart(request)
    dealer.send_multipart([b"", bytes(8)])
    while True:
        frames = dealer.recv_multipart()
        assert (len(frames), frames[0]) == (4, b"")
        if frames[2] == END:
            break
    assert not dealer.poll(100)


def test_only_the_last_batches_are_kept(cache_context: Context, tmp_path: Path, sockets: Any) -> None:
    addresses = {"endpoint": f"ipc://{tmp_path}/e", "replay_endpoint": f"ipc://{tmp_path}/r"}
    context = cache_context(sections=on(**addresses, topic="kv@pod@model", buffer_steps=2), pages=64)
    cache, asker = PagedCache(context), sockets(zmq.DEALER, addresses["replay_endpoint"])
    maxserve_cache_built(cache, context)
    for number in range(4):
        fill(cache, number)
        while not replayed(asker, number):  # until it is published, so that there are as many batches
            pass
    first, second = (number for number, _ in replayed(asker, 0))
    assert second == first + 1 >= 3


def test_a_publisher_ends_with_its_cache(cache_context: Context) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = cache_context(sections=on(endpoint=f"tcp://*:{port}"))
    cache = PagedCache(context)
    maxserve_cache_built(cache, context)
    fill(cache, 0)
    assert len(publishers()) == 1
    with pytest.raises(
        SettingsError, match=rf"--kv-events.endpoint: cannot open tcp://\*:{port}: Address already in use"
    ):
        maxserve_cache_built(PagedCache(context), context)
    del cache
    gc.collect()
    assert publishers() == []
    cache = PagedCache(context)
    maxserve_cache_built(cache, context)  # the port is free again


def test_nothing_is_started_unless_asked_for(cache_context: Context) -> None:
    for sections in ({}, on(publisher="null")):
        cache = PagedCache(cache_context(sections=sections))
        maxserve_cache_built(cache, cache_context(sections=sections))
        assert publishers() == []
        assert cache._tree.listeners == ()


@pytest.mark.parametrize(
    ("endpoint", "replay", "wrong"),
    [
        ("tcp://*:5557", None, ""),
        ("tcp://*:5557", "tcp://*:5560", ""),
        ("tcp://*:5557", "tcp://*:5559", "3 apart"),
        ("tcp://*:5557", "tcp://127.0.0.1:5558", "3 apart"),
        ("tcp://router:5557", "tcp://*:5557", ""),
        ("ipc:///tmp/events", "ipc:///tmp/replays", ""),
        ("ipc:///tmp/events", "ipc:///tmp/events", "3 apart"),
        ("tcp://*:65533", None, ""),
        ("tcp://*:65534", None, "65535"),
    ],
)
def test_replicas_need_addresses_of_their_own(endpoint: str, replay: str | None, wrong: str) -> None:
    own = KVEventSettings(enable_kv_cache_events=True, endpoint=endpoint, replay_endpoint=replay)
    refused = pytest.raises(SettingsError, match=f"--data-parallel-degree 3.*{wrong}")
    with refused if wrong else nullcontext():
        check(cast("Any", SimpleNamespace(model=SimpleNamespace(data_parallel_degree=3))), own)
    for alone in (replace(own, enable_kv_cache_events=False), own):
        degree = 1 if alone is own else 3
        check(cast("Any", SimpleNamespace(model=SimpleNamespace(data_parallel_degree=degree))), alone)


def test_a_replica_publishes_at_its_own_address_and_says_its_number(
    cache_context: Context, sockets: Callable[..., zmq.Socket[bytes]], tmp_path: Path
) -> None:
    address = f"ipc://{tmp_path}/events"
    replay = f"ipc://{tmp_path}/replays"
    context = cache_context(sections=on(endpoint=address, replay_endpoint=replay, topic="kv@a@m"), replica=2)
    cache = PagedCache(context)
    maxserve_cache_built(cache, context)
    missed = sockets(zmq.DEALER, f"{replay}_dp2")
    fill(cache, 1)
    found: list[bytes] = []
    while found[:1] != [b"kv@a@m"]:  # what is not published yet is asked for once more
        missed.send_multipart((b"", (0).to_bytes(8, "big")))
        found = missed.recv_multipart()[1:]
    assert msgspec.msgpack.decode(found[2])[2] == 2
    assert not (tmp_path / "events").exists()
    assert (tmp_path / "events_dp2").exists()


def test_what_cannot_be_told_is_refused(cache_context: Context) -> None:
    silent = cast("Cache", SimpleNamespace())
    with pytest.raises(SettingsError, match="--no-enable-prefix-caching"):
        maxserve_cache_built(silent, cache_context(sections=on(), share_prefixes=False))
    with pytest.raises(SettingsError, match="--cache-strategy"):
        maxserve_cache_built(silent, cache_context(sections=on()))
    assert publishers() == []
