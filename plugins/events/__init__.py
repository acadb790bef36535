"""Events of the prefix cache for routers outside, in the words of vLLM; off unless they are asked for."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.cache import Cache, CacheContext
from maxserve.interfaces.config import ConfigSection


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    yield ConfigSection(
        name="kv-events",
        schema="maxserve.plugins.events.options:KVEventSettings",
        check="maxserve.plugins.events.options:check",
    )


@hookimpl
def maxserve_cache_built(cache: Cache, context: CacheContext) -> None:
    """Starts to publish what the cache gains and loses."""
    from maxserve.plugins.events.publishing import publish  # ZMQ is of no use to who publishes nothing

    publish(cache, context)
