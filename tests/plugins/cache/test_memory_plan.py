from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from maxserve.architectures import mixtral, qwen3_vl
from maxserve.architectures.layers.vision_config import FEATURES_KEPT
from maxserve.core.config import Settings, resolve
from maxserve.core.config.catalog import catalog
from maxserve.core.interfaces.cache import CacheFormatContext, CacheGroup, CacheLayer, PlainFormat
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.loading.build import weight_bytes
from maxserve.plugins.cache.formats import Int8Format
from maxserve.plugins.cache.memory_plan import (
    CPU_CACHE_LIMIT,
    KEPT_LEAST,
    PAGE_SIZE,
    PAGE_SIZE_ELSEWHERE,
    MemoryPlan,
    activation_bytes,
    page_bytes,
    plan_memory,
    size_text,
)
from maxserve.plugins.cache.paged.groups import cache_groups

MIB, GIB = 1 << 20, 1 << 30


@dataclass(frozen=True)
class Spec:
    """A small model: 2 MiB per page of 64 tokens in float32."""

    vocab_size: int = 1000
    dim: int = 256
    max_length: int = 4096
    cache_layers: tuple[CacheLayer, ...] = (CacheLayer(kv_heads=4, head_dim=64),) * 16


def planned(
    free: int,
    *,
    device: str = "cpu",
    weights: int = 100 * MIB,
    spec: Spec | None = None,
    cache_dtype: torch.dtype = torch.float32,
    host_free: int = 0,
    groups: tuple[CacheGroup, ...] = (),
    whole_prompts: bool = False,
    draws: bool = True,
    **typed: Any,
) -> MemoryPlan:
    return plan_memory(
        resolve(typed, environ={}) if typed else Settings(),
        spec or Spec(),
        device=device,
        free=free,
        weights=weights,
        itemsize=4,
        cache_format=PlainFormat(cache_dtype),
        host_free=host_free,
        groups=groups,
        whole_prompts=whole_prompts,
        draws=draws,
    )


def test_bytes_of_a_page_are_keys_and_values_of_all_layers() -> None:
    layers = (CacheLayer(kv_heads=2, head_dim=8), CacheLayer(kv_heads=1, head_dim=16, window=4))
    assert page_bytes(layers, page_size=16, format=PlainFormat(torch.bfloat16)) == 2 * (2 * 8 + 1 * 16) * 16 * 2
    assert page_bytes(Spec().cache_layers, 64, PlainFormat(torch.float32)) == 2 * MIB


def test_bytes_of_a_page_in_a_format_count_scales() -> None:
    """int8: a float32 for each head; of values that are part of keys nothing is stored."""
    layers = (CacheLayer(kv_heads=2, head_dim=8), CacheLayer(kv_heads=1, head_dim=16, value_dim=4))
    format = Int8Format(CacheFormatContext(layers=layers, device=torch.device("cpu")))
    assert page_bytes(layers, 16, format) == 16 * (2 * 2 * (8 + 4) + (16 + 4) + (4 + 4))
    inside = (CacheLayer(kv_heads=1, head_dim=16, value_dim=12, values_in_keys=True),)
    assert page_bytes(inside, 16, PlainFormat(torch.float8_e4m3fn)) == 16 * 16


def test_bytes_of_weights_count_shared_ones_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False, device="meta"), nn.Linear(4, 4, device="meta"))
    model[1].weight = model[0].weight
    assert weight_bytes(model, 2) == 2 * (16 + 4)


