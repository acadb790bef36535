"""Which cached prefixes go first when memory runs out."""

from __future__ import annotations

from maxserve.core.nouns import Node


class LeastRecentlyUsed:
    def key(self, node: Node) -> tuple[float, ...]:
        return (node.last_used,)


class LeastFrequentlyUsed:
    def key(self, node: Node) -> tuple[float, ...]:
        return (node.hits, node.last_used)
