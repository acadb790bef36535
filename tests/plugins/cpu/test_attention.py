"""Attention compiled for the CPU: a few tokens at once have the numbers that they have one after another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maxserve.interfaces.cache import BuiltCacheFormat, CacheFormatContext, CacheLayer, PlainFormat
from maxserve.interfaces.codes import Codes
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.linear import LinearContext
from maxserve.plugins.cache.formats import Int8Format
from maxserve.plugins.cpu.attention import NativeAttention, _computed_again, _in_pieces
from maxserve.plugins.cpu.linear import PanelMethod
from maxserve.registry import Host
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.served import Served
from maxserve.testing.speculator import few_pages
from maxserve.testing.tiny_cache import PlainAttention, TinyCache, make_step
from maxserve.testing.tiny_configs import tiny_config

pytestmark = pytest.mark.compiler

PAGE, DIM, HEADS, KV_HEADS = 8, 24, 6, 2


CODES = [torch.float8_e4m3fn, torch.int8]


def format_of(dtype: torch.dtype) -> BuiltCacheFormat:
    context = CacheFormatContext(layers=(), device=torch.device("cpu"))
    return Int8Format(context) if dtype is torch.int8 else PlainFormat(dtype)


def outcome(
    counts: list[int],
    dtype: torch.dtype,
    page: int = PAGE,
    scatter: int | None = None,
    prompt: int | None = None,
    **rules: Any,
) -> torch.Tensor:
    """What the tokens of two sequences see, computed so many at a time: [tokens, heads, dim] of each, joined."""
    layer = CacheLayer(kv_heads=KV_HEADS, head_dim=DIM, **rules)
    cache = TinyCache(
        [layer],
        rows=2,
        max_length=800,
        page_size=page,
        scatter=scatter,
        attention=NativeAttention,
        format=format_of(dtype),
    )
    length = sum(counts)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, length, heads, DIM, generator=generator) for heads in (HEADS, KV_HEADS, KV_HEADS))
    found, start = [], 0
    for count in counts:
        prompts = None if prompt is None else [prompt] * 2
        step = make_step(cache, [(row, [0] * count) for row in (0, 1)], prompt_lens=prompts)
        part = slice(start, start + count)
        seen = step.attend(0, q[:, part].flatten(0, 1), k[:, part].flatten(0, 1), v[:, part].flatten(0, 1), None, None)
        found.append(seen.unflatten(0, (2, count)))
        start += count
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, *CODES], ids=str)
@pytest.mark.parametrize("before", [30, 505, 600])  # 512 positions are a chunk
@pytest.mark.parametrize("rules", [{}, {"window": 40}, {"window": 530}, {"chunk": 64}, {"softcap": 2.0}], ids=str)
def test_drafts_see_to_the_bit_what_decoding_sees(before: int, rules: dict[str, Any], dtype: torch.dtype) -> None:
    alone = outcome([before, *[1] * 24], dtype, **rules)
    together = outcome([before, 6, 1, 16, 1], dtype, **rules)
    assert torch.equal(together, alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, *CODES], ids=str)
@pytest.mark.parametrize("prompt", [10, 30, 505, 600])
@pytest.mark.parametrize("rules", [{}, {"window": 40}, {"chunk": 64}], ids=str)
def test_what_was_decoded_sees_the_same_when_it_is_computed_again(
    prompt: int, rules: dict[str, Any], dtype: torch.dtype
) -> None:
    decoded = outcome([prompt, *[1] * 50], dtype, prompt=prompt, **rules)
    for counts in ([prompt + 50], [prompt, 50], [prompt, 1, 49], [prompt + 20, 30]):
        assert torch.equal(outcome(counts, dtype, prompt=prompt, **rules), decoded), counts


def test_sums_of_all_texts_of_a_step_are_bounded_together() -> None:
    texts = np.arange(0, 601 * 6, 601)
    assert _computed_again(np.diff(texts), np.full(5, 2000), np.full(5, 9)).tolist() == [
        True,
        False,
        False,
        False,
        False,
    ]
    assert _computed_again(np.diff(texts[:3]), np.full(2, 1001), np.full(2, 9)).tolist() == [True, True]


def test_what_would_keep_too_many_sums_is_attended_as_a_prompt() -> None:
    again = _computed_again(np.array([100, 100, 100, 16]), np.array([600, 100, 40000, 600]), np.array([80, 100, 9, 9]))
    assert again.tolist() == [True, False, False, False]
    starts, lengths, owners = _in_pieces(
        np.array([0, 5, 45, 45, 63]),
        np.array([8, 33, 9, 50]),
        np.array([9, 30, 9, 4]),
        np.array([False, True, False, True]),
    )
    assert starts.tolist() == [0, 5, 42, 43, 44, 45, *range(45, 64)]
    assert lengths.tolist() == [8, 30, 31, 32, 33, 9, *range(33, 51)]
    assert owners.tolist() == [0, 1, 1, 1, 1, 2, *[3] * 18]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, *CODES], ids=str)
@pytest.mark.parametrize("page", [16, 64])
@pytest.mark.parametrize("rules", [{}, {"window": 40}, {"window": 101}, {"chunk": 64}], ids=str)
def test_decoding_does_not_depend_on_where_pages_lie(page: int, rules: dict[str, Any], dtype: torch.dtype) -> None:
    counts = [600, *[1] * 12]
    together, apart = (outcome(counts, dtype, page, scatter, **rules)[:, 600:] for scatter in (None, 3))
    assert torch.equal(together, apart)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, *CODES], ids=str)
@pytest.mark.parametrize("rules", [{}, {"window": 40}, {"window": 101}, {"chunk": 64}], ids=str)
def test_prompts_do_not_depend_on_pages_and_cuts(rules: dict[str, Any], dtype: torch.dtype) -> None:
    """To the bit: a text with a seed may draw another token by less, and codes of the next layer may be others."""
    whole = outcome([400], dtype, 16, **rules)
    for counts, scatter in (([400], 3), ([130, 17, 253], None), ([33] * 12 + [4], 5)):
        cut = outcome(counts, dtype, 16, scatter, **rules)
        prompts = sum(count for count in counts if count > 16)
        assert torch.equal(cut[:, :prompts], whole[:, :prompts])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rise", [0.0, 0.3, 1.0, 30.0])
def test_scores_of_prompts_may_rise_from_block_to_block(rise: float, dtype: torch.dtype) -> None:
    """Less than what peaks are kept for, as much, or to where all before is nothing; beside attention in float64."""
    layer, length = CacheLayer(kv_heads=KV_HEADS, head_dim=64), 1000
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(length, heads, 64, generator=generator).bfloat16() for heads in (HEADS, KV_HEADS, KV_HEADS))
    k = (k * (1 + rise * torch.arange(length) / 128)[:, None, None]).bfloat16()
    found, expected = (
        make_step(TinyCache([layer], max_length=length, dtype=dtype, attention=each), [(0, [0] * length)])
        .attend(0, q.float(), k.float(), v.float(), None, None)
        .double()
        for each in (NativeAttention, PlainAttention)
    )
    torch.testing.assert_close(found, expected, atol=2e-2 if dtype is torch.bfloat16 else 1e-4, rtol=0)


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn", "float32", "bfloat16"])
def test_a_text_that_was_preempted_goes_on_as_it_was(
    dtype: str, plugin_host: Callable[..., Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the pages lie that it is given then, or how its prompt is cut, changes no bit."""
    config = tiny_config("LlamaForCausalLM", architectures=["LlamaForCausalLM"])
    model: Any = randomised(ArchitectureChecks.reference(config))
    model.save_pretrained(tmp_path)
    options: dict[str, Any] = {"kv_cache_format": dtype, "max_batch_input_tokens": 256, "enable_prefix_caching": False}
    prompts = [list(range(3, 3 + size)) for size in (20, 40, 33, 64)]
    expected = Served(tmp_path, plugin_host(), **options).answers(prompts, 110)
    few_pages(monkeypatch, 24)
    served = Served(tmp_path, plugin_host(), **options)
    assert served.answers(prompts, 110) == expected, "tokens, and their log probabilities to the bit"
    assert served.engine.stats().preemptions > 0


