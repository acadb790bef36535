"""Prefixes that would cost most to compute again go last: long ones that were found often."""

from __future__ import annotations

from maxserve import EvictionPolicy, hookimpl


class DearPrefixes:
    """The page with the smallest key goes first."""

    def __init__(self, context):
        self.page_size = context.page_size

    def key(self, node):
        saved = node.hits * node.tokens // self.page_size  # pages that were not computed again, thanks to it
        return (node.pinned, saved, node.last_used)


@hookimpl
def maxserve_eviction_policies():
    yield EvictionPolicy(name="dear-prefixes", build=DearPrefixes, summary="keeps long prefixes that are found often")
