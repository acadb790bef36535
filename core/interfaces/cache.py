"""Cache strategies: keys and values in pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from maxserve.core.interfaces.component import Component, Context

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor


__all__ = [
    "Cache",
    "CacheContext",
    "CacheLayer",
    "CacheSizes",
    "CacheStrategy",
    "EvictionContext",
    "EvictionPolicy",
    "GroupedCache",
    "KVLayer",
    "Node",
    "NodeOrder",
    "Bounds",
    "CacheGroup",
    "MOST_GROUPS",
    "cache_groups",
    "longest",
    "pages_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStrategy(Component):
    """A keeper of keys and values. `build(CacheContext)` gives a Cache.

    `shares_prefixes`: rows that begin alike share pages; `host_tier`: it keeps copies of them in host memory if asked.
    `windows`: it gives back what the windows of `CacheContext.groups` have passed, and builds a GroupedCache.
    """

    kind: ClassVar[str] = "cache_strategy"

    shares_prefixes: bool = True
    host_tier: bool = False
    windows: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EvictionPolicy(Component):
    """An order in which cached prefixes go when pages run out. `build(EvictionContext)` gives a NodeOrder."""

    kind: ClassVar[str] = "eviction_policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvictionContext(Context):
    pages: int
    page_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheContext(Context):
    """Rows are numbered 0 … rows-1 and handed out by the engine. `dtype` and `device` are torch's.

    `layers`, `pages` and `page_size` give the storage to allocate; `max_length` bounds a row's tokens.
    `host_pages` are those of the second tier, for strategies that declare one. Memory is touched when a page is first
    handed out: unused prefixes shall not make the cache touch more than `soft_pages`; open rows may have all, and
    some room beside them. `groups`, only for strategies that declare `windows`: groups of equal layers, a table each. A
    page is of one group at a time, and the n-th layers of all groups keep their parts of it in the same storage.
    `eviction_policies` make an order each, by the names under which plugins declare them.
    """

    layers: tuple[CacheLayer, ...]
    pages: int
    page_size: int
    rows: int
    max_length: int
    dtype: torch.dtype
    device: torch.device
    share_prefixes: bool = True
    host_pages: int = 0
    soft_pages: int | None = None
    groups: tuple[CacheGroup, ...] = ()
    eviction_policies: Mapping[str, Callable[[], NodeOrder]] = field(default_factory=dict)


class Cache(Protocol):
    """Keeps keys and values in pages, and shares the pages of equal prefixes.

    The engine calls: open, then reserve → (model writes) → commit each step, with a truncate where drafts were
    rejected, then close. Tokens are int64 arrays. An optional method is found once: `tag(row, user, pinned)` follows
    `open` and says whose request the row is, and whether the request asks that its prefix be kept: what an eviction
    policy may look at.
    """

    block_tables: NDArray[np.int32]  # [rows, pages per row]; entries beyond what is reserved are undefined
    layers: Sequence[KVLayer]

    def peek(self, tokens: NDArray[np.int64], salt: str) -> int:
        """How many leading tokens `open` would find; claims nothing."""
        ...

    def open(self, row: int, tokens: NDArray[np.int64], salt: str) -> int:
        """Takes `row` into use and claims the longest cached prefix; always fewer than len(tokens)."""
        ...

    def reserve(self, row: int, length: int) -> bool:
        """Gives `row` pages for its first `length` tokens, evicting unused prefixes; False changes nothing."""
        ...

    def commit(self, row: int, tokens: NDArray[np.int64]) -> None:
        """Says that keys and values of `tokens`, all from the start, are written: full pages may be shared."""
        ...

    def truncate(self, row: int, length: int) -> None:
        """Takes back what was reserved behind the row's first `length` tokens, such as drafts that were rejected.

        Nothing that was committed is among it. Pages wholly behind them are given back; the row may grow again.
        """
        ...

    def close(self, row: int) -> None:
        """Gives the row's pages back; committed ones stay as cached prefixes until they are evicted."""
        ...

    def sizes(self) -> CacheSizes: ...

    def reset(self) -> int:
        """Forgets every unused prefix; returns the pages freed."""
        ...

    def check(self) -> None:
        """Recounts everything; raises AssertionError naming what is wrong."""
        ...


