from __future__ import annotations

import importlib
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from prometheus_client.parser import text_string_to_metric_families

import maxserve.plugins.observers as declared
from maxserve.core.http.app import create_app
from maxserve.core.interfaces.cache import CacheSizes
from maxserve.core.interfaces.observer import (
    BATCH_SIZE_EDGES,
    ITERATION_TOKENS_EDGES,
    Distribution,
    ObserverContext,
    RequestStats,
    ResponseStats,
    StepStats,
)
from maxserve.plugins.observers.metrics import router
from maxserve.plugins.observers.prometheus import Prometheus


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def observer() -> Prometheus:
    return Prometheus(ObserverContext(model="tiny"))


def step(**changes: Any) -> StepStats:
    sizes = CacheSizes(total=100, free=60, cached=15, owned=25)
    values: dict[str, Any] = {"time": 1.0, "running": 2, "waiting": 5, "cache": sizes}
    return StepStats(**{**values, **changes})


def request(**changes: Any) -> RequestStats:
    values: dict[str, Any] = {
        "route": "/v1/completions",
        "status": 200,
        "prompt_tokens": 10,
        "generated_tokens": 3,
        "cached_tokens": 0,
        "finish": "stop",
        "queue_to_first_token": 0.03,
        "total": 0.5,
        "inter_token": (0.01, 0.02),
    }
    return RequestStats(**{**values, **changes})


def value(observer: Prometheus, name: str, **labels: str) -> float:
    wanted = {"model_name": "tiny", **labels}
    for family in text_string_to_metric_families(observer.text().decode()):
        for sample in family.samples:
            if sample.name == name and sample.labels == wanted:
                return float(sample.value)
    raise KeyError(name)


def test_gauges_follow_the_latest_step(observer: Prometheus) -> None:
    observer.on_step(step())
    observer.on_step(step(running=3))
    assert value(observer, "vllm:num_requests_running") == 3
    assert value(observer, "vllm:num_requests_waiting") == 5
    assert value(observer, "vllm:kv_cache_usage_perc") == 0.25
    assert value(observer, "maxserve_num_requests_running") == 3
    assert value(observer, "maxserve_num_requests_queued") == 5
    assert value(observer, "maxserve_cache_num_used_blocks") == 25
    assert value(observer, "maxserve_cache_num_total_blocks") == 100


def test_the_host_tier_is_counted_over_all_workers(observer: Prometheus) -> None:
    for hits in (7, 9, 2):  # the last is a new worker's
        sizes = CacheSizes(total=9, free=9, cached=0, owned=0, host_total=50, host_cached=20, host_hits=hits)
        observer.on_step(step(cache=sizes))
    assert value(observer, "maxserve_cache_host_num_used_blocks") == 20
    assert value(observer, "maxserve_cache_host_num_total_blocks") == 50
    assert value(observer, "maxserve_cache_host_hits_total") == 11


def test_drafts_that_stood_are_counted_by_position_over_all_workers(observer: Prometheus) -> None:
    observer.on_step(step(steps=5, drafts=4, draft_tokens=9, accepted_tokens=5, accepted_by_depth=(3, 2)))
    observer.on_step(step(steps=1, drafts=1, draft_tokens=3, accepted_tokens=3, accepted_by_depth=(1, 1, 1)))
    assert value(observer, "vllm:spec_decode_num_drafts_total") == 5
    assert value(observer, "vllm:spec_decode_num_draft_tokens_total") == 12
    assert value(observer, "vllm:spec_decode_num_accepted_tokens_total") == 8
    name = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
    assert [value(observer, name, position=str(depth)) for depth in range(3)] == [4, 3, 1]


def test_counters_survive_a_new_worker(observer: Prometheus) -> None:
    observer.on_step(step(prompt_tokens=10, generated_tokens=4, prefix_queries=10, prefix_hits=6, preemptions=1))
    observer.on_step(step(prompt_tokens=15, generated_tokens=9, prefix_queries=15, prefix_hits=6, preemptions=1))
    observer.on_step(step(prompt_tokens=2, generated_tokens=1, prefix_queries=2))
    assert value(observer, "vllm:prompt_tokens_total") == 17
    assert value(observer, "vllm:generation_tokens_total") == 10
    assert value(observer, "vllm:prefix_cache_queries_total") == 17
    assert value(observer, "vllm:prefix_cache_hits_total") == 6
    assert value(observer, "vllm:num_preemptions_total") == 1
    assert value(observer, "maxserve_cache_misses_total") == 11


