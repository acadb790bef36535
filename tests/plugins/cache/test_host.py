"""The host tier holds the device's pages, byte for byte, and forgets by the same policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from maxserve.core.interfaces.cache import CacheContext, CacheLayer
from maxserve.plugins.cache.paged import PagedCache, copies

Make = Callable[..., PagedCache]
LAYERS = (CacheLayer(kv_heads=2, head_dim=8), CacheLayer(kv_heads=1, head_dim=4))


@pytest.fixture
def make() -> Make:
    def make(**changes: Any) -> PagedCache:
        given: dict[str, Any] = {"layers": LAYERS, "pages": 4, "page_size": 4, "rows": 2, "max_length": 16}
        given |= {"dtype": torch.float32, "device": torch.device("cpu"), "host_pages": 64} | changes
        return PagedCache(CacheContext(**given))

    return make


def prompt(seed: int, length: int = 16) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, 1000, length)


def storage(cache: PagedCache) -> list[torch.Tensor]:
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def run(cache: PagedCache, tokens: NDArray[np.int64], salt: str = "") -> tuple[int, list[torch.Tensor]]:
    """Computes a prompt whose keys and values are random and gives the row back; what was found, and what it holds."""
    found = cache.open(0, tokens, salt)
    assert cache.reserve(0, len(tokens))
    pages = cache.block_tables[0, : -(-len(tokens) // cache.page_size)].tolist()
    for tensor in storage(cache):
        for page in pages[found // cache.page_size :]:
            tensor.view(torch.uint8)[page] = torch.randint(0, 120, tensor.view(torch.uint8)[page].shape).byte()
    held = [tensor.view(torch.uint8)[pages].clone() for tensor in storage(cache)]
    cache.commit(0, tokens)
    cache.check()
    cache.close(0)
    cache.check()
    return found, held


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_what_was_written_comes_back_byte_for_byte(make: Make, dtype: torch.dtype) -> None:
    cache = make(dtype=dtype)
    torch.manual_seed(0)
    written = [run(cache, prompt(seed))[1] for seed in range(5)]
    assert cache.sizes().host_hits == 0
    for seed, expected in enumerate(written):
        found, held = run(cache, np.append(prompt(seed), 7)[:16])
        assert found == 12
        for before, now in zip(expected, held, strict=True):
            assert torch.equal(before[:3], now[:3])
    assert cache.sizes().host_hits >= 4 * 3
    assert cache.sizes().host_cached == 5 * 4


def test_pages_span_several_pieces_of_memory(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "BLOCK", 3000)
    cache = make()
    assert cache._host is not None
    assert len(cache._host.copies._blocks) > 10
    test_what_was_written_comes_back_byte_for_byte(make, torch.float32)


def test_a_row_reads_back_what_the_device_lacks_and_no_more(make: Make) -> None:
    cache = make(pages=6)
    run(cache, prompt(0))
    run(cache, prompt(1))  # evicts the end of prompt 0
    left = len(cache._match(prompt(0), ""))
    before = cache.sizes().host_hits
    assert cache.peek(prompt(0), "") == cache.open(0, prompt(0), "") == 12
    assert cache.sizes().host_hits - before == 3 - left


def test_pages_in_use_limit_what_is_read_back(make: Make) -> None:
    cache = make()
    run(cache, prompt(0))
    run(cache, prompt(1))
    cache.open(1, prompt(2, 9), "")
    assert cache.reserve(1, 9)
    assert cache.sizes().available == 1
    assert cache.peek(prompt(0), "") == cache.open(0, prompt(0), "") == 4
    cache.check()


def test_reset_forgets_the_copies_too(make: Make) -> None:
    cache = make()
    run(cache, prompt(0))
    assert cache.reset() == 4
    assert (cache.sizes().host_cached, cache.peek(prompt(0), "")) == (0, 0)
    cache.check()
    assert run(cache, prompt(0))[0] == 0


def test_parents_forgotten_by_the_host_are_copied_again(make: Make) -> None:
    cache = make(rows=1)
    tokens = prompt(0)
    cache.open(0, tokens[:8], "")
    assert cache.reserve(0, 8)
    cache.commit(0, tokens[:8])
    assert cache._host is not None
    cache._host.reset()
    assert cache.reserve(0, 16)
    cache.commit(0, tokens)
    assert cache.sizes().host_cached == 4


def test_the_least_recently_used_copy_goes_first_and_a_find_on_the_device_counts_as_use(make: Make) -> None:
    cache = make(pages=16, host_pages=8)
    run(cache, prompt(0))
    run(cache, prompt(1))
    run(cache, prompt(0))  # all of it from the device
    run(cache, prompt(2))
    assert cache._host is not None
    here = [len(cache._host.match(cache._bytes(prompt(seed), 0, 4), "")) for seed in (0, 1, 2)]
    assert here == [4, 0, 4]


def test_what_does_not_fit_is_copied_from_its_start(make: Make) -> None:
    cache = make(host_pages=2)
    run(cache, prompt(0))
    assert cache.sizes().host_cached == 2
    run(cache, prompt(1))
    assert cache.peek(prompt(0), "") == 0
    assert cache.sizes().host_cached == 2


def test_salts_do_not_share_copies(make: Make) -> None:
    cache = make()
    run(cache, prompt(0), "one")
    run(cache, prompt(1))
    assert [cache.peek(prompt(0), salt) for salt in ("one", "two", "")] == [12, 0, 0]


def test_check_sees_a_lost_copy(make: Make) -> None:
    cache = make()
    run(cache, prompt(0))
    assert cache._host is not None
    cache._host._free.pop()
    with pytest.raises(AssertionError, match="host pages are lost"):
        cache.check()


def test_without_shared_prefixes_there_is_nothing_to_copy(make: Make) -> None:
    assert make(share_prefixes=False).sizes().host_total == 0
