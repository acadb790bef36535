"""Which layers share a table of pages, and how many pages does a sequence hold at once?

A layer with a window needs no page that lies wholly before it. Pages of layers that look back equally far are given
back together, so these share tables and others have their own. All pages are equal, whoever's they are: groups have the
same number of layers, and the n-th layer of each keeps its keys and values in the same storage.

    layers   0 1 2 3 4 5 6 7 8 9 10 11     w: window, F: sees everything
             w w w w w F w w w w w  F
    groups   F: 5 11   w: 0 1   w: 2 3   w: 4 6   w: 7 8   w: 9 10      a page holds keys and values of two layers

No torch at import.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maxserve.core.interfaces.cache import CacheLayer

__all__ = ["Bounds", "CacheGroup", "MOST_GROUPS", "cache_groups", "longest", "pages_of"]

MOST_GROUPS = 8  # each is a table per sequence, and a plan of the attention per step
Bounds = tuple[int | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheGroup:
    """Layers, by their index, whose pages come and go together. `window` and `chunk` are those of a CacheLayer."""

    layers: tuple[int, ...]
    window: int | None = None
    chunk: int | None = None

    @property
    def bounded(self) -> bool:
        """Whether pages are given back while the row is open."""
        return self.window is not None or self.chunk is not None

    def low(self, length: int) -> int:
        """The first position that a token sees which comes after `length` others."""
        low = 0 if self.window is None else max(0, length - self.window + 1)
        return low if self.chunk is None else max(low, length // self.chunk * self.chunk)

    def first_page(self, length: int, page_size: int) -> int:
        """The first page that a token needs which comes after `length` others; those before may go."""
        return self.low(length) // page_size

    def most_pages(self, page_size: int, step: int) -> int | None:
        """Pages that a row holds at most; None without bound. `step`: its tokens that are computed at once.

        Pages are given back when the one after them is full, so nearly a page more than the reach is held, and as
        much again since a reach may begin and end within pages.
        """
        reach = min((end for end in (self.window, self.chunk) if end is not None), default=None)
        return None if reach is None else -(-(reach + page_size + step) // page_size) + 1


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


def pages_of(tokens: int, page_size: int, bounds: Bounds) -> int:
    """Pages that a sequence of so many tokens holds at most; `bounds` are those of each group."""
    pages = -(-tokens // page_size)
    return sum(pages if bound is None else min(pages, bound) for bound in bounds)


def longest(pages: int, page_size: int, bounds: Bounds, most: int) -> int:
    """The most tokens, up to `most`, of a sequence that holds no more than so many pages."""
    low, high = 0, -(-most // page_size)
    while low < high:
        middle = (low + high + 1) // 2
        if pages_of(middle * page_size, page_size, bounds) <= pages:
            low = middle
        else:
            high = middle - 1
    return min(low * page_size, most)


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
