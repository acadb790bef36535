"""Events by the schema of who reads them; an index that is made of them is the tree."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from maxserve.interfaces.cache import CacheContext, CacheGroup
from maxserve.plugins.cache.paged import PagedCache, WindowedCache, paged_cache
from maxserve.plugins.events.batches import Batches
from maxserve.plugins.events.queue import CLEARED, EventQueue
from maxserve.testing.cache import _acts
from maxserve.testing.cache_model import ONES, Model
from tests.plugins.events.router import Index, read

ENCODINGS = ["arrays", "event-maps", "maps"]
WHOLE, NEAR = CacheGroup(layers=(0,)), CacheGroup(layers=(1,), window=9)
CHUNK = CacheGroup(layers=(2,), chunk=8)
OPERATIONS = 10_000


def queue(limit: int = 10**6) -> EventQueue:
    return EventQueue(limit, wake=lambda: None)


def page(*tokens: int) -> bytes:
    return np.array(tokens, np.int64).tobytes()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_neighbours_are_one_event(encoding: str) -> None:
    events = queue()
    events.stored("device", 11, None, page(1, 2), "", None)
    events.stored("device", 12, 11, page(3, 4), "", None)
    events.stored("device", 13, 11, page(5, 6), "", None)  # beside the one before, not behind it
    events.stored("host", 11, None, page(1, 2), "", None)
    events.removed("device", 12, "", None)
    events.removed("device", 13, "", None)
    events.cleared()
    stored = {"block_size": 2, "lora_id": None, "lora_name": None, "extra_keys": None, "group_idx": None}
    stored |= {"kv_cache_spec_kind": None, "kv_cache_spec_sliding_window": None, "type": "BlockStored"}
    assert read(Batches(encoding, 2, ()).encode(events.take())) == [
        {"type": "AllBlocksCleared"},
        {**stored, "block_hashes": [11, 12], "parent_block_hash": None, "token_ids": [1, 2, 3, 4], "medium": "GPU"},
        {**stored, "block_hashes": [13], "parent_block_hash": 11, "token_ids": [5, 6], "medium": "GPU"},
        {**stored, "block_hashes": [11], "parent_block_hash": None, "token_ids": [1, 2], "medium": "CPU"},
        {"type": "BlockRemoved", "block_hashes": [12, 13], "medium": "GPU", "group_idx": None},
        {"type": "AllBlocksCleared"},
    ]


def test_the_three_forms() -> None:
    """As they lie in the message: this is what other programs have been written for."""
    events = queue()
    events.take()
    events.stored("device", 2**64 - 1, 7, page(8, 9), "", None)
    events.removed("host", 3, "", None)
    taken = events.take()
    arrays, event_maps, maps = (msgspec.msgpack.decode(Batches(form, 2, ()).encode(taken)) for form in ENCODINGS)
    assert isinstance(arrays[0], float)
    assert arrays[1:] == [
        [
            ["BlockStored", [2**64 - 1], 7, [8, 9], 2, None, "GPU", None, None],
            ["BlockRemoved", [3], "CPU"],
        ],
        0,
    ]
    stored = {"type": "BlockStored", "block_hashes": [2**64 - 1], "parent_block_hash": 7, "token_ids": [8, 9]}
    stored |= {"block_size": 2, "lora_id": None, "medium": "GPU", "lora_name": None, "extra_keys": None}
    assert event_maps[1:] == [[stored, {"type": "BlockRemoved", "block_hashes": [3], "medium": "CPU"}], 0]
    assert maps == {"ts": maps["ts"], "events": event_maps[1], "data_parallel_rank": 0}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_groups_say_how_far_they_look_back(encoding: str) -> None:
    events, alike = queue(), CacheGroup(layers=(3,), window=9)
    for group in (WHOLE, NEAR, CHUNK):
        events.stored("device", 5, None, page(1, 2), "", group)
    events.removed("device", 5, "", NEAR)
    index = Index()
    index.add(read(Batches(encoding, 2, (WHOLE, NEAR, alike, CHUNK)).encode(events.take())))
    assert index.windows == {
        0: ("full_attention", None),
        1: ("sliding_window", 9),
        2: ("chunked_local_attention", None),
    }
    assert {group: len(pages) for (_, group), pages in index.pages.items()} == {0: 1, 1: 0, 2: 1}


def test_what_is_under_a_salt_is_not_told() -> None:
    events = queue()
    events.take()
    events.stored("device", 1, None, page(1), "another", None)
    events.removed("device", 1, "another", None)
    assert events.take() == []


def test_too_many_events_are_one_that_says_so(caplog: pytest.LogCaptureFixture) -> None:
    events = queue(limit=4)
    for number in range(1, 6):
        events.removed("device", number, "", None)
    kinds = [event[0] for event in events.take()]
    assert kinds == ["cleared", "removed", "removed"]
    assert "4 events" in caplog.text
    assert CLEARED not in events.take()


def test_who_takes_is_woken_once_for_all_that_came_meanwhile() -> None:
    woken: list[int] = []
    events = EventQueue(100, lambda: woken.append(1))
    for number in range(5):
        events.removed("device", number, "", None)
    assert len(woken) == 1
    assert len(events.take()) == 6
    events.cleared()
    assert len(woken) == 2


def used(model: Model, seed: int) -> Iterator[int]:
    """Random use, with the number of each operation."""
    for number, act in enumerate(_acts(random.Random(seed), model, OPERATIONS)):
        act()
        yield number


@pytest.mark.parametrize(("encoding", "host_pages"), [("arrays", 0), ("event-maps", 40), ("maps", 7)])
def test_an_index_of_the_events_is_the_tree(
    cache_context: Callable[..., CacheContext], encoding: str, host_pages: int
) -> None:
    context = cache_context(host_pages=host_pages, layers=ONES)
    cache, events, index, batches = PagedCache(context), queue(), Index(), Batches(encoding, 4, ())
    cache.listen(events)
    for number in used(Model(cache, context, shares=True, copies=True), seed=host_pages):
        if number % 7 == 0:
            index.add(read(batches.encode(events.take())))
    index.add(read(batches.encode(events.take())))
    trees: dict[str, Any] = {"GPU": cache._tree} | ({"CPU": cache._host._tree} if cache._host is not None else {})
    for medium, tree in trees.items():
        there = {
            entry.number: (
                entry.parent.number if entry.parent.parent is not None else None,
                tuple(np.frombuffer(entry.key, np.int64).tolist()),
            )
            for entry in tree.entries()
            if not entry.salt
        }
        assert there == index.pages.get((medium, None), {})
        assert there


def test_an_index_of_the_events_is_the_tree_of_each_reach(cache_context: Callable[..., CacheContext]) -> None:
    groups = (WHOLE, NEAR, CHUNK)
    context = cache_context(groups=groups, pages=72)
    cache, events, index, batches = paged_cache(context), queue(), Index(), Batches("arrays", 4, groups)
    assert isinstance(cache, WindowedCache)
    cache.listen(events)
    for _ in used(Model(cache, context, shares=True), seed=1):
        index.add(read(batches.encode(events.take())))
    for reach in range(3):
        there = {piece.entry.number for piece in cache._tree.pieces() if piece.reach == reach and not piece.salt}
        assert there == index.pages[("GPU", reach)].keys()
        assert there


def test_a_reset_of_what_no_row_uses_clears_all(cache_context: Callable[..., CacheContext]) -> None:
    tokens = np.arange(20)
    for groups in ((), (WHOLE, NEAR)):
        cache, events = paged_cache(cache_context(groups=groups)), queue()
        cache.listen(events)  # type: ignore[attr-defined]
        for row in (0, 1):
            cache.open(row, tokens + 100 * row, "")
            assert cache.reserve(row, 20)
            cache.commit(row, tokens + 100 * row)
        cache.close(0)
        events.take()
        cache.reset()
        assert CLEARED not in events.take()
        cache.close(1)
        cache.reset()
        assert events.take()[-1] is CLEARED
