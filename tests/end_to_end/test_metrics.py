"""What /metrics of a live server says is what was asked of it, under the names that vLLM's dashboards read."""

from __future__ import annotations

from typing import Any

import httpx
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

PROMPT = "the quick brown fox"
REQUESTS, TOKENS = 4, 10

HISTOGRAMS = (
    "request_prompt_tokens",
    "request_generation_tokens",
    "request_params_n",
    "request_params_max_tokens",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_inference_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_time_per_output_token_seconds",
    "request_num_preemptions",
    "iteration_tokens_total",
)
OTHERS = (
    "num_requests_running",
    "num_requests_waiting",
    "num_requests_waiting_by_reason",
    "kv_cache_usage_perc",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
    "num_preemptions_total",
    "prompt_tokens_total",
    "generation_tokens_total",
    "cache_config_info",
    "request_success_total",
    "mm_cache_queries_total",
    "mm_cache_hits_total",
)


def samples(server: Any) -> dict[str, float]:
    """Every sample by its name, those of several labels added up."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(httpx.get(server.url + "/metrics").text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def test_counts_are_those_of_the_requests(server: Any) -> None:
    client = OpenAI(base_url=server.url + "/v1", api_key="none")
    ids = httpx.post(server.url + "/tokenize", json={"prompt": PROMPT}).json()["tokens"]

    def ask() -> None:
        client.completions.create(
            model="tiny", prompt=ids, max_tokens=TOKENS, temperature=0, extra_body={"ignore_eos": True}
        )

    ask()  # what the prefix cache finds of the prompt is the same for all that follow
    before = samples(server)
    for _ in range(REQUESTS):
        ask()
    grown = {name: value - before.get(name, 0.0) for name, value in samples(server).items()}
    hits = grown["vllm:prefix_cache_hits_total"]
    computed = REQUESTS * (len(ids) + TOKENS) - hits
    assert grown["vllm:prompt_tokens_total"] == grown["vllm:request_prompt_tokens_sum"] == REQUESTS * len(ids)
    assert grown["vllm:generation_tokens_total"] == grown["vllm:request_generation_tokens_sum"] == REQUESTS * TOKENS
    assert (grown["vllm:iteration_tokens_total_sum"], grown["vllm:iteration_tokens_total_count"]) == (
        computed,
        REQUESTS * TOKENS,
    )
    assert (grown["maxserve_batch_size_sum"], grown["maxserve_batch_size_count"]) == (REQUESTS * TOKENS,) * 2
    assert grown["vllm:request_success_total"] == REQUESTS
    assert grown["vllm:inter_token_latency_seconds_count"] == REQUESTS * (TOKENS - 1)
    for name in HISTOGRAMS[4:13]:
        if name != "inter_token_latency_seconds":
            assert grown[f"vllm:{name}_count"] == REQUESTS, name
    phases = ("queue", "prefill", "decode")
    queue, prefill, decode = (grown[f"vllm:request_{phase}_time_seconds_sum"] for phase in phases)
    assert prefill > 0
    assert decode > 0
    assert abs(grown["vllm:request_inference_time_seconds_sum"] - prefill - decode) < 1e-6
    assert queue + prefill + decode <= grown["vllm:e2e_request_latency_seconds_sum"]


def test_every_name_of_vllm_is_there(server: Any) -> None:
    client = OpenAI(base_url=server.url + "/v1", api_key="none")
    client.completions.create(model="tiny", prompt=PROMPT, max_tokens=3)
    there = samples(server).keys()
    wanted = [f"vllm:{name}_{part}" for name in HISTOGRAMS for part in ("sum", "bucket", "count")]
    assert not {*wanted, *(f"vllm:{name}" for name in OTHERS)} - there


def test_the_sizes_of_the_cache_are_labels(server: Any) -> None:
    client = OpenAI(base_url=server.url + "/v1", api_key="none")
    client.completions.create(model="tiny", prompt=PROMPT, max_tokens=3)
    families = text_string_to_metric_families(httpx.get(server.url + "/metrics").text)
    [sample] = [sample for family in families for sample in family.samples if sample.name == "vllm:cache_config_info"]
    labels = sample.labels
    assert int(labels["kv_cache_size_tokens"]) == int(labels["block_size"]) * int(labels["num_gpu_blocks"]) > 0
    assert float(labels["kv_cache_max_concurrency"]) > 0
