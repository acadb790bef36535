"""Prefixes that are held for others, read, and written."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from maxserve.interfaces.cache import CacheContext, CacheFormatContext, CacheLayer, SupportsHolds
from maxserve.plugins.cache.formats import Int8Format
from maxserve.plugins.cache.paged import PagedCache

Tokens = NDArray[np.int64]
LAYERS = (
    CacheLayer(kv_heads=2, head_dim=3),
    CacheLayer(kv_heads=1, head_dim=8, value_dim=5),
    CacheLayer(kv_heads=1, head_dim=6, value_dim=4, values_in_keys=True),
)

INT8 = Int8Format(CacheFormatContext(layers=LAYERS[:2], device=torch.device("cpu")))


def made(**changes: Any) -> PagedCache:
    given: dict[str, Any] = {"layers": LAYERS, "pages": 16, "page_size": 4, "rows": 4, "max_length": 64}
    return PagedCache(CacheContext(**given | {"dtype": torch.float32, "device": torch.device("cpu")} | changes))


def prompt(length: int, seed: int = 0) -> Tokens:
    return np.random.default_rng(seed).integers(0, 100, length)


def fill(cache: PagedCache, row: int, tokens: Tokens, salt: str = "") -> int:
    """Computes all of a row: what is stored of a token depends on the tokens up to it."""
    found = cache.open(row, tokens, salt)
    assert cache.reserve(row, len(tokens))
    size = cache.page_size
    for number, layer in enumerate(cache.layers):
        for part in layer.parts:
            for at in range(found, len(tokens)):
                value = float(tokens[: at + 1].sum() + 1000 * number + at)
                part[int(cache.block_tables[row, at // size]), at % size] = torch.full(
                    part.shape[2:], value % 120, dtype=part.dtype
                )
    cache.commit(row, tokens)
    return found


def stored(cache: PagedCache, tokens: Tokens, salt: str = "") -> list[torch.Tensor]:
    """What a row finds of its tokens, by part."""
    found = cache.open(3, np.append(tokens, 0), salt)
    assert found == len(tokens)
    pages = torch.tensor(cache.block_tables[3, : found // cache.page_size].tolist())
    parts = [part[pages].flatten(0, 1) for layer in cache.layers for part in layer.parts]
    cache.close(3)
    return parts


def test_the_cache_supports_holds() -> None:
    assert isinstance(made(), SupportsHolds)


@pytest.mark.parametrize(("own", "other"), [(4, 4), (4, 8), (8, 4), (2, 16)])
def test_what_one_cache_reads_another_one_writes_whatever_the_sizes_of_pages(own: int, other: int) -> None:
    tokens = prompt(33)
    there, here = made(page_size=own, pages=40), made(page_size=other, pages=40)
    fill(there, 0, tokens)
    source, target = there.hold(tokens[:-1], ""), here.hold(tokens[:-1], "")
    assert (source.length, target.length) == (32, 0)
    assert there.token_bytes == here.token_bytes
    assert there.layout == here.layout
    for start in range(0, 32, 16):
        assert target.write(start, source.read(start, start + 16))
        here.check()
    assert target.length == 32
    target.release()
    for mine, due in zip(stored(here, tokens[:-1]), stored(there, tokens[:-1]), strict=True):
        assert torch.equal(mine, due)


def test_codes_and_scales_travel() -> None:
    layers, tokens = (CacheLayer(kv_heads=2, head_dim=8),), prompt(9)
    there, here = (made(layers=layers, dtype=torch.int8, format=INT8) for _ in range(2))
    fill(there, 0, tokens)
    assert here.hold(tokens, "").write(0, there.hold(tokens, "").read(0, 8))
    for mine, due in zip(stored(here, tokens[:8]), stored(there, tokens[:8]), strict=True):
        assert torch.equal(mine, due)


def test_layouts_tell_apart_what_must_not_be_mixed() -> None:
    others = [
        {"dtype": torch.bfloat16},
        {"layers": LAYERS[:2]},
        {"layers": LAYERS[::-1]},
        {"layers": (LAYERS[0], LAYERS[0], LAYERS[2])},
        {"dtype": torch.int8, "format": INT8},
    ]
    assert len({made().layout, *(made(**other).layout for other in others)}) == 1 + len(others)
    assert made(page_size=8, pages=4).layout == made().layout


def test_a_held_prefix_outlives_want_of_pages() -> None:
    cache, tokens = made(), prompt(20)
    fill(cache, 0, tokens)
    cache.close(0)
    hold = cache.hold(tokens, "")
    assert (hold.length, cache.sizes().held, cache.sizes().owned) == (20, 5, 5)
    assert not cache.reserve(cache.open(1, prompt(60, 1), "") or 1, 48)  # 11 pages can be had
    assert cache.reset() == 0
    cache.close(1)
    cache.check()
    hold.release()
    hold.release()
    cache.check()
    assert (cache.sizes().held, cache.sizes().owned, cache.reset()) == (0, 0, 5)


def test_a_hold_grows_with_what_is_computed() -> None:
    cache, tokens = made(), prompt(20)
    hold = cache.hold(tokens, "a")
    fill(cache, 0, tokens[:11], "a")
    fill(cache, 1, tokens, "b")
    assert (hold.length, hold.extend()) == (0, 8)
    hold.release()
    cache.close(0)
    cache.close(1)
    cache.check()


def test_pages_that_came_from_elsewhere_meanwhile_are_kept() -> None:
    there, here, tokens = made(), made(), prompt(16)
    fill(there, 0, tokens)
    data = there.hold(tokens, "").read(0, 16)
    hold = here.hold(tokens, "")
    fill(here, 0, tokens[:9])
    assert hold.extend() == 8
    before = here.sizes().owned
    assert hold.write(0, data)
    assert (hold.length, here.sizes().owned) == (16, before + 2)
    here.check()


def test_a_full_cache_takes_nothing() -> None:
    there, here, tokens = made(), made(), prompt(16)
    fill(there, 0, tokens)
    fill(here, 0, prompt(56, 1))  # of 64
    hold = here.hold(tokens, "")
    assert not hold.write(0, there.hold(tokens, "").read(0, 16))
    assert hold.length == 0
    here.check()
    assert hold.write(0, there.hold(tokens, "").read(0, 8))
    here.check()


def test_what_is_written_is_copied_to_the_host() -> None:
    there, here, tokens = made(), made(host_pages=8), prompt(16)
    fill(there, 0, tokens)
    hold = here.hold(tokens, "")
    assert hold.write(0, there.hold(tokens, "").read(0, 16))
    assert here.sizes().host_cached == 4
    hold.release()
    here.check()


@pytest.mark.parametrize("seed", range(6))
def test_random_use(seed: int) -> None:
    """Rows and holds come and go; nothing is lost, and what is held stays."""
    choose = random.Random(seed)
    cache, holds, rows = made(), [], {}
    prompts = [prompt(choose.randrange(5, 30), 7) for _ in range(3)] + [prompt(20, 8), prompt(24, 9)]
    for _ in range(300):
        match choose.randrange(6):
            case 0 if len(rows) < 3:
                row, tokens = next(row for row in range(3) if row not in rows), choose.choice(prompts)
                found = cache.open(row, tokens, "")
                rows[row] = tokens
                if cache.reserve(row, len(tokens)):
                    cache.commit(row, tokens)
                assert found <= len(tokens)
            case 1 if rows:
                row = choose.choice(list(rows))
                cache.close(row)
                del rows[row]
            case 2 if len(holds) < 5:
                holds.append(cache.hold(choose.choice(prompts), ""))
            case 3 if holds:
                holds.pop(choose.randrange(len(holds))).release()
            case 4 if holds:
                hold = choose.choice(holds)
                before = hold.length
                assert hold.extend() >= before
            case 5:
                cache.reset()
            case _:
                pass
        cache.check()
        assert cache.sizes().held <= cache.sizes().owned
    for row in rows:
        cache.close(row)
    for hold in holds:
        hold.release()
    cache.check()
    assert cache.sizes().owned == 0