def test_requests(observer: Prometheus) -> None:
    observer.on_request(request())
    observer.on_request(request(finish="length", max_tokens=3))
    observer.on_request(request(status=400, finish="error", queue_to_first_token=None))
    assert value(observer, "vllm:request_success_total", finished_reason="stop") == 1
    assert value(observer, "vllm:request_success_total", finished_reason="length") == 1
    for code, count in (("200", 2), ("400", 1)):
        assert value(observer, "maxserve_request_count_total", code=code, path="/v1/completions") == count
    for name, total in (
        ("vllm:time_to_first_token_seconds", 0.06),
        ("vllm:inter_token_latency_seconds", 0.06),
        ("vllm:e2e_request_latency_seconds", 1.0),
        ("vllm:request_prompt_tokens", 20),
        ("vllm:request_generation_tokens", 6),
        ("maxserve_time_to_first_token_seconds", 0.06),
        ("maxserve_itl_seconds", 0.06),
    ):
        assert math.isclose(value(observer, f"{name}_sum"), total)
    assert value(observer, "vllm:inter_token_latency_seconds_count") == 4
    assert value(observer, "vllm:request_params_max_tokens_count") == 1


def test_series_are_there_before_the_first_request(observer: Prometheus) -> None:
    assert value(observer, "vllm:num_requests_running") == 0
    assert value(observer, "vllm:generation_tokens_total") == 0
    assert value(observer, "vllm:request_success_total", finished_reason="stop") == 0


def test_two_servers_in_one_process_do_not_share() -> None:
    one, other = (Prometheus(ObserverContext(model="tiny")) for _ in range(2))
    one.on_step(step())
    assert value(other, "vllm:num_requests_running") == 0


def context(*observers: Any) -> Any:
    model = SimpleNamespace(name="tiny")
    return SimpleNamespace(model=model, observers=observers, owned=lambda made: made)


async def get(observed: Any) -> httpx.Response:
    app = create_app(observed, [("/", router(observed), "builtin.observers")])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return await client.get("/metrics")


@pytest.mark.anyio
async def test_route(observer: Prometheus) -> None:
    observer.on_step(step())
    response = await get(context(object(), observer))
    assert response.headers["content-type"].startswith("text/plain")
    assert 'vllm:num_requests_running{model_name="tiny"} 2.0' in response.text


@pytest.mark.anyio
async def test_without_the_observer_there_is_no_route() -> None:
    assert (await get(context())).status_code == 404


def test_declarations_can_be_loaded() -> None:
    for component in (*declared.maxserve_observers(), *declared.maxserve_routes()):
        assert isinstance(component.build, str)
        module, _, name = component.build.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_values_are_counted_up_to_each_edge(observer: Prometheus) -> None:
    observer.on_request(request(inter_token=(0.001, 0.0011, 0.0025, 9.0)))
    name = "vllm:inter_token_latency_seconds_bucket"
    for edge, count in (("0.001", 1), ("0.0025", 3), ("0.005", 3), ("5.0", 3), ("+Inf", 4)):
        assert value(observer, name, le=edge) == count
        assert value(observer, "maxserve_itl_seconds_bucket", le=edge) == count


@pytest.mark.parametrize("looked", [False, True])
def test_what_a_worker_last_said_counts_whether_it_was_scraped_or_not(observer: Prometheus, looked: bool) -> None:
    observer.on_step(step(steps=7, generated_tokens=9))
    if looked:
        observer.text()
    observer.on_step(step(steps=1, generated_tokens=2))
    assert value(observer, "vllm:generation_tokens_total") == 11
    assert value(observer, "vllm:generation_tokens_total") == 11


