"""Cache strategies, and cache formats: keys and values in pages, and in which form."""

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

    from maxserve.core.interfaces.component import Ref


__all__ = ["Bounds", "BuiltCacheFormat", "Cache", "CacheContext", "CacheFactors", "CacheFormat"]
__all__ += ["CacheFormatContext", "CacheGroup", "CacheLayer", "CacheListener", "CacheSizes", "CacheStrategy"]
__all__ += ["EvictionContext", "EvictionPolicy", "GroupedCache", "KVLayer", "Node", "NodeOrder", "pages_of"]
__all__ += ["PlainFormat", "PrefixHold", "SupportsHolds", "SupportsListeners", "token_bytes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStrategy(Component):
    """A cache of keys and values. `build(CacheContext)` gives a Cache.

    `shares_prefixes`: rows that begin alike share pages; `host_tier`: it keeps copies of them in host memory if asked.
    `groups(layers, max_length)` gives the groups of layers, as CacheGroup, whose pages are given back when windows have
    passed them; none where no page can be. For groups it builds a GroupedCache. Without it, all pages are kept.
    `memory(MemoryContext)` gives the PlannedMemory: how much of the device is for what.
    """

    kind: ClassVar[str] = "cache_strategy"

    shares_prefixes: bool = True
    host_tier: bool = False
    groups: Ref | None = None
    memory: Ref = "maxserve.memory:plan_cache"


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

    Storage is as the `format` says, whose `dtype` it is; without one, keys and values are numbers of that type.

    `layers`, `pages` and `page_size` give the storage to allocate; `max_length` bounds a row's tokens.
    `host_pages` are those of the second tier, for strategies that declare one. Memory is touched when a page is first
    handed out: unused prefixes shall not make the cache touch more than `soft_pages`; open rows may have all, and
    some room beside them. `groups`, what the strategy's own gave: groups of equal layers, a table each. A
    page is of one group at a time, and the n-th layers of all groups keep their parts of it in the same storage.
    `eviction_policies` make an order each, by the names under which plugins declare them. Of several replicas of the
    model, this is number `replica`, from 0.
    """

    layers: tuple[CacheLayer, ...]
    pages: int
    page_size: int
    rows: int
    max_length: int
    dtype: torch.dtype
    device: torch.device
    format: BuiltCacheFormat | None = None
    share_prefixes: bool = True
    host_pages: int = 0
    soft_pages: int | None = None
    groups: tuple[CacheGroup, ...] = ()
    eviction_policies: Mapping[str, Callable[[], NodeOrder]] = field(default_factory=dict)
    replica: int = 0


class Cache(Protocol):
    """Keeps keys and values in pages, and shares the pages of equal prefixes.

    The engine calls: open, then reserve → (model writes) → commit each step, with a truncate where drafts were
    rejected, then close. Tokens are int64 arrays. Three methods are optional. `tag(row, user, pinned)` follows
    `open` and says whose request the row is, and whether the request asks that its prefix be kept: what an eviction
    policy may look at. `pending(tokens, salt, found)` gives how many leading tokens `open` would find, of which `found`
    are there, once rows that are open now have committed theirs: a request may wait for them. `give_back()`, called
    while nothing runs, gives the memory of free pages back to the system; they read as zeros afterwards.
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

    def truncate(self, row: int, length: int) -> None:
        """Takes back what was reserved behind the row's first `length` tokens, such as drafts that were rejected.

        Nothing that was committed is among it. Pages wholly behind them are given back; the row may grow again.
        """

    def close(self, row: int) -> None:
        """Gives the row's pages back; committed ones stay as cached prefixes until they are evicted."""

    def sizes(self) -> CacheSizes: ...

    def reset(self) -> int:
        """Forgets every unused prefix; returns the pages freed."""
        ...

    def check(self) -> None:
        """Recounts everything; raises AssertionError naming what is wrong."""


class CacheListener(Protocol):
    """Hears which pages of prefixes a cache gains and loses, in the engine's thread: must return at once.

    `page` is a number of 64 bits for the page and all before it, under its salt, equal in all caches of the strategy;
    `parent` is that of the page before it, None for the first one. `tokens` are the page's, int64 as bytes. `tier` is
    "device" or "host". `group` is that of the layers whose part of the page it is, one for all that look back equally
    far; None where a page is of all layers. Every page that is removed was stored, and is stored again before it is
    removed again. After `cleared` there are none.
    """

    def stored(
        self, tier: str, page: int, parent: int | None, tokens: bytes, salt: str, group: CacheGroup | None
    ) -> None: ...
    def removed(self, tier: str, page: int, salt: str, group: CacheGroup | None) -> None: ...
    def cleared(self) -> None: ...


@runtime_checkable
class SupportsListeners(Protocol):
    """A Cache that tells which prefixes it has."""

    def listen(self, listener: CacheListener) -> None:
        """Tells `listener` of all that is stored and removed from now on; nothing is stored yet."""


class PrefixHold(Protocol):
    """A cached prefix of some tokens, which is not evicted before `release`; in whole pages.

    Keys and values are bytes: for a range of tokens, each tensor of each layer in order, of each the tokens in order.
    All is called in the engine's thread between steps, and holds of no rows.
    """

    @property
    def length(self) -> int: ...
    def extend(self) -> int:
        """Also holds what the cache has of the tokens by now; returns how many of them are held."""
        ...

    def read(self, start: int, stop: int) -> bytes:
        """Keys and values of held tokens."""
        ...

    def write(self, start: int, data: bytes) -> bool:
        """Puts whole pages of tokens, from no later than `length`, into the cache, and holds them.

        False changes nothing: there are no pages that could be had.
        """
        ...

    def release(self) -> None:
        """Ends it; harmless when done before. The pages are ordinary cached prefixes again."""


@runtime_checkable
class SupportsHolds(Cache, Protocol):
    """A Cache whose prefixes can be kept for others, read, and written. `token_bytes`: of keys and values of a token.

    `layout` says in words what the bytes are; caches with the same layout understand each other's, whatever their
    `page_size`.
    """

    page_size: int
    token_bytes: int
    layout: str

    def hold(self, tokens: NDArray[np.int64], salt: str) -> PrefixHold: ...


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
    two axes, row `page * page_size + offset` is a slot: one token's entry. In a CacheFormat the last axis is that of
    codes, and one with scales has these beside them, [pages, page_size, kv_heads], contiguous.
    """

    keys: Tensor
    values: Tensor
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The tensors that there are."""
        found = (self.keys, self.values, self.key_scales, self.value_scales)
        return tuple(part for part in found if part is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSizes:
    """Pages by state. free + cached + owned = total, always; shared pages in use count once, as owned.

    The host tier, where there is one: its pages, those that hold prefixes, and how many were read back so far.
    Of the owned ones, `held` are kept by a PrefixHold, rows or no rows.
    """

    total: int
    free: int
    cached: int
    owned: int
    host_total: int = 0
    host_cached: int = 0
    host_hits: int = 0
    held: int = 0

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

    A commit that fills a page gives back, group by group, the pages that no later token sees; what a table has
    there is undefined, but a page of the cache. A prefix is found when every group has what the token after it sees.
    """

    group_block_tables: NDArray[np.int32]  # [groups, rows, pages per row]


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


def pages_of(tokens: int, page_size: int, bounds: Bounds) -> int:
    """Pages that a sequence of so many tokens holds at most; `bounds` are those of each group."""
    pages = -(-tokens // page_size)
    return sum(pages if bound is None else min(pages, bound) for bound in bounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFormat(Component):
    """A form in which keys and values are stored. `build(CacheFormatContext)` gives a BuiltCacheFormat.

    It serves where `--kv-cache-format` names it. A build raises Unavailable for layers that cannot be stored so.
    """

    kind: ClassVar[str] = "cache_format"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFormatContext(Context):
    """`layers` are all those that the cache has, a drafter's among them."""

    layers: tuple[CacheLayer, ...]
    device: torch.device


class BuiltCacheFormat(Protocol):
    """How a head, the key or the value of one token, is stored: as codes, and perhaps a scale beside them.

    `dtype` is the type of codes, and `scale_dtype` that of scales, None where there are none. A format that is
    `factored` is to store keys and values divided by the CacheFactors of a checkpoint.
    """

    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def scale_dtype(self) -> torch.dtype | None: ...
    @property
    def factored(self) -> bool: ...
    def width(self, size: int) -> int:
        """How many codes a head of `size` numbers has."""
        ...

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Codes [..., width] and scales [...] of heads [..., size]."""
        ...

    def decode(self, codes: Tensor, scales: Tensor | None) -> Tensor:
        """The heads [..., size] in float32."""
        ...


@dataclass(frozen=True, slots=True)
class CacheFactors:
    """What a layer's keys and values are divided by before they are stored, a float32 for each key head."""

    keys: Tensor  # [kv_heads]
    values: Tensor  # [kv_heads]


class PlainFormat:
    """A BuiltCacheFormat of numbers as they are, in a floating type; what it cannot hold becomes the nearest it can."""

    scale_dtype: torch.dtype | None = None

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.factored = dtype.itemsize == 1

    def width(self, size: int) -> int:
        return size

    def encode(self, x: Tensor) -> tuple[Tensor, None]:
        if self.factored:
            import torch

            largest = torch.finfo(self.dtype).max
            x = x.clamp(-largest, largest)  # the cast alone gives NaN in some releases of torch
        return x.to(self.dtype), None

    def decode(self, codes: Tensor, scales: Tensor | None) -> Tensor:
        return codes.float()


def token_bytes(layer: CacheLayer, format: BuiltCacheFormat) -> int:
    """Bytes that a layer stores of a token."""
    heads = (layer.head_dim,) if layer.values_in_keys else (layer.head_dim, layer.value_size)
    scale = 0 if format.scale_dtype is None else format.scale_dtype.itemsize
    return layer.kv_heads * sum(format.width(size) * format.dtype.itemsize + scale for size in heads)
