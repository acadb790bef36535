"""No unused page is ever lost to eviction, however keys drift."""

from __future__ import annotations

import random

import pytest

from maxserve.core.interfaces.cache import Node, NodeOrder
from maxserve.plugins.cache.paged.tree import Entry, EvictionOrder, PrefixTree
from maxserve.plugins.cache.policies import LeastFrequentlyUsed, LeastRecentlyUsed


class Drifting:
    """Gives another key each time it is asked."""

    def __init__(self) -> None:
        self._random = random.Random(0)

    def key(self, node: Node) -> tuple[float, ...]:
        return (self._random.random(),)


POLICIES = [LeastRecentlyUsed, LeastFrequentlyUsed, Drifting]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_entry_comes_out_once(policy: type[NodeOrder]) -> None:
    rng, order = random.Random(1), EvictionOrder(policy())
    entries = [Entry(page, 4, 0, None, b"") for page in range(40)]
    inside: set[int] = set()
    for clock in range(20_000):
        entry = rng.choice(entries)
        if entry.page not in inside:
            order.add(entry)
            inside.add(entry.page)
        elif rng.random() < 0.5:
            entry.last_used, entry.hits = clock, entry.hits + rng.randrange(2)  # keys change where they lie
        elif rng.random() < 0.5:
            order.remove(entry)
            inside.remove(entry.page)
        else:
            inside.remove(order.pop().page)
        assert order.size == len(inside)
    order.check([entries[page] for page in inside])
    assert sorted(order.pop().page for _ in list(inside)) == sorted(inside)


def test_stale_places_are_cleared_away() -> None:
    order, entry = EvictionOrder(LeastRecentlyUsed()), Entry(0, 4, 0, None, b"")
    for _ in range(1000):
        order.add(entry)
        order.remove(entry)
    assert len(order._heap) <= 65


def test_the_smallest_key_as_it_is_now_goes_first() -> None:
    order = EvictionOrder(LeastRecentlyUsed())
    entries = [Entry(page, 4, page, None, b"") for page in range(3)]
    for entry in entries:
        order.add(entry)
    entries[0].last_used = 9
    assert [order.pop().page for _ in range(3)] == [1, 2, 0]


@pytest.mark.parametrize("policy", POLICIES)
def test_random_trees(policy: type[NodeOrder]) -> None:
    rng, tree, free = random.Random(2), PrefixTree(policy()), list(range(60))
    held: list[Entry] = []
    for _ in range(3000):
        tree.clock += 1
        if rng.random() < 0.4 and len(held) < 6:
            held.append(_grow(rng, tree, free))
        elif held:
            tree.release(held.pop(rng.randrange(len(held))))
        if tree.unused and rng.random() < 0.3:
            free += tree.evict(rng.randint(1, tree.unused))
        users: dict[int, int] = {}
        roots: list[Entry] = []
        for node in held:
            while node.parent is not None:
                users[node.page] = users.get(node.page, 0) + 1
                node = node.parent
            roots.append(node)
        tree.check(1, users, roots)
        assert len(free) + tree.size == 60
    for node in held:
        tree.release(node)
    assert len(tree.evict(tree.unused)) + len(free) == 60


def _grow(rng: random.Random, tree: PrefixTree, free: list[int]) -> Entry:
    """Walks down a random path, adding what is missing while pages are free; the path is held."""
    salt = rng.choice("ab")
    found = tree.match(bytes(rng.randrange(2) for _ in range(8)), 1, salt)
    node = tree.root(salt)
    for node in found:
        tree.hold(node)
    for _ in range(rng.randrange(4)):
        key = bytes([rng.randrange(2)])
        child = node.children.get(key)
        if child is not None:
            tree.hold(child)
        elif free:
            child = tree.add(node, key, free.pop(), node.tokens + 1)
        else:
            break
        node = child
    return node
