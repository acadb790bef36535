"""The choice of a cache strategy, and of the groups of layers with block tables of their own."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from maxserve.core.interfaces.cache import CacheGroup
from maxserve.core.interfaces.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maxserve.core.config import Settings
    from maxserve.core.interfaces.cache import CacheLayer, CacheStrategy
    from maxserve.core.registry.entries import Entry
    from maxserve.core.registry.protocol import Host

log = logging.getLogger("maxserve.engine")


def choose_strategy(settings: Settings, host: Host, architecture: str) -> Entry[CacheStrategy]:
    """The strategy that was named, else the architecture's; SettingsError when it lacks what an option asks for."""
    name = settings.kv_cache.cache_strategy
    if name == "model_default":
        name = host.architectures.get(architecture).component.cache_strategy
    entry = host.cache_strategies.get(name)
    strategy = entry.component
    if settings.kv_cache.enable_kvcache_swapping_to_host and not (strategy.host_tier and strategy.shares_prefixes):
        able = [e.name for e in host.cache_strategies if e.component.host_tier and e.component.shares_prefixes]
        raise SettingsError(
            f"--enable-kvcache-swapping-to-host: {entry} keeps no copies in host memory; drop the option, or take a "
            f"--cache-strategy that does: {', '.join(able) or 'there is none'}"
        )
    asked = settings.kv_cache.enable_prefix_caching and "kv_cache.enable_prefix_caching" in settings.chosen
    if asked and not strategy.shares_prefixes:
        raise SettingsError(
            f"--enable-prefix-caching: {entry} shares no prefixes; drop the option or take another --cache-strategy"
        )
    return entry


def choose_groups(
    settings: Settings, host: Host, entry: Entry[CacheStrategy], layers: Sequence[CacheLayer], max_length: int
) -> tuple[CacheGroup, ...]:
    """The groups of layers whose pages are given back when windows have passed them; none without any.

    `max_length` is the model's.
    """
    if entry.component.groups is None:
        return ()
    find = host.load(entry, entry.component.groups)
    groups: tuple[CacheGroup, ...] = find(layers, settings.model.max_length or max_length)
    if groups and settings.kv_cache.enable_kvcache_swapping_to_host:
        log.warning(
            "--enable-kvcache-swapping-to-host: the host tier copies whole prefixes, so pages that the model's windows "
            "have passed are kept until their request ends; drop the option to have their room for others"
        )
        return ()
    return groups