@pytest.mark.parametrize("dim", [24, 64])
@pytest.mark.parametrize("count", [1, 40])
@pytest.mark.parametrize("dtype", CODES, ids=str)
def test_what_is_no_number_stays_none(dtype: torch.dtype, count: int, dim: int) -> None:
    """Tokens after a value that went wrong see that."""
    layer = CacheLayer(kv_heads=KV_HEADS, head_dim=dim)
    cache = TinyCache([layer], rows=1, max_length=80, attention=NativeAttention, format=format_of(dtype))
    q, k, v = (torch.randn(2 + count, heads, dim) for heads in (HEADS, KV_HEADS, KV_HEADS))
    v[1, 0, 3] = torch.nan
    make_step(cache, [(0, [0] * 2)]).attend(0, q[:2], k[:2], v[:2], None, None)
    found = make_step(cache, [(0, [0] * count)]).attend(0, q[2:], k[2:], v[2:], None, None)
    assert found[:, :3].isnan().any(-1).all()
    assert found[:, 3:].isfinite().all()


def test_ids_that_do_not_lie_together_are_read() -> None:
    weight, ids = torch.randn(40, 32), torch.arange(40)[::2]
    for method in (panels(weight), codes(weight)):
        assert torch.equal(method.embedding(ids), method.embedding(ids.clone()))


def panels(weight: torch.Tensor) -> Any:
    method = PanelMethod(LinearContext(compute=torch.float32, device=torch.device("cpu")))
    made = method.create(*weight.shape, torch.float32)
    assert made is not None
    made.load_rows(weight, 0)
    return made


def codes(weight: torch.Tensor) -> Any:
    method = PanelMethod(LinearContext(compute=torch.float32, device=torch.device("cpu")))
    numbers = torch.randint(16, weight.shape, dtype=torch.uint8)
    own = Codes(codes=numbers, table=torch.arange(16.0), group=32, scales=torch.ones(len(weight), 1))
    made = method.create_codes(*weight.shape, [own.layout])
    assert made is not None
    assert torch.equal(made.multiply(torch.ones(0, 32), None), torch.empty(0, 40))
    made.load_codes(own, 0)
    with pytest.raises(ModelError, match="are loaded where others were announced"):
        made.load_codes(Codes(codes=numbers, table=torch.arange(16.0), group=5, scales=torch.ones(len(weight), 7)), 0)
    return made
