"""The build of a model's cache and of its attention."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from maxserve.core.assembly.grouped_attention import GroupedAttention
from maxserve.core.interfaces.attention import AttentionContext
from maxserve.core.interfaces.cache import (
    CacheContext,
    CacheFactors,
    CacheFormat,
    CacheFormatContext,
    EvictionContext,
    EvictionPolicy,
    GroupedCache,
    PlainFormat,
)
from maxserve.core.interfaces.errors import PluginError, SettingsError, Unavailable
from maxserve.core.interfaces.quantization import HasCacheFactors
from maxserve.core.loading.quantization import quantization_of
from maxserve.core.loading.weight_files import open_weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from maxserve.core.assembly.target import Loaded, Target
    from maxserve.core.interfaces.attention import Attention, AttentionBackend
    from maxserve.core.interfaces.cache import BuiltCacheFormat, Cache, CacheLayer, NodeOrder
    from maxserve.core.interfaces.engine import ModelFiles

log = logging.getLogger("maxserve.engine")


def build_cache(target: Target, loaded: Loaded, rows: int) -> Cache:
    plan, shares = loaded.plan, target.strategy.component.shares_prefixes
    context = CacheContext(
        sections=target.sections,
        layers=loaded.layers,
        pages=plan.pages,
        page_size=plan.page_size,
        rows=rows,
        max_length=plan.max_length,
        dtype=loaded.format.dtype,
        device=target.device,
        format=loaded.format,
        share_prefixes=target.settings.kv_cache.enable_prefix_caching and shares,
        host_pages=plan.host_pages,
        soft_pages=plan.soft_pages,
        groups=loaded.groups,
        eviction_policies=_eviction_policies(target, loaded),
        replica=target.settings.server.replica,
    )
    cache: Cache = target.host.build(target.strategy, context)
    if loaded.groups and not isinstance(cache, GroupedCache):
        raise PluginError(
            f"{target.strategy} declares `groups`, but built a {type(cache).__name__} without tables for groups of "
            "layers; build a GroupedCache, or do not declare them"
        )
    _check_storage(target, loaded, cache)
    if target.group is not None and plan.host_pages:
        target.group.mirror(cache)
    if target.group is None or target.group.leads:  # other ranks store what the first decides
        target.host.cache_built(cache, context)
    return cache


def choose_cache_format(
    target: Target, layers: tuple[CacheLayer, ...], unset: Callable[[], torch.dtype]
) -> BuiltCacheFormat:
    """The format that the operator named, or numbers of the type that `unset` gives."""
    name = target.settings.kv_cache.kv_cache_format
    if name is None:
        return PlainFormat(unset())
    context = CacheFormatContext(sections=target.sections, layers=layers, device=target.device)
    try:
        format: BuiltCacheFormat = target.host.build(target.host.of(CacheFormat).get(name), context)
    except Unavailable as error:
        raise SettingsError(f"--kv-cache-format {name}: {error}; name another one, or leave the option out") from error
    return format


def cache_factors(
    target: Target, files: ModelFiles, own: Sequence[CacheLayer], layers: Sequence[CacheLayer]
) -> tuple[CacheFactors, ...]:
    """What the checkpoint has the keys and values of its `own` layers divided by, and 1 for others of `layers`.

    Nothing where it says nothing.
    """
    checkpoint = quantization_of(target.host, files.config, files.ref)
    found: Mapping[int, CacheFactors] = {}
    if checkpoint is not None and isinstance(checkpoint.format, HasCacheFactors):
        found = checkpoint.format.cache_factors(open_weights(target.host, files.weights, files.config), own)
    if not found:
        log.info("the checkpoint has no scales for keys and values: they are stored as they are")
        return ()
    log.info("the checkpoint has scales for keys and values of %d of %d layers", len(found), len(own))
    ones = [torch.ones(layer.kv_heads) for layer in layers]
    return tuple(found.get(index) or CacheFactors(one, one) for index, one in enumerate(ones))


def _check_storage(target: Target, loaded: Loaded, cache: Cache) -> None:
    """Raises SettingsError unless the strategy made what the format stores: it may know nothing of formats."""
    format = loaded.format
    for layer, made in zip(loaded.layers, cache.layers, strict=False):
        sizes = {"keys": layer.head_dim, "values": layer.value_size}
        for name, codes, scales in (("keys", made.keys, made.key_scales), ("values", made.values, made.value_scales)):
            width = sizes[name] if layer.values_in_keys else format.width(sizes[name])
            if (codes.dtype, codes.shape[-1]) == (format.dtype, width) and _type(scales) == format.scale_dtype:
                continue
            raise SettingsError(
                f"{target.strategy} stores {name} as [..., {codes.shape[-1]}] {codes.dtype} with scales of "
                f"{_type(scales)}, and --kv-cache-format {target.settings.kv_cache.kv_cache_format or 'unset'} as "
                f"[..., {width}] {format.dtype} with scales of {format.scale_dtype}: name another cache format, or "
                "another --cache-strategy"
            )


def _type(scales: torch.Tensor | None) -> torch.dtype | None:
    return None if scales is None else scales.dtype


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
        format=loaded.format,
        factors=tuple(loaded.factors[layer] for layer in layers) if loaded.factors else (),
    )

    def obstacle(backend: AttentionBackend) -> str | None:
        if backend.reads_formats or (isinstance(loaded.format, PlainFormat) and not loaded.factors):
            return None
        name = target.settings.kv_cache.kv_cache_format
        return f"it does not say that it reads formats (reads_formats), and --kv-cache-format {name} is one"

    attention: Attention | None = target.chooser.best(target.host.attention_backends, context, obstacle)
    if attention is None:
        raise PluginError(f"no attention backend works on the device {target.device.type!r}; see `max list`")
    return attention
