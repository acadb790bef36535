"""Caches of codes in whole engines: greedy texts depend on the format, and on nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from maxserve import AttentionBackend, CacheFormat, CacheStrategy, hookimpl
from maxserve.core.interfaces.cache import KVLayer
from maxserve.core.interfaces.errors import PluginError, SettingsError
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.core.registry.protocol import Host
from maxserve.plugins.attention.paged import PagedAttention
from maxserve.plugins.cache.paged import PagedCache
from maxserve.plugins.cpu.layers import NativeLayers
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.attention import NibbleFormat
from maxserve.testing.served import Answer, Served
from maxserve.testing.speculator import few_pages
from maxserve.testing.tiny_configs import tiny_config

CODES = ("float8_e4m3fn", "int8")
COMPILED = [pytest.param(True, marks=pytest.mark.compiler), False]
LONG: dict[str, Any] = {"max_length": 200, "max_batch_input_tokens": 8192}


@pytest.fixture
def serve(model_folder: Callable[..., Path]) -> Callable[..., Served]:
    def serve(*, host: Host | None = None, changes: dict[str, Any] | None = None, **options: Any) -> Served:
        host = host or PluginHost.discover(PluginOptions(autoload=False), strict=True)
        return Served(model_folder(**(changes or {})), host, **{**LONG, **options})

    return serve


def prompts(count: int, length: int = 70) -> list[list[int]]:
    return [np.random.default_rng(seed).integers(3, 380, length).tolist() for seed in range(count)]


def texts(served: Served, given: Sequence[Sequence[int]], tokens: int = 20) -> list[list[int]]:
    """Greedy answers of requests that run together."""
    answers = served.answers(given, tokens)
    assert [answer.error for answer in answers] == [None] * len(given)
    served.engine.check()
    return [answer.tokens for answer in answers]


WINDOWS: dict[str, Any] = {
    "architecture": "Qwen3ForCausalLM",
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "use_sliding_window": True,
    "sliding_window": 40,
    "max_window_layers": 0,
}


@pytest.mark.parametrize("changes", [{}, WINDOWS], ids=["", "windows"])
@pytest.mark.parametrize("compiled", COMPILED, ids=["native", "torch"])
@pytest.mark.parametrize("format", CODES)
def test_texts_are_those_of_a_request_alone(
    serve: Any, format: str, compiled: bool, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a batch, in chunks, behind a prefix that was found, with drafts, and after preemption."""
    options = {"kv_cache_format": format, "use_subgraphs": compiled, "changes": changes}
    alone, given = serve(max_batch_size=1, **options), prompts(6)
    longer = [alone.answers([each], 40)[0] for each in given]
    expected = [each.tokens[:20] for each in longer]
    together = serve(max_batch_size=6, max_batch_input_tokens=24, **options)
    assert texts(together, given) == expected
    again = together.answers(given[:2], 20)
    assert [answer.tokens for answer in again] == expected[:2]
    assert max(answer.cached for answer in again) == 64
    drafting = serve(speculative_method="ngram", num_speculative_tokens=3, **options)
    assert texts(drafting, given) == expected
    few_pages(monkeypatch, 12 * len(alone.engine._limits.page_bounds))
    crowded = serve(max_batch_size=6, max_length=112, kvcache_ce_watermark=1.0, **options)
    for found, wanted in zip(crowded.answers(given, 40), longer, strict=True):
        assert_equal_to_a_tie(found, wanted)
    crowded.engine.check()
    assert crowded.engine.stats().preemptions > 0 or changes  # windows give their pages back


def assert_equal_to_a_tie(found: Answer, wanted: Answer) -> None:
    """What was preempted is computed again as a prompt, in another order of sums, and a bit may make another code.

    So texts may part where two tokens are equally likely, within what a code more or less changes.
    """
    parts = [i for i, (a, b) in enumerate(zip(found.tokens, wanted.tokens, strict=True)) if a != b]
    if parts:
        assert abs(found.logprobs[parts[0]] - wanted.logprobs[parts[0]]) < 0.02  # what int8 may change, see below


@pytest.mark.parametrize("compiled", COMPILED, ids=["native", "torch"])
@pytest.mark.parametrize("format", CODES)
def test_a_draft_models_layers_are_stored_so_too(serve: Any, model_folder: Any, format: str, compiled: bool) -> None:
    options = {"kv_cache_format": format, "use_subgraphs": compiled}
    plain, given = serve(**options), prompts(3, 30)
    drafting = serve(
        speculative_method="standalone", draft_model_path=str(model_folder()), num_speculative_tokens=3, **options
    )
    assert {layer.keys.dtype.itemsize for layer in drafting.engine._cache.layers} == {1}
    assert texts(drafting, given) == texts(plain, given)


