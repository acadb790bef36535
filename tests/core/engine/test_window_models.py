"""Models some or all of whose layers have windows, served as a whole: texts are those of transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Exaone4Config,
    Gemma2Config,
    Gemma3TextConfig,
    GptOssConfig,
    Llama4TextConfig,
    MistralConfig,
    Olmo3Config,
    PreTrainedConfig,
)

from maxserve import CacheStrategy, hookimpl
from maxserve.core.assembly.assemble import build_engine
from maxserve.core.config import resolve
from maxserve.core.engine.loop import Engine
from maxserve.core.interfaces.errors import PluginError
from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.loading.kernels import CompiledLayer
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.resolve import resolve_model
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.core.registry.protocol import Host
from maxserve.plugins.cache.paged import PagedCache
from maxserve.plugins.cache.paged.groups import cache_groups
from tests.conftest import write_tokenizer

WINDOW, LENGTH = 40, 400
SMALL: dict[str, Any] = {"max_length": LENGTH, "max_batch_size": 4, "kv_cache_page_size": 16}
CHUNKS: dict[str, Any] = {**SMALL, "max_batch_input_tokens": 32}
HOST: dict[str, Any] = {"enable_kvcache_swapping_to_host": True, "host_kvcache_swap_space_gb": 0.05}
WINDOWED, FULL = "sliding_attention", "full_attention"
KINDS = {
    "one in three sees everything": [WINDOWED, WINDOWED, FULL, WINDOWED, WINDOWED],
    "every layer has a window": [WINDOWED, WINDOWED],
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kinds(request: pytest.FixtureRequest) -> list[str]:
    found: list[str] = request.param
    return found


@pytest.fixture
def folder(model_folder: Callable[..., Path], kinds: list[str]) -> Path:
    return model_folder(
        architecture="Qwen3ForCausalLM",
        num_hidden_layers=len(kinds),
        layer_types=kinds,
        use_sliding_window=True,
        sliding_window=WINDOW,
        max_window_layers=0,
    )


def build(folder: Path, host: Host | None = None, **options: Any) -> Engine:
    host = host or PluginHost.discover(PluginOptions(), strict=True)
    settings = resolve({"model_path": str(folder), **options}, environ={}, sections=host.plugin_sections())
    files = resolve_model(settings.model, host, progress=NullProgress())
    return build_engine(settings, host, files, progress=NullProgress())


@pytest.fixture
def strategies(plugin_host: Any) -> Host:
    """With a strategy that knows no groups, and one that says it does and does not."""
    keeping = CacheStrategy(name="keeping", build=PagedCache)
    boasting = CacheStrategy(name="boasting", build=PagedCache, groups=cache_groups)
    host: Host = plugin_host(SimpleNamespace(maxserve_cache_strategies=hookimpl(lambda: [keeping, boasting])))
    return host


def prompt(seed: int, length: int) -> list[int]:
    found: list[int] = np.random.default_rng(seed).integers(3, 380, length).tolist()
    return found


def run(engine: Engine, prompts: list[list[int]], tokens: int) -> tuple[list[list[int]], list[int], int]:
    """Greedy texts of requests that run together, what each found in the cache, and the most pages that were owned."""
    params = SamplingParams(max_tokens=tokens, ignore_eos=True, fields={"temperature": {"temperature": 0.0}})
    texts: list[list[int]] = [[] for _ in prompts]
    cached, owned = [0] * len(prompts), 0
    for number, each in enumerate(prompts):
        engine.add(Request(id=str(number), prompt=tuple(each), params=params))
    while engine.busy:
        for output in engine.step():
            assert output.error is None
            texts[int(output.id)] += output.tokens
            cached[int(output.id)] = output.cached
        engine.check()
        owned = max(owned, engine.stats().cache.owned)
    return texts, cached, owned


def greedy(folder: Path, prompt: list[int], tokens: int) -> list[int]:
    """What transformers makes of a prompt, computing all of it for each token."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        for _ in range(tokens):
            ids = torch.cat((ids, model(ids, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)), 1)
    found: list[int] = ids[0, len(prompt) :].tolist()
    return found


@pytest.mark.parametrize(
    "options", [SMALL, CHUNKS, {**CHUNKS, "enable_overlap_scheduler": True}], ids=["whole", "chunks", "ahead"]
)
@pytest.mark.filterwarnings("ignore:.*overlap.*")
def test_texts_are_those_of_transformers(folder: Path, options: dict[str, Any]) -> None:
    prompts = [prompt(0, 100), prompt(0, 90) + prompt(1, 30), prompt(2, 7)]
    engine = build(folder, **options)
    first, _, _ = run(engine, prompts, 64)
    assert first == [greedy(folder, each, 64) for each in prompts]
    again, cached, _ = run(engine, prompts, 64)
    assert again == first
    assert cached == [96, 112, 0]