def test_everything_that_is_planned_fits() -> None:
    free = 2 * GIB
    plan = planned(free, device_memory_utilization=0.5)
    activations = 20 * 8192 * 256 * 4 + 3 * 64 * 1000 * 4
    assert plan.activations == activation_bytes(Spec(), tokens=8192, rows=64, itemsize=4) == activations
    affordable = (free // 2 - 100 * MIB - activations) // (2 * MIB)
    assert (plan.pages, plan.page_size, plan.page_bytes) == (affordable, 64, 2 * MIB)
    assert plan.weights + plan.activations + plan.cache <= free // 2
    assert plan.cache == plan.pages * 2 * MIB
    assert plan.tokens == plan.pages * 64
    assert plan.warnings == ()


def test_room_for_drafts_where_a_method_is_named() -> None:
    row = Spec().vocab_size * 4
    typed = {"max_batch_size": 8, "max_batch_input_tokens": 512}
    plain = planned(2 * GIB, num_speculative_tokens=4, **typed)
    drafting = planned(2 * GIB, speculative_method="ngram", num_speculative_tokens=4, **typed)
    assert drafting.activations - plain.activations == (3 * 8 * 4 + 8 * 4) * row
    undrawn = planned(2 * GIB, speculative_method="ngram", num_speculative_tokens=4, draws=False, **typed)
    assert undrawn.activations - plain.activations == 3 * 8 * 4 * row
    short = planned(2 * GIB, speculative_method="ngram", num_speculative_tokens=4, **{**typed, "max_batch_size": 256})
    rows = 512  # no step has more
    assert short.activations == 20 * 512 * 256 * 4 + (3 * rows + 256 * 4) * row


def test_room_for_the_rows_of_experts() -> None:
    config = mixtral.config({"num_experts_per_tok": 3, "hidden_size": 64, "intermediate_size": 20, "vocab_size": 50})
    per_token = 20 * 64 + 3 * (4 * 64 + 3 * 20)
    assert activation_bytes(config, tokens=7, rows=2, itemsize=2) == per_token * 7 * 2 + 3 * 2 * 50 * 4


def test_room_for_images_beside_the_rows_of_experts() -> None:
    text = {
        "hidden_size": 64,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 20,
        "vocab_size": 50,
    }
    tower = {"hidden_size": 24, "patch_size": 16}
    raw = {"model_type": "qwen3_vl_moe", "text_config": text, "vision_config": tower}
    config = qwen3_vl.mixture_config(raw)
    step = (20 * 64 + 3 * (4 * 64 + 3 * 20)) * 7 * 2 + 3 * 2 * 50 * 4
    image = 20 * 24 * (2 * 1024 * 1024 // (16 * 16)) * 2
    assert activation_bytes(config, tokens=7, rows=2, itemsize=2) == step + image + FEATURES_KEPT


def test_no_more_pages_than_all_requests_could_use() -> None:
    plan = planned(1000 * GIB, max_batch_size=3, max_length=100, device_memory_utilization=0.9)
    assert plan.pages == 3 * 2
    assert (plan.max_batch_size, plan.max_length) == (3, 100)


def test_a_cpu_keeps_a_modest_cache_unless_told_otherwise() -> None:
    assert planned(100 * GIB).cache == CPU_CACHE_LIMIT
    assert planned(100 * GIB, device_memory_utilization=0.9).cache == 64 * (4096 // 64) * 2 * MIB
    assert planned(100 * GIB, device="cuda").cache > CPU_CACHE_LIMIT


def test_more_utilization_gives_more_pages_and_8_bits_four_times_as_many() -> None:
    shares = (0.2, 0.3, 0.5, 0.9)
    pages = [planned(2 * GIB, device_memory_utilization=share).pages for share in shares]
    assert pages == sorted(set(pages))
    assert pages[2] - pages[1] == pytest.approx(0.2 * 2 * GIB / (2 * MIB), abs=1)
    small = planned(2 * GIB, device_memory_utilization=0.5, cache_dtype=torch.float8_e4m3fn)
    assert (small.page_bytes, small.pages // 4) == (MIB // 2, pages[2])


def test_unused_prefixes_keep_a_third_of_the_weights_on_a_shared_cpu_only() -> None:
    """And 192 MiB at least; with a share of the memory named, or on a GPU, they may keep all."""
    assert planned(100 * GIB).soft_pages == KEPT_LEAST // (2 * MIB)
    assert planned(100 * GIB, weights=3 * GIB).soft_pages == GIB // (2 * MIB)
    assert planned(100 * GIB, device_memory_utilization=0.9).soft_pages is None
    assert planned(100 * GIB, device="cuda").soft_pages is None
    assert planned(100 * GIB, max_batch_size=1, max_length=1024).soft_pages is None, "the whole cache is smaller"
    assert "kept at most" in planned(100 * GIB).table()
    assert "kept at most" not in planned(100 * GIB, enable_prefix_caching=False).table(), "there are no prefixes"


TIER: dict[str, Any] = {"enable_kvcache_swapping_to_host": True}


def test_the_host_tier_has_the_whole_pages_that_fit() -> None:
    plan = planned(10 * GIB, device="cuda", host_free=4 * GIB, **TIER, host_kvcache_swap_space_gb=1.001)
    assert plan.page_size == 128
    assert plan.host_pages == int(1.001 * GIB) // (4 * MIB) == 256
    assert re.search(r"\nhost tier +1\.0 GiB  256 pages in host memory$", plan.table())
    assert planned(10 * GIB, device="cuda", host_free=4 * GIB, host_kvcache_swap_space_gb=1.0).host_pages == 0


def test_a_host_tier_that_is_chosen_must_fit_beside_the_rest() -> None:
    """On a CPU the cache itself lies in the host's memory."""
    chosen = TIER | {"host_kvcache_swap_space_gb": 1.0}
    assert planned(6 * GIB, host_free=6 * GIB, **chosen).host_pages == 512
    with pytest.raises(ModelError, match=r"gb 1 is 1\.0 GiB, and .* MiB of the host's memory is free beside the rest"):
        planned(5 * GIB, host_free=5 * GIB, **chosen)


def test_the_default_size_of_a_host_tier_gives_way() -> None:
    plan = planned(10 * GIB, device="cuda", host_free=4 * GIB, **TIER)
    assert plan.host_pages == 2 * GIB // (4 * MIB)
    assert any("the host tier gets 2.0 GiB, half of" in warning for warning in plan.warnings)
    assert planned(10 * GIB, device="cuda", host_free=64 * GIB, **TIER).host_pages == 50 * GIB // (4 * MIB)


def test_less_than_a_page_for_the_host_tier_is_refused_with_a_number_that_would_do() -> None:
    with pytest.raises(
        ModelError, match=r"1\.0 MiB for the host tier is less than one page of 2\.0 MiB; give .* 0\.002 or"
    ):
        planned(10 * GIB, host_free=GIB * 9, **TIER, host_kvcache_swap_space_gb=1 / 1024)
    assert planned(10 * GIB, host_free=9 * GIB, **TIER, host_kvcache_swap_space_gb=0.002).host_pages == 1


@pytest.mark.parametrize(("device", "page_size"), [("cpu", 64), ("cuda", 128)])
def test_the_default_page_size_is_told_in_the_log_and_by_the_option(device: str, page_size: int) -> None:
    assert f"--kv-cache-page-size {page_size} is the default on {device}" in planned(10 * GIB, device=device).table()
    assert "--kv-cache-page-size 32 is chosen" in planned(10 * GIB, device=device, kv_cache_page_size=32).table()
    text = catalog().by_path()["kv_cache.kv_cache_page_size"].help
    assert f"unset, {PAGE_SIZE['cpu']} on a CPU and {PAGE_SIZE_ELSEWHERE} on a GPU" in text


@pytest.mark.parametrize(("device", "page_size", "batch"), [("cpu", 64, 64), ("cuda", 128, 512)])
def test_each_device_has_its_defaults(device: str, page_size: int, batch: int) -> None:
    plan = planned(100 * GIB, device=device)
    assert (plan.page_size, plan.max_batch_size) == (page_size, batch)


def test_an_unset_batch_size_fits_the_pages_and_is_not_one() -> None:
    plan = planned(250 * MIB, weights=MIB, device_memory_utilization=1.0)
    assert 1 < plan.max_batch_size == plan.pages < 64


def test_an_unset_batch_size_leaves_everyone_a_token_of_each_step() -> None:
    assert planned(2 << 30, max_batch_input_tokens=16).max_batch_size == 16


def test_a_chosen_batch_size_is_kept_with_a_warning() -> None:
    plan = planned(300 * MIB, weights=MIB, max_batch_size=500, max_length=640, device_memory_utilization=0.9)
    assert plan.max_batch_size == 500
    assert plan.warnings == (
        f"--max-batch-size 500 is more than the {plan.pages} pages that fit: that many never run at once",
    )


def test_page_size_can_be_chosen() -> None:
    plan = planned(2 * GIB, kv_cache_page_size=16)
    assert (plan.page_size, plan.page_bytes) == (16, MIB // 2)


@pytest.mark.parametrize(
    ("typed", "name"), [({}, "the model's length 4096"), ({"max_length": 4000}, "--max-length 4000")]
)
def test_length_is_lowered_to_what_the_cache_holds(typed: dict[str, int], name: str) -> None:
    plan = planned(300 * MIB, weights=MIB, **typed)
    assert plan.max_length == plan.tokens < 4000
    assert f"{name} is lowered to {plan.max_length}, the tokens that the KV cache holds" in plan.warnings


def test_length_above_the_models_limit_is_refused() -> None:
    with pytest.raises(ModelError, match="--max-length 4097 is above the 4096 positions"):
        planned(2 * GIB, max_length=4097)
    assert planned(2 * GIB, max_length=4096).max_length == 4096


def test_a_length_without_room_for_an_answer_is_refused() -> None:
    with pytest.raises(ModelError, match="--max-length 1 leaves no room for an answer"):
        planned(2 << 30, max_length=1)
    assert planned(2 << 30, max_length=2).max_length == 2


def test_a_model_that_does_not_fit_is_refused_with_numbers() -> None:
    with pytest.raises(
        ModelError, match=r"weights 3\.0 GiB and activations 160\.7 MiB need more than the 2\.0 GiB free on cpu"
    ):
        planned(2 * GIB, weights=3 * GIB)
    with pytest.raises(
        ModelError, match=r"no room for the KV cache: of 2\.0 GiB free on cpu 10% may be used.*lower --max-batch"
    ):
        planned(2 * GIB, device_memory_utilization=0.1)


def test_nearly_full_memory_is_warned_of() -> None:
    plan = planned(2 * GIB, device_memory_utilization=1.0)
    assert any("more than 95% of the free memory is planned" in warning for warning in plan.warnings)


def test_the_table_adds_up() -> None:
    plan = planned(2 * GIB, device_memory_utilization=0.5)
    lines = plan.table().splitlines()
    assert [line.split("  ")[0].strip() for line in lines] == [
        "free on cpu",
        "weights",
        "activations",
        "KV cache",
        "left",
    ]
    assert len({line.index("iB ") for line in lines if "iB " in line} | {lines[1].index("iB")}) == 1
    assert f"{plan.pages} pages x 64 tokens = {plan.tokens} tokens, 2.0 MiB each" in lines[3]
    left = plan.free - plan.weights - plan.activations - plan.cache
    assert size_text(left) in lines[4]


def test_sizes_are_readable() -> None:
    assert [size_text(n) for n in (0, 1023, 1536, 5 * MIB, -GIB, 3 << 50)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 MiB",
        "-1.0 GiB",
        "3072.0 TiB",
    ]


# --- groups of layers -------------------------------------------------------------------------------------------


def gemma(free: int, length: int = 32768, **typed: Any) -> tuple[MemoryPlan, MemoryPlan]:
    """The plan of 26 layers of which five in six have a window of 512, without and with pages given back."""
    kinds = [None if layer % 6 == 5 else 512 for layer in range(26)]
    layers = tuple(CacheLayer(kv_heads=1, head_dim=256, window=window) for window in kinds)
    spec = Spec(dim=1152, max_length=length, cache_layers=layers)
    typed |= {"max_batch_input_tokens": 2048, "device_memory_utilization": 1.0}
    groups = cache_groups(layers, length)
    before, after = planned(free, spec=spec, **typed), planned(free, spec=spec, groups=groups, **typed)
    return before, after


def test_a_request_needs_fewer_pages_where_windows_are_given_back() -> None:
    before, after = gemma(2 * GIB)
    assert after.page_bytes == 4 * 2 * 256 * 64 * 4
    assert before.page_bytes == after.page_bytes * 26 // 4
    bound = (512 + 2048 + 64) // 64 + 1
    assert after.page_bounds == (None, *[bound] * 6)
    assert after.request_pages == 512 + 6 * bound
    assert after.cache <= before.cache + before.page_bytes
    assert 3.5 < after.tokens / before.tokens < 5


def test_the_table_says_what_groups_hold() -> None:
    _, after = gemma(2 * GIB)
    assert f"{after.pages} pages x 64 tokens of 7 groups of layers, 512.0 KiB each" in after.table()
    assert f"32768 tokens take {after.request_pages} at most, so {after.tokens} tokens fit" in after.table()


def test_a_longer_request_fits() -> None:
    before, after = gemma(600 * MIB, length=131072)
    assert before.max_length < 9000
    assert after.max_length > 2 * before.max_length
    assert after.request_pages <= after.pages
    assert "is lowered to" in after.warnings[0]


@pytest.mark.parametrize(
    ("groups", "options"), [((), {}), (None, {"enable_chunked_prefill": False})], ids=["no", "whole"]
)
def test_whole_prompts_have_all_their_pages_at_once(
    groups: tuple[CacheGroup, ...] | None, options: dict[str, Any]
) -> None:
    layers = (CacheLayer(kv_heads=4, head_dim=64, window=100),) * 16
    spec, given = Spec(cache_layers=layers), cache_groups(layers, 4096) if groups is None else groups
    plan = planned(GIB, spec=spec, groups=given, **options)
    assert plan.request_pages == 64
    assert planned(GIB, spec=spec, groups=cache_groups(layers, 4096), whole_prompts=True).request_pages == 64


def test_a_page_for_each_group_is_the_least() -> None:
    layers = (CacheLayer(kv_heads=4, head_dim=64), CacheLayer(kv_heads=4, head_dim=64, window=100))
    spec = Spec(cache_layers=layers)
    free = 100 * MIB + activation_bytes(spec, tokens=64, rows=1, itemsize=4)
    chosen: dict[str, Any] = {"max_batch_input_tokens": 64, "max_batch_size": 1, "device_memory_utilization": 1.0}
    with pytest.raises(ModelError, match=r"one page needs 256\.0 KiB"):  # of 64 tokens, once for each group
        planned(free + 200 * 1024, spec=spec, groups=cache_groups(layers, 4096), **chosen)
    assert planned(free + 256 * 1024, spec=spec, groups=cache_groups(layers, 4096), **chosen).pages == 2
