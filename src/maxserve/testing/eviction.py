"""Checks of eviction policies.

class TestMine(EvictionPolicyChecks):
    policy = "mine"
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any, ClassVar

from maxserve.core.interfaces.cache import (
    CacheContext,
    EvictionContext,
    EvictionPolicy,
    Node,
    NodeOrder,
)
from maxserve.testing.cache import CacheStrategyChecks
from maxserve.testing.resolve import load, resolve

PAGES, PAGE_SIZE = 24, 4
DEFAULT = "lru"  # the order that the paged cache has where none is chosen, in whose place the tested one comes


class EvictionPolicyChecks:
    """Subclass it and name a registered `policy`, or give the `component` itself.

    `sections` are the plugin's settings, by schema.
    """

    policy: ClassVar[str] = ""
    component: ClassVar[EvictionPolicy | None] = None
    sections: ClassVar[dict[type[Any], Any]] = {}
    seeds: ClassVar[range] = range(4)

    def order(self) -> NodeOrder:
        """A fresh order for a small cache."""
        build: Callable[[EvictionContext], NodeOrder] = load(resolve(EvictionPolicy, self.policy, self.component).build)
        return build(EvictionContext(pages=PAGES, page_size=PAGE_SIZE, sections=self.sections))

    def test_keys_can_be_compared(self) -> None:
        order, rng = self.order(), random.Random(0)
        keys = [order.key(_node(rng, page)) for page in range(200)]
        assert len({len(key) for key in keys}) == 1, "keys have different lengths"
        assert all(isinstance(key, tuple) and all(map(math.isfinite, key)) for key in keys), "keys are finite numbers"
        assert len(set(keys)) > 1, "all pages have one key: they have no order"

    def test_a_node_that_did_not_change_keeps_its_key(self) -> None:
        order, rng = self.order(), random.Random(1)
        nodes = [_node(rng, page) for page in range(50)]
        first = [order.key(node) for node in nodes]
        assert [order.key(node) for node in reversed(nodes)] == first[::-1]

    def test_a_cache_with_it_keeps_its_promises(self) -> None:
        """Random use of the paged cache in which pages run out."""
        checks = _Cached()
        checks.order = self.order
        for seed in self.seeds:
            checks._random_use(random.Random(seed), checks.model())


class _Cached(CacheStrategyChecks):
    """The paged cache with the tested order."""

    order: Callable[[], NodeOrder]
    strategy = "paged"

    def context(self, **changes: Any) -> CacheContext:
        return super().context(**{"eviction_policies": {DEFAULT: self.order}, **changes})


def _node(rng: random.Random, page: int) -> Node:
    """A page as caches have them."""
    created = rng.randrange(1000)
    return Node(
        page=page,
        tokens=PAGE_SIZE * rng.randrange(1, 30),
        created=created,
        last_used=created + rng.randrange(1000),
        hits=rng.randrange(20),
    )