class NodeOrder(Protocol):
    """Orders the pages that no row uses. The smallest key is freed first."""

    def key(self, node: Node) -> tuple[float, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLayer:
    """What one attention layer keeps of a token, and how it looks back.

    `window`: at most that many tokens, its own included; `chunk`: no further than the start of the token's own chunk of
    that many positions. Scores are multiplied by `scale` (None: head_dim ** -0.5); with a `softcap` they become
    softcap * tanh(score / softcap). `value_dim` is the size of a value's head where it is not `head_dim`;
    `values_in_keys`: a value is the first `value_dim` numbers of its key, and is not kept a second time. `sinks`: the
    layer brings some when it attends. `bidirectional`: tokens of a span of `StepInputs.bidirectional` see all of it.
    `index_top`: a token sees so many of what it may, by its Index and the last `index_dim` numbers of their first keys.
    """

    kv_heads: int
    head_dim: int
    window: int | None = None
    chunk: int | None = None
    scale: float | None = None
    softcap: float | None = None
    sinks: bool = False
    value_dim: int | None = None
    values_in_keys: bool = False
    bidirectional: bool = False
    index_dim: int = 0
    index_top: int = 0

    @property
    def value_size(self) -> int:
        """Numbers of a value's head."""
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def score_scale(self) -> float:
        """What scores are multiplied by."""
        return float(self.head_dim**-0.5) if self.scale is None else self.scale

    @property
    def token_size(self) -> int:
        """Numbers that are kept of a token."""
        return self.kv_heads * (self.head_dim + (0 if self.values_in_keys else self.value_size))


@dataclass(frozen=True, slots=True)
class KVLayer:
    """Storage of one layer: keys and values, [pages, page_size, kv_heads] of head_dim and of value_size numbers.

    Both are contiguous, but for values that are part of their keys: those are a view of them. Flattened over the first
    two axes, row `page * page_size + offset` is a slot: one token's entry.
    """

    keys: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSizes:
    """Pages by state. free + cached + owned = total, always; shared pages in use count once, as owned.

    The host tier, where there is one: its pages, those that hold prefixes, and how many were read back so far.
    """

    total: int
    free: int
    cached: int
    owned: int
    host_total: int = 0
    host_cached: int = 0
    host_hits: int = 0

    @property
    def available(self) -> int:
        """Pages that can be had without preempting anyone."""
        return self.free + self.cached


@dataclass(slots=True)
class Node:
    """A page of a cached prefix, as an eviction policy sees it.

    `tokens` is how many tokens of prefix end with this page, `hits` how often it was matched; `last_used` and
    `created` are readings of one counter. It is shared under `salt` and was computed for `user`; it is `pinned` once a
    request that asks for that has used it.
    """

    page: int
    tokens: int
    last_used: int
    hits: int = 0
    created: int = 0
    salt: str = ""
    user: str = ""
    pinned: bool = False


@runtime_checkable
class GroupedCache(Cache, Protocol):
    """A Cache for groups of layers. `block_tables` are those of the first group.

    A commit that fills a page gives back, group by group, the pages that no later token sees; what a table has in their
    place is undefined, but a page of the cache. A prefix is found when every group has what the token after it sees.
    """

    group_block_tables: NDArray[np.int32]  # [groups, rows, pages per row]


# A layer with a window needs no page that lies wholly before it. Pages of layers that look back equally far are given
# back together, so these share a block table and others have their own. All pages are equal: groups
# have the same number of layers, and the n-th layer of each keeps its keys and values in the same storage.
#
#     layers   0 1 2 3 4 5 6 7 8 9 10 11     w: window, F: sees everything
#              w w w w w F w w w w w  F
#     groups   F: 5 11   w: 0 1   w: 2 3   w: 4 6   w: 7 8   w: 9 10    a page holds keys and values of two layers
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
