"""Options against the task of the model."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from maxserve.core.config.catalog import OptionSpec, catalog
from maxserve.core.config.sections import PluginSection, Settings
from maxserve.core.interfaces.engine import EMBEDDINGS, SCORING, TEXT
from maxserve.core.interfaces.errors import SettingsError

log = logging.getLogger("maxserve.settings")

# What is about the cache, the next token, or text that is read while it is generated: an encoder has none of it.
_OF_TEXT = frozenset(
    {
        "model.chat_template",
        "model.special_tokens_in_content",
        "model.attention_backend",
        "model.model_runner",
        "kv_cache.cache_strategy",
        "kv_cache.kv_cache_page_size",
        "kv_cache.enable_prefix_caching",
        "kv_cache.enable_kvcache_swapping_to_host",
        "kv_cache.host_kvcache_swap_space_gb",
        "kv_cache.kv_cache_format",
        "scheduling.scheduler",
        "scheduling.max_num_steps",
        "scheduling.enable_overlap_scheduler",
        "scheduling.execute_empty_batches",
        "server.tool_parser",
        "server.reasoning_parser",
    }
)


def asked_task(settings: Settings) -> str | None:
    """The task that was chosen, None where the model is to be asked."""
    return settings.model.task if "model.task" in settings.chosen else None


def check_for_task(settings: Settings, task: str, sections: Sequence[PluginSection] = ()) -> None:
    """Says which chosen options mean nothing for `task`; SettingsError for one that would change what is answered.

    `sections` are the settings of plugins.
    """
    if task != EMBEDDINGS and "model.pool_embeddings" in settings.chosen:
        what = "gives scores" if task == SCORING else "generates text"
        raise SettingsError(f"--pool-embeddings is for embedding models, and this one {what}; leave it out")
    if task == TEXT:
        return
    idle = [option.flag for option in catalog(sections) if option.path in settings.chosen and _of_text(option)]
    if idle:
        log.warning("the model encodes texts and generates none, so these options have no effect: %s", ", ".join(idle))


def _of_text(option: OptionSpec) -> bool:
    """Whether only generation acts on it, as on all that schedulers and samplers are told, from any plugin."""
    return option.path in _OF_TEXT or option.marker.policy or option.page == "sampling"
