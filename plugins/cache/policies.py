"""Eviction policies.

Only the ends of prefixes are asked for: a page goes before the one it continues.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from maxserve.interfaces.cache import EvictionPolicy, Node


class LeastRecentlyUsed:
    """What was not used for longest; right for most traffic."""

    def key(self, node: Node) -> tuple[float, ...]:
        return (node.last_used,)


class LeastFrequentlyUsed:
    """What was found least often: system prompts outlive a crowd of single visitors."""

    def key(self, node: Node) -> tuple[float, ...]:
        return (node.hits, node.last_used)


class FirstInFirstOut:
    """What was cached first, used or not: nothing stays for ever."""

    def key(self, node: Node) -> tuple[float, ...]:
        return (node.created,)


class MostRecentlyUsed:
    """What was used last: of more prefixes than fit that come round in turn, some are found each time."""

    def key(self, node: Node) -> tuple[float, ...]:
        return (-node.last_used,)


POLICIES: Mapping[str, Callable[[], EvictionPolicy]] = {
    "lru": LeastRecentlyUsed,
    "lfu": LeastFrequentlyUsed,
    "fifo": FirstInFirstOut,
    "mru": MostRecentlyUsed,
}
