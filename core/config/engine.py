"""How the model is run: cache, batches, sampling."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from maxserve.core.config.enums import CacheFormat, CacheStrategyName
from maxserve.core.config.section import Section
from maxserve.core.interfaces.config import Option


class KVCacheSettings(Section):
    """Where keys and values are kept."""

    title: ClassVar[str] = "KV cache"

    cache_strategy: Annotated[
        CacheStrategyName,
        Field(description="Keeper of keys and values: model_default, paged, or a name that a plugin registers."),
    ] = "model_default"
    kv_cache_page_size: Annotated[
        int | None,
        Field(
            description="Tokens per page, a multiple of 16; unset, 64 on a CPU and 128 on a GPU. Only full pages are "
            "shared, so small ones share more and waste less; a GPU's kernels want fewer.",
            ge=16,
            multiple_of=16,
        ),
    ] = None
    enable_prefix_caching: Annotated[
        bool, Field(description="Keep pages of past requests and share them with requests that begin alike.")
    ] = True
    enable_kvcache_swapping_to_host: Annotated[
        bool,
        Field(
            description="Copy every full page to host memory as well, and read it back when the device forgot it. "
            "Needs prefix caching."
        ),
    ] = False
    host_kvcache_swap_space_gb: Annotated[
        float,
        Field(
            description="Host memory for those copies, in GiB per replica; unset, half of what is free where the "
            "default does not fit.",
            gt=0,
        ),
    ] = 50.0
    device_memory_utilization: Annotated[
        float,
        Field(
            description="Share of the device's free memory that weights and cache may take together. Unset on a CPU, "
            "the cache takes 4 GiB at most, and prefixes that no request uses keep little of it: a third of the size "
            "of the weights, or 192 MiB where that is more.",
            gt=0,
            le=1,
        ),
    ] = 0.9
    kv_cache_format: Annotated[
        CacheFormat | None,
        Field(
            description="Type in which keys and values are kept; unset, the model's own. float8_e4m3fn takes a byte "
            "per value and holds magnitudes up to 448."
        ),
    ] = None


class SchedulingSettings(Section):
    """Who runs when, and how much at once."""

    title: ClassVar[str] = "Scheduling"

    scheduler: Annotated[
        str, Option(metavar="NAME"), Field(description="Policy that decides who runs in a step.", min_length=1)
    ] = "continuous"
    max_batch_size: Annotated[
        int | None,
        Field(description="Most requests that run at once in a replica; unset, planned from memory and limits.", ge=1),
    ] = None
    max_batch_input_tokens: Annotated[
        int, Field(description="Most new tokens in one step; longer prompts are run in pieces.", ge=1)
    ] = 8192
    max_batch_total_tokens: Annotated[
        int | None,
        Option(policy=True),
        Field(description="Most tokens, cached ones included, in a step that runs a prompt; unset, no limit.", ge=1),
    ] = None
    enable_chunked_prefill: Annotated[
        bool,
        Option(policy=True),
        Field(description="Cut a prompt where the step is full and run the rest in the next one."),
    ] = True
    enable_in_flight_batching: Annotated[
        bool, Option(policy=True), Field(description="Run prompts and answers in one step instead of in turns.")
    ] = False
    kvcache_ce_watermark: Annotated[
        float,
        Option(policy=True),
        Field(description="Begin no prompt that would fill more than this share of the cache.", ge=0, le=1),
    ] = 0.95
    max_num_steps: Annotated[
        int,
        Field(
            description="Most tokens per request between two looks at the queue, which then come in one piece; -1 for "
            "the best value, which is 1 on every device.",
            ge=-1,
        ),
    ] = -1
    max_queue_size: Annotated[
        int | None,
        Option(server=True),
        Field(description="Most requests that may wait; one more is answered 429. Unset, no limit.", ge=1),
    ] = None
    enable_overlap_scheduler: Annotated[
        bool,
        Field(
            description="Plan and launch the next step before this one's tokens are known. Made for GPUs; on a CPU "
            "the model runs in a thread beside the planning. Not with several --max-num-steps."
        ),
    ] = False
    execute_empty_batches: Annotated[
        bool,
        Field(
            description="Run steps without requests, some 100 a second while idle, for models whose devices wait for "
            "each other. The architecture must support it."
        ),
    ] = False


class SamplingSettings(Section):
    """What requests may ask of the sampler; switched off, a request that asks is refused."""

    title: ClassVar[str] = "Sampling"

    enable_structured_output: Annotated[
        bool, Field(description="Let requests constrain the answer to a JSON schema, expression, choice or grammar.")
    ] = True
    structured_output_backend: Annotated[
        str,
        Option(metavar="NAME"),
        Field(
            description="Who keeps texts within grammars: llguidance, outlines, or a name that a plugin registers; "
            "auto takes, per request, the first that can and starts at once.",
            min_length=1,
        ),
    ] = "auto"
    enable_variable_logits: Annotated[
        bool,
        Field(description="Let requests have the logprobs of their prompt, which takes logits of all its positions."),
    ] = True
    enable_echo: Annotated[bool, Field(description="Let requests have the prompt, and its logprobs, repeated.")] = True
