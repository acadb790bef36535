"""The build of a model's cache and of its attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from maxserve.core.engine.grouped_attention import GroupedAttention
from maxserve.core.interfaces.attention import AttentionContext
from maxserve.core.interfaces.cache import CacheContext, EvictionContext, EvictionPolicy, GroupedCache
from maxserve.core.interfaces.errors import PluginError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from maxserve.core.engine.target import Loaded, Target
    from maxserve.core.interfaces.attention import Attention
    from maxserve.core.interfaces.cache import Cache, NodeOrder


def build_cache(target: Target, loaded: Loaded, rows: int) -> Cache:
    plan, shares = loaded.plan, target.strategy.component.shares_prefixes
    context = CacheContext(
        sections=target.sections,
        layers=loaded.layers,
        pages=plan.pages,
        page_size=plan.page_size,
        rows=rows,
        max_length=plan.max_length,
        dtype=target.cache_dtype,
        device=target.device,
        share_prefixes=target.settings.kv_cache.enable_prefix_caching and shares,
        host_pages=plan.host_pages,
        soft_pages=plan.soft_pages,
        groups=loaded.groups,
        eviction_policies=_eviction_policies(target, loaded),
    )
    cache: Cache = target.host.build(target.strategy, context)
    if loaded.groups and not isinstance(cache, GroupedCache):
        raise PluginError(
            f"{target.strategy} declares `groups`, but built a {type(cache).__name__} without tables for groups of "
            "layers; build a GroupedCache, or do not declare them"
        )
    return cache


def _eviction_policies(target: Target, loaded: Loaded) -> dict[str, Callable[[], NodeOrder]]:
    """What makes each registered order; one is made where it is chosen."""
    plan = loaded.plan
    context = EvictionContext(sections=target.sections, pages=plan.pages, page_size=plan.page_size)
    return {entry.name: partial(target.host.build, entry, context) for entry in target.host.of(EvictionPolicy)}


def group_block_tables(loaded: Loaded, cache: Cache) -> NDArray[np.int32] | None:
    """The tables of each group of layers, where there are several."""
    return cache.group_block_tables if len(loaded.groups) > 1 and isinstance(cache, GroupedCache) else None


def build_attention(target: Target, loaded: Loaded, cache: Cache) -> Attention:
    """The back end of highest priority that runs on the device; for several groups of layers, one for each."""
    layers = range(len(loaded.layers))
    if len(loaded.groups) < 2:
        return _attention_of(target, loaded, cache, layers)
    return GroupedAttention(
        [_attention_of(target, loaded, cache, group.layers) for group in loaded.groups], loaded.groups
    )


def _attention_of(target: Target, loaded: Loaded, cache: Cache, layers: Sequence[int]) -> Attention:
    context = AttentionContext(
        sections=target.sections,
        layers=tuple(loaded.layers[layer] for layer in layers),
        storage=[cache.layers[layer] for layer in layers],
        page_size=loaded.plan.page_size,
        device=target.device,
    )
    attention: Attention | None = target.chooser.best(target.host.attention_backends, context)
    if attention is None:
        raise PluginError(f"no attention backend works on the device {target.device.type!r}; see `max list`")
    return attention