def test_distributions_of_steps_go_on_over_a_new_worker(observer: Prometheus) -> None:
    for tokens, sizes, steps in (((1, 2), 9, 3), ((2, 2), 10, 4), ((1, 0), 1, 1)):  # the last is a new worker's
        counts = (*tokens, *[0] * (len(ITERATION_TOKENS_EDGES) - 1))
        batches = (steps, *[0] * len(BATCH_SIZE_EDGES))
        stats = step(
            steps=steps,
            generated_tokens=sizes,
            iteration_tokens=Distribution(counts, sizes),
            batch_sizes=Distribution(batches, steps),
        )
        observer.on_step(stats)
        observer.text()
    assert value(observer, "vllm:iteration_tokens_total_sum") == 11
    assert value(observer, "vllm:iteration_tokens_total_bucket", le="1.0") == 3
    assert value(observer, "vllm:iteration_tokens_total_count") == 5
    assert value(observer, "maxserve_batch_size_sum") == 5


def test_phases_of_requests(observer: Prometheus) -> None:
    observer.on_request(request(queue=0.5, prefill=1.0, decode=2.0, preemptions=2))
    observer.on_request(request())  # of a route that generates nothing
    for name, seconds in (("queue", 0.5), ("prefill", 1.0), ("decode", 2.0), ("inference", 3.0)):
        assert value(observer, f"vllm:request_{name}_time_seconds_sum") == seconds
        assert value(observer, f"vllm:request_{name}_time_seconds_count") == 1
    assert value(observer, "vllm:request_time_per_output_token_seconds_sum") == 1.0
    assert value(observer, "vllm:request_num_preemptions_sum") == 2


def test_those_who_wait_for_a_grammar_wait_too(observer: Prometheus) -> None:
    observer.on_step(step(waiting=5, deferred=2))
    assert value(observer, "vllm:num_requests_waiting") == 7
    assert value(observer, "vllm:num_requests_waiting_by_reason", reason="capacity") == 5
    assert value(observer, "vllm:num_requests_waiting_by_reason", reason="deferred") == 2


def test_names_that_vllm_had_before(observer: Prometheus) -> None:
    observer.on_step(step())
    observer.on_request(request())
    assert value(observer, "vllm:gpu_cache_usage_perc") == value(observer, "vllm:kv_cache_usage_perc") == 0.25
    assert value(observer, "vllm:time_per_output_token_seconds_count") == 2


def test_answers_of_all_routes(observer: Prometheus) -> None:
    for status, route in ((200, "/plugins/acme/{name}"), (201, "/plugins/acme/{name}"), (404, "")):
        observer.on_response(
            ResponseStats(id="a", method="GET", route=route, status=status, total=0.02, finished=1000.0)
        )
    text = observer.text().decode()
    assert 'http_requests_total{handler="/plugins/acme/{name}",method="GET",status="2xx"} 2.0' in text
    assert 'http_requests_total{handler="none",method="GET",status="4xx"} 1.0' in text
    assert 'http_request_duration_seconds_count{handler="/plugins/acme/{name}",method="GET"} 2.0' in text


@pytest.mark.anyio
async def test_routes_of_strangers_are_metered_as_built_in_ones(observer: Prometheus) -> None:
    mine = APIRouter()
    mine.add_api_route("/words/{word}", lambda word: word, methods=["GET"])
    observed = context(observer)
    app = create_app(observed, [("/", router(observed), "builtin.observers"), ("", mine, "acme")])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for path in ("/plugins/acme/words/a", "/plugins/acme/words/b", "/metrics"):
            await client.get(path)
        text = (await client.get("/metrics")).text
    assert 'http_requests_total{handler="/plugins/acme/words/{word}",method="GET",status="2xx"} 2.0' in text
    assert 'http_requests_total{handler="/metrics",method="GET",status="2xx"} 1.0' in text


def test_each_replica_has_series_under_its_number(observer: Prometheus) -> None:
    second = step(steps=9, generated_tokens=7)
    observer.on_step(replace(second, replicas=(None, second)))
    again = step(steps=1, generated_tokens=2)  # of another worker
    observer.on_step(replace(again, replicas=(step(steps=1, generated_tokens=4), again)))
    tokens = [value(observer, "maxserve_replica_generated_tokens_total", replica=number) for number in ("0", "1")]
    assert tokens == [4.0, 9.0]