def test_a_text_is_the_same_with_and_without_giving_back(folder: Path, kinds: list[str], strategies: Host) -> None:
    prompts = [prompt(0, 60)]
    freeing, keeping = build(folder, **CHUNKS), build(folder, strategies, cache_strategy="keeping", **CHUNKS)
    (texts, _, owned), (expected, _, kept) = (run(engine, prompts, 300) for engine in (freeing, keeping))
    assert texts == expected
    assert kept == 23  # 360 tokens, in pages of all layers
    groups = len(freeing._parts.limits.page_bounds)
    assert groups == (5 if FULL in kinds else 1)
    # A window of 40 lies in 4 pages of 16 at most, and one more was filled before it was given back.
    assert owned <= (23 if FULL in kinds else 0) + 5 * kinds.count(WINDOWED) // (1 if FULL in kinds else len(kinds))


def test_a_turn_finds_the_one_before(folder: Path) -> None:
    engine = build(folder, **CHUNKS)
    first = prompt(5, 120)
    ((answer,), _, _) = run(engine, [first], 40)
    longer = [*first, *answer, *prompt(6, 9)]
    texts, cached, _ = run(engine, [longer], 30)
    assert texts == [greedy(folder, longer, 30)]
    assert cached == [(120 + 39) // 16 * 16]


def test_layers_are_compiled_in_groups_too(folder: Path, model_folder: Callable[..., Path], kinds: list[str]) -> None:
    """All of them, where those of a model without windows are."""
    plain = model_folder(architecture="Qwen3ForCausalLM", num_hidden_layers=len(kinds))
    assert compiled(build(folder, **SMALL)) == compiled(build(plain, **SMALL))


def compiled(engine: Engine) -> int:
    model: Any = engine._parts.runner._model
    return sum(isinstance(module, CompiledLayer) for module in model.modules())


def test_short_requests_share_one_table(folder: Path) -> None:
    """No window is ever left behind."""
    engine = build(folder, max_length=WINDOW, max_batch_size=4, kv_cache_page_size=16)
    assert isinstance(engine._cache, PagedCache)


def test_with_a_host_tier_pages_are_kept(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = build(folder, **CHUNKS, **HOST)
    assert "pages that the model's windows have passed are kept" in caplog.text
    texts, _, owned = run(engine, [prompt(0, 60)], 100)
    assert texts == [greedy(folder, prompt(0, 60), 100)]
    assert owned == 10


def test_who_promises_groups_must_have_tables_for_them(folder: Path, strategies: Host) -> None:
    with pytest.raises(PluginError, match=r"boasting.*declares `groups`, but built a PagedCache without tables"):
        build(folder, strategies, cache_strategy="boasting", **SMALL)


SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "sliding_window": WINDOW,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
CHUNKED: dict[str, Any] = {"attention_chunk_size": WINDOW, "intermediate_size_mlp": 48, "no_rope_layers": [1, 1, 1, 0]}
FAMILIES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any], int]] = {  # by group of layers, and so many of them
    "Exaone4ForCausalLM": (Exaone4Config, {"sliding_window_pattern": 4}, 4),
    "Gemma2ForCausalLM": (Gemma2Config, {"query_pre_attn_scalar": 16}, 2),
    "Gemma3ForCausalLM": (Gemma3TextConfig, {"sliding_window_pattern": 3, "query_pre_attn_scalar": 16}, 4),
    "GptOssForCausalLM": (GptOssConfig, EXPERTS, 2),
    "Llama4ForCausalLM": (Llama4TextConfig, EXPERTS | CHUNKED, 4),
    "MistralForCausalLM": (MistralConfig, {}, 1),
    "Olmo3ForCausalLM": (Olmo3Config, {}, 4),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_with_windows(family: str, tmp_path: Path) -> None:
    kind, changes, groups = FAMILIES[family]
    torch.manual_seed(0)
    config = kind(**{**SIZES, **changes}, vocab_size=write_tokenizer(tmp_path), architectures=[family])
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    engine = build(tmp_path, **CHUNKS)
    assert len(engine._parts.limits.page_bounds) == groups
    first = prompt(7, 90)
    ((answer,), _, _) = run(engine, [first], 60)
    assert answer == greedy(tmp_path, first, 60)
    longer = [*first, *answer, *prompt(8, 5)]
    texts, cached, _ = run(engine, [longer], 30)
    assert texts == [greedy(tmp_path, longer, 30)]
    assert cached == [(90 + 59) // 16 * 16]
