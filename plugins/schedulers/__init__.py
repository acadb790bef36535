"""Schedulers that come with maxserve."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.config import ConfigSection
from maxserve.interfaces.scheduler import Scheduler

BUDGETS = (
    "max_batch_total_tokens",
    "enable_chunked_prefill",
    "enable_in_flight_batching",
    "max_mixed_step_ms",
    "kvcache_ce_watermark",
)
TURNS = ("max_queue_size_tg", "min_batch_size_tg", "ce_delay_ms", "enable_prioritize_first_decode")


@hookimpl
def maxserve_schedulers() -> Iterable[Scheduler]:
    """Continuous batching, by arrival or by client, and turns by the number of those who decode."""
    yield Scheduler(
        name="continuous",
        build="maxserve.plugins.schedulers.continuous:Continuous",
        summary="a token for all that decode, and prompts in order of arrival beside them as far as time allows",
        honours=BUDGETS,
        priorities=True,
    )
    yield Scheduler(
        name="fair",
        build="maxserve.plugins.schedulers.fair:Fair",
        summary="as continuous, but the next prompt is of the client who was served least for its weight",
        honours=BUDGETS,
        priorities=True,
    )
    yield Scheduler(
        name="tts",
        build="maxserve.plugins.schedulers.tts:TakingTurns",
        summary="whole prompts until enough requests decode, then one token for each until fewer do",
        honours=("max_batch_total_tokens", *TURNS),
        max_started="maxserve.plugins.schedulers.tts:max_started",
        chunks_prompts=False,
        mixes_prompts=False,
        priorities=True,
    )


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    """Weights of clients, and how long a turn is."""
    yield ConfigSection(name="fair", schema="maxserve.plugins.schedulers.fair:Config")
    yield ConfigSection(name="tts", schema="maxserve.plugins.schedulers.tts:Config", within="scheduling")
