"""The options of the KV cache, by what they do to a whole engine with a small model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from maxserve import CacheStrategy, hookimpl
from maxserve.core.assembly.assemble import build_engine
from maxserve.core.config import resolve
from maxserve.core.config.checks import validate_supported
from maxserve.core.engine.loop import Engine
from maxserve.core.interfaces.errors import ModelError, PluginError, SettingsError
from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.resolve import resolve_model
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.core.registry.protocol import Host

Build = Callable[..., Engine]
SMALL: dict[str, Any] = {"max_length": 128, "max_batch_size": 2, "kv_cache_page_size": 16}  # 16 pages in all
HOST: dict[str, Any] = {"enable_kvcache_swapping_to_host": True, "host_kvcache_swap_space_gb": 0.05}


@pytest.fixture
def build(model_folder: Callable[..., Path]) -> Build:
    def build(*, host: Host | None = None, **options: Any) -> Engine:
        host = host or PluginHost.discover(PluginOptions(), strict=True)
        typed = {"model_path": str(model_folder()), **options}
        settings = resolve(typed, environ={}, sections=host.plugin_sections())
        validate_supported(settings)
        files = resolve_model(settings.model, host, progress=NullProgress())
        return build_engine(settings, host, files, progress=NullProgress())

    return build


def prompt(seed: int, length: int = 100) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(3, 380, length).tolist())


def run(engine: Engine, *prompts: tuple[int, ...], tokens: int = 12, salt: str = "") -> list[tuple[list[int], int]]:
    """Greedy answers of requests that run together, and how much of each prompt was found."""
    params = SamplingParams(max_tokens=tokens, ignore_eos=True, fields={"temperature": {"temperature": 0.0}})
    answers: dict[str, tuple[list[int], int]] = {}
    for number, each in enumerate(prompts):
        engine.add(Request(id=str(number), prompt=each, params=params, salt=salt))
        answers[str(number)] = ([], 0)
    while engine.busy:
        for output in engine.step():
            assert output.error is None
            answers[output.id][0].extend(output.tokens)
            answers[output.id] = (answers[output.id][0], output.cached)
        engine.check()
    return list(answers.values())


# --- page size ------------------------------------------------------------------------------------------------


def test_the_text_does_not_depend_on_the_page_size(build: Build) -> None:
    texts: dict[int, list[list[int]]] = {}
    prompts = [prompt(0), prompt(0)[:70] + prompt(1, 30), prompt(2, 47), prompt(3, 16), prompt(4, 81)]
    for size in (16, 48, 64, 80):
        engine = build(kv_cache_page_size=size, max_length=160, max_batch_size=8, max_batch_input_tokens=64)
        texts[size] = [text for text, _ in run(engine, *prompts)]
        again = run(engine, *prompts)
        assert [text for text, _ in again] == texts[size]
        assert [found for _, found in again] == [(len(each) - 1) // size * size for each in prompts]
        assert engine._limits.page_size == size
    assert all(found == texts[64] for found in texts.values())


@pytest.mark.parametrize("size", [0, 8, 24, 100])
def test_other_page_sizes_are_refused(size: int) -> None:
    with pytest.raises(SettingsError, match="multiple of 16"):
        resolve({"kv_cache_page_size": size}, environ={})


# --- prefix caching -------------------------------------------------------------------------------------------


def test_without_prefix_caching_nothing_is_found_and_the_text_is_the_same(build: Build) -> None:
    shared, alone = build(**SMALL), build(**SMALL, enable_prefix_caching=False)
    first = [run(engine, prompt(0)) for engine in (shared, alone)]
    second = [run(engine, prompt(0)) for engine in (shared, alone)]
    assert [found for ((_, found),) in (*first, *second)] == [0, 0, 96, 0]
    assert len({tuple(text) for ((text, _),) in (*first, *second)}) == 1


# --- the host tier --------------------------------------------------------------------------------------------


def test_prefixes_the_device_forgot_come_from_the_host_and_the_text_is_the_same(build: Build) -> None:
    plain, tiered = build(**SMALL), build(**SMALL, **HOST)
    prompts = [prompt(seed) for seed in range(5)]  # 8 pages each with its answer, 16 in all
    for round in range(3):
        for each in prompts:
            ((expected, lost),) = run(plain, each)
            ((text, found),) = run(tiered, each)
            assert text == expected
            assert (lost, found) == (0, 96 if round else 0)
    sizes = tiered.stats().cache
    assert sizes.host_hits >= 2 * 5 * 6
    assert tiered.stats().prefix_hits == 2 * 5 * 96
    assert 0 < sizes.host_cached <= sizes.host_total


def test_two_at_once_under_pressure_give_the_same_text(build: Build) -> None:
    plain, tiered = build(**SMALL), build(**SMALL, **HOST)
    for first, second in ((0, 1), (2, 3), (0, 2), (1, 3), (0, 1)):
        expected, found = (run(engine, prompt(first), prompt(second)) for engine in (plain, tiered))
        assert [text for text, _ in found] == [text for text, _ in expected]
    assert tiered.stats().cache.host_hits > 0


def test_salts_and_resets_hold_for_the_host_too(build: Build) -> None:
    engine = build(**SMALL, **HOST)
    run(engine, prompt(0), salt="one")
    run(engine, prompt(1))
    run(engine, prompt(2))
    assert [found for ((_, found),) in (run(engine, prompt(0), salt=salt) for salt in ("two", "", "one"))] == [0, 0, 96]
    engine.reset_prefix_cache()
    assert engine.stats().cache.host_cached == engine.stats().cache.cached == 0
    assert run(engine, prompt(0), salt="one")[0][1] == 0


def test_the_host_tier_has_the_pages_that_fit(build: Build) -> None:
    page_bytes = 2 * 2 * 2 * 16 * 16 * 4  # keys and values, layers, heads, their size, tokens, float32
    engine = build(**SMALL, **HOST | {"host_kvcache_swap_space_gb": 0.001})
    assert engine.stats().cache.host_total == int(0.001 * 2**30) // page_bytes
    assert build(**SMALL).stats().cache.host_total == 0


def test_less_than_a_page_is_refused_with_numbers(build: Build) -> None:
    with pytest.raises(ModelError, match=r"5\.2 KiB for the host tier is less than one page of 8\.0 KiB; give --host"):
        build(**SMALL, **HOST | {"host_kvcache_swap_space_gb": 0.000005})


def test_a_strategy_without_a_host_tier_is_refused_by_name(build: Build, plugin_host: Any) -> None:
    strategy = CacheStrategy(name="mine", build="maxserve.plugins.cache.paged:PagedCache")
    host = plugin_host(SimpleNamespace(maxserve_cache_strategies=hookimpl(lambda: [strategy])))
    with pytest.raises(SettingsError, match=r"cache strategy 'mine' of .* keeps no copies.* does: paged"):
        build(host=host, cache_strategy="mine", **SMALL, **HOST)


# --- strategies and eviction ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["PAGED", "MODEL_DEFAULT", "KVCacheStrategy.PAGED"])
def test_strategies_go_by_the_names_max_has(build: Build, name: str) -> None:
    assert type(build(**SMALL, cache_strategy=name)._cache).__name__ == "PagedCache"


def test_an_unknown_strategy_is_refused_with_those_there_are(build: Build) -> None:
    with pytest.raises(PluginError, match=r"no cache strategy is called 'pagged' .*; there are: paged"):
        build(cache_strategy="pagged")


def test_prefixes_cannot_be_asked_of_a_strategy_that_shares_none(build: Build, plugin_host: Any) -> None:
    strategy = CacheStrategy(name="mine", build="maxserve.plugins.cache.paged:PagedCache", shares_prefixes=False)
    host = plugin_host(SimpleNamespace(maxserve_cache_strategies=hookimpl(lambda: [strategy])))
    with pytest.raises(SettingsError, match=r"--enable-prefix-caching: cache strategy 'mine' .* shares no prefixes"):
        build(host=host, cache_strategy="mine", enable_prefix_caching=True)
    engine = build(host=host, cache_strategy="mine", **SMALL)
    assert [run(engine, prompt(0))[0][1] for _ in range(2)] == [0, 0]


@pytest.mark.parametrize(("eviction", "found"), [("lru", 0), ("lfu", 96)])
def test_the_chosen_order_of_eviction_decides_who_is_found(build: Build, eviction: str, found: int) -> None:
    engine = build(**SMALL, paged__eviction=eviction)
    for each in (0, 0, 0, 1, 2, 3):
        run(engine, prompt(each))
    assert run(engine, prompt(0))[0][1] == found


# --- formats --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("name", "size"), [("float32", 4), ("bfloat16", 2), ("FLOAT8_E4M3FN", 1), ("int8", 1)])
def test_every_format_serves_and_shares_prefixes(
    build: Build, name: str, size: int, compiled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """With compiled kernels, where the machine has a compiler, and with torch's."""
    caplog.set_level("INFO", "maxserve.engine")
    engine = build(**SMALL, **HOST, kv_cache_format=name, use_subgraphs=compiled)
    assert f"{2 * size + (0.5 if name == 'int8' else 0.0):.1f} KiB each" in caplog.text  # its scales
    assert {layer.keys.dtype.itemsize for layer in engine._cache.layers} == {size}
    texts = [run(engine, prompt(seed)) for seed in (0, 1, 2, 0, 0)]
    assert [found for ((_, found),) in texts] == [0, 0, 0, 96, 96]
    assert texts[0][0][0] == texts[3][0][0] == texts[4][0][0]
    assert engine.stats().cache.host_hits > 0


def test_why_no_prefix_can_be_forgotten(build: Build, plugin_host: Callable[..., Host]) -> None:
    strategy = CacheStrategy(name="mine", build="maxserve.plugins.cache.paged:PagedCache", shares_prefixes=False)
    host = plugin_host(SimpleNamespace(maxserve_cache_strategies=hookimpl(lambda: [strategy])))
    reasons = [
        build(**SMALL, **options, host=where).info.without_prefixes
        for where, options in ((None, {}), (None, {"enable_prefix_caching": False}), (host, {"cache_strategy": "mine"}))
    ]
    assert reasons == ["", "--no-enable-prefix-caching", "--cache-strategy mine"]
