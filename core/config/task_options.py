"""Do the options go with what the model is for?"""

from __future__ import annotations

import logging

from maxserve.core.config.catalog import catalog
from maxserve.core.config.sections import Settings
from maxserve.core.interfaces.engine import EMBEDDINGS, SCORING, TEXT
from maxserve.core.interfaces.errors import SettingsError

log = logging.getLogger("maxserve.settings")

# What is about the cache, the next token, or text that is read while it is generated: an encoder has none of it.
_OF_TEXT = frozenset(
    {
        "model.chat_template",
        "model.special_tokens_in_content",
        "model.attention_backend",
        "kv_cache.cache_strategy",
        "kv_cache.kv_cache_page_size",
        "kv_cache.enable_prefix_caching",
        "kv_cache.enable_kvcache_swapping_to_host",
        "kv_cache.host_kvcache_swap_space_gb",
        "kv_cache.kv_cache_format",
        "scheduling.scheduler",
        "scheduling.max_batch_total_tokens",
        "scheduling.enable_chunked_prefill",
        "scheduling.enable_in_flight_batching",
        "scheduling.kvcache_ce_watermark",
        "scheduling.max_num_steps",
        "scheduling.max_queue_size_tg",
        "scheduling.min_batch_size_tg",
        "scheduling.ce_delay_ms",
        "scheduling.enable_prioritize_first_decode",
        "scheduling.enable_overlap_scheduler",
        "scheduling.execute_empty_batches",
        "sampling.enable_structured_output",
        "sampling.structured_output_backend",
        "sampling.enable_variable_logits",
        "sampling.enable_penalties",
        "sampling.enable_min_tokens",
        "sampling.enable_echo",
        "server.tool_parser",
        "server.reasoning_parser",
    }
)


def asked_task(settings: Settings) -> str | None:
    """The task that was chosen, None where the model is to be asked."""
    return settings.model.task if "model.task" in settings.chosen else None


def check_for_task(settings: Settings, task: str) -> None:
    """Says which chosen options mean nothing for `task`; SettingsError for one that would change what is answered."""
    if task != EMBEDDINGS and "model.pool_embeddings" in settings.chosen:
        what = "gives scores" if task == SCORING else "generates text"
        raise SettingsError(f"--pool-embeddings is for embedding models, and this one {what}; leave it out")
    if task == TEXT:
        return
    idle = [option.flag for option in catalog() if option.path in _OF_TEXT & settings.chosen]
    if idle:
        log.warning("the model encodes texts and generates none, so these options have no effect: %s", ", ".join(idle))
