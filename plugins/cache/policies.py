"""Eviction policies.

Only the ends of prefixes are asked for: a page goes before the one it continues.
"""

from __future__ import annotations

from maxserve.interfaces.cache import EvictionContext, Node


class _Order:
    """An order that needs to know nothing of the cache."""

    def __init__(self, context: EvictionContext | None = None) -> None:
        pass


class LeastRecentlyUsed(_Order):
    """What was not used for longest; right for most traffic."""

    def key(self, node: Node) -> tuple[float, ...]:
        return (node.last_used,)


class LeastFrequentlyUsed(_Order):
    """What was found least often: system prompts outlive a crowd of single visitors."""

    def key(self, node: Node) -> tuple[float, ...]:
        return (node.hits, node.last_used)


class FirstInFirstOut(_Order):
    """What was cached first, used or not: nothing stays for ever."""

    def key(self, node: Node) -> tuple[float, ...]:
        return (node.created,)


class MostRecentlyUsed(_Order):
    """What was used last: of more prefixes than fit that come round and round, some are found each time."""

    def key(self, node: Node) -> tuple[float, ...]:
        return (-node.last_used,)
