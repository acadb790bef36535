"""Cache strategies: keys and values in pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from maxserve.core.interfaces.component import Component, Context

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from maxserve.core.interfaces.cache_groups import CacheGroup


__all__ = [
    "Cache",
    "CacheContext",
    "CacheLayer",
    "CacheSizes",
    "CacheStrategy",
    "EvictionPolicy",
    "GroupedCache",
    "KVLayer",
    "Node",
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
class CacheContext(Context):
    """Rows are numbered 0 … rows-1 and handed out by the engine. `dtype` and `device` are torch's.

    `layers`, `pages` and `page_size` give the storage to allocate; `max_length` bounds a row's tokens.
    `host_pages` are those of the second tier, for strategies that declare one. Memory is touched when a page is first
    handed out: prefixes nobody uses shall not make the cache touch more than `soft_pages`; open rows may have all, and
    some room beside them. `groups`, only for strategies that declare `windows`: groups of equal layers, a table each. A
    page is of one group at a time, and the n-th layers of all groups keep their parts of it in the same storage.
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


class Cache(Protocol):
    """Keeps keys and values in pages, and shares the pages of equal prefixes.

    The engine calls: open, then reserve → (model writes) → commit each step, then close. Tokens are int64 arrays.
    """

    tables: NDArray[np.int32]  # [rows, pages per row]; entries beyond what is reserved are undefined
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

    def close(self, row: int) -> None:
        """Gives the row's pages back; committed ones stay as cached prefixes until they are evicted."""
        ...

    def sizes(self) -> CacheSizes: ...

    def reset(self) -> int:
        """Forgets every prefix nobody uses; returns the pages freed."""
        ...

    def check(self) -> None:
        """Recounts everything; raises AssertionError naming what is wrong."""
        ...


class EvictionPolicy(Protocol):
    """Orders the pages nobody uses. The smallest key is freed first."""

    def key(self, node: Node) -> tuple[float, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLayer:
    """What one attention layer keeps of a token, and how it looks back.

    `window`: at most that many tokens, its own included; `chunk`: no further than the start of the token's own chunk of
    that many positions. Scores are multiplied by `scale` (None: head_dim ** -0.5); with a `softcap` they become
    softcap * tanh(score / softcap). `value_dim` is the size of a value's head where it is not `head_dim`;
    `values_in_keys`: a value is the first `value_dim` numbers of its key, and is not kept a second time. `sinks`: the
    layer brings some when it attends. `together`: tokens of a span that `Batch.together` names see all of it.
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
    together: bool = False
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
    `created` are readings of one counter.
    """

    page: int
    tokens: int
    last_used: int
    hits: int = 0
    created: int = 0


@runtime_checkable
class GroupedCache(Cache, Protocol):
    """A Cache for groups of layers. `tables` are those of the first group.

    A commit that fills a page gives back, group by group, the pages that no later token sees; what a table has in their
    place is undefined, but a page of the cache. A prefix is found when every group has what the token after it sees.
    """

    group_tables: NDArray[np.int32]  # [groups, rows, pages per row]
