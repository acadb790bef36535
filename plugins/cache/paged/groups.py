"""The groups of a model's layers whose pages come and go together."""

from __future__ import annotations

from collections.abc import Sequence

from maxserve.interfaces.cache import CacheGroup, CacheLayer

# A layer with a window needs no page that lies wholly before it. Pages of layers that look back equally far are given
# back together, so these share a block table and others have their own. All pages are equal: groups
# have the same number of layers, and the n-th layer of each keeps its keys and values in the same storage.
#
#     layers   0 1 2 3 4 5 6 7 8 9 10 11     w: window, F: sees everything
#              w w w w w F w w w w w  F
#     groups   F: 5 11   w: 0 1   w: 2 3   w: 4 6   w: 7 8   w: 9 10    a page holds keys and values of two layers
MOST_GROUPS = 8  # each is a table per sequence, and a plan of the attention per step


def cache_groups(layers: Sequence[CacheLayer], max_length: int) -> tuple[CacheGroup, ...]:
    """The groups of a model's layers; none when no page can be given back early.

    That is so when rows of `max_length` tokens fit into every window, or when layers of unlike sizes look back unlike
    far: what such layers keep of a page would not fit into equal pages.
    """
    reaches: dict[tuple[int | None, int | None], list[int]] = {}
    for index, layer in enumerate(layers):
        reaches.setdefault(_reach(layer, max_length), []).append(index)
    if set(reaches) <= {(None, None)}:
        return ()
    shapes = {(layer.kv_heads, layer.head_dim, layer.value_size, layer.values_in_keys) for layer in layers}
    if len(reaches) > 1 and len(shapes) > 1:
        return ()
    size = _group_size([len(found) for found in reaches.values()])
    return tuple(
        CacheGroup(layers=tuple(found[start : start + size]), window=window, chunk=chunk)
        for (window, chunk), found in sorted(reaches.items(), key=lambda item: item[0] != (None, None))
        for start in range(0, len(found), size)
    )


def _reach(layer: CacheLayer, max_length: int) -> tuple[int | None, int | None]:
    """Window and chunk of a layer, where rows outgrow them."""
    window, chunk = layer.window, layer.chunk
    return (
        window if window is not None and window < max_length else None,
        chunk if chunk is not None and chunk < max_length else None,
    )


def _group_size(counts: list[int]) -> int:
    """Layers of a group: as many as look back one way where those are fewest, more where that made too many groups."""
    size = min(counts)
    while sum(-(-count // size) for count in counts) > max(MOST_GROUPS, len(counts)):
        size += 1
    return size
