"""Which cache strategy keeps the keys and values, and can it do what was chosen?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve.core.errors import SettingsError

if TYPE_CHECKING:
    from maxserve.core.components import CacheStrategy
    from maxserve.core.host import Host
    from maxserve.core.registry import Entry
    from maxserve.core.settings import Settings


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