@pytest.mark.compiler
@pytest.mark.parametrize("format", CODES)
def test_layers_are_one_call_as_with_other_caches(serve: Any, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fused: list[Any] = []
    compile_stack = NativeLayers.compile_stack
    monkeypatch.setattr(
        NativeLayers, "compile_stack", lambda self, calls: fused.append(compile_stack(self, calls)) or fused[-1]
    )
    serve(kv_cache_format=format)
    assert fused
    assert None not in fused


# --- what cannot be ---------------------------------------------------------------------------------------------------


def with_plugin(plugin_host: Any, hook: str, component: Any) -> Host:
    host: Host = plugin_host(SimpleNamespace(**{hook: hookimpl(lambda: [component])}))
    return host


def test_a_back_end_that_reads_no_formats_is_not_asked(
    serve: Any, plugin_host: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It takes numbers of a floating type; codes with scales go to one that says it reads them."""
    backend = AttentionBackend(name="mine", build=PagedAttention, priority=99)
    host = with_plugin(plugin_host, "maxserve_attention_backends", backend)
    named = {"host": host, "attention_backend": "mine"}
    with pytest.raises(SettingsError, match=r"--attention-backend mine: it does not say that it reads formats .* int8"):
        serve(kv_cache_format="int8", **named)
    caplog.set_level("INFO", "maxserve.engine")
    for format, serves in (("float32", True), ("float8_e4m3fn", True), ("int8", False)):
        caplog.clear()
        serve(kv_cache_format=format, host=host)
        assert ("attention backend: mine" in caplog.text) == serves
    assert "it does not say that it reads formats" in caplog.text


class Forgetful(PagedCache):
    """A strategy that has not heard of scales."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self.layers = [KVLayer(layer.keys, layer.values) for layer in self.layers]


def test_a_strategy_that_stores_something_else_is_named(serve: Any, plugin_host: Any) -> None:
    strategy = CacheStrategy(name="mine", build=Forgetful)
    host = with_plugin(plugin_host, "maxserve_cache_strategies", strategy)
    message = r"cache strategy 'mine' .* stores keys as .* with scales of None, and --kv-cache-format int8 as .*float32"
    with pytest.raises(SettingsError, match=message):
        serve(kv_cache_format="int8", cache_strategy="mine", host=host)
    assert texts(serve(kv_cache_format="float8_e4m3fn", cache_strategy="mine", host=host), prompts(1))


@pytest.mark.parametrize("compiled", COMPILED, ids=["native", "torch"])
def test_a_strangers_format_serves(serve: Any, plugin_host: Any, compiled: bool) -> None:
    """Half a byte a number: torch's attention reads it, whatever else is there."""
    format = CacheFormat(name="nibbles", build=lambda context: NibbleFormat())
    host = with_plugin(plugin_host, "maxserve_cache_formats", format)
    served = serve(kv_cache_format="nibbles", host=host, use_subgraphs=compiled)
    assert served.engine._cache.layers[0].keys.shape[-1] == 8
    given = prompts(3)
    assert texts(served, given) == [texts(served, [each])[0] for each in given]


def test_formats_are_named_where_there_is_none(serve: Any) -> None:
    with pytest.raises(PluginError, match=r"no cache format is called 'int9'.*int8"):
        serve(kv_cache_format="int9")


def test_layers_with_values_in_keys_are_refused_by_name(serve: Any, tmp_path: Path) -> None:
    config = tiny_config("DeepseekV3ForCausalLM", architectures=["DeepseekV3ForCausalLM"])
    randomised(ArchitectureChecks.reference(config)).save_pretrained(tmp_path)
    deepseek = {"model_path": str(tmp_path), "max_length": 64}
    with pytest.raises(SettingsError, match=r"--kv-cache-format int8: layers whose values are part of their keys"):
        serve(kv_cache_format="int8", **deepseek)
    assert texts(serve(kv_cache_format="float8_e4m3fn", **deepseek), [[*range(3, 40)]])


def test_without_scales_in_the_checkpoint_the_log_says_so(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "maxserve.engine")
    serve(kv_cache_format="float8_e4m3fn")
    assert "the checkpoint has no scales for keys and values: they are stored as they are" in caplog.text
    caplog.clear()
    serve(kv_cache_format="int8")
    assert "scales" not in caplog.text


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", COMPILED, ids=["native", "torch"])
def test_logits_are_as_near_as_the_format_allows(serve: Any, compiled: bool) -> None:
    """Of the likeliest tokens, beside a float32 cache."""
    given = prompts(4, 120)
    exact = serve(kv_cache_format="float32", use_subgraphs=compiled, native__precision="exact").answers(given, 1)
    errors = {}
    for format in ("bfloat16", "int8", "float8_e4m3fn"):
        found = serve(kv_cache_format=format, use_subgraphs=compiled).answers(given, 1)
        errors[format] = max(
            abs(a.logprobs[0] - b.logprobs[0]) for a, b in zip(exact, found, strict=True) if a.tokens == b.tokens
        )
    assert errors["bfloat16"] < 0.01
    assert errors["int8"] < 0.02
    assert errors["float8_e4m3fn"] < 0.25
    assert errors["int8"] < errors["float8_e4m3fn"]
