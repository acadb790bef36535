"""The requests that fit into the same memory when pages that windows have passed are given back.

    python benchmarks/window_pages.py

Gemma 3's smallest text model: 26 layers with one key head of 256 numbers, of which every sixth sees everything and the
others 512 tokens. The caches alone, without a model: requests of one length come, each is computed in chunks and stays,
until the next one finds no pages. `before` keeps all layers' pages in one table, as for models without windows.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from maxserve.core.interfaces.cache import CacheContext, CacheGroup, CacheLayer
from maxserve.plugins.cache.paged import paged_cache
from maxserve.plugins.cache.paged.groups import cache_groups

WINDOW, LAYERS, EVERY, HEAD = 512, 26, 6, 256
PAGE, CHUNK, VALUE = 64, 2048, 2  # tokens, tokens, bytes


def layers() -> tuple[CacheLayer, ...]:
    windows = (None if layer % EVERY == EVERY - 1 else WINDOW for layer in range(LAYERS))
    return tuple(CacheLayer(kv_heads=1, head_dim=HEAD, window=window) for window in windows)


def fitting(memory: int, length: int, groups: tuple[CacheGroup, ...]) -> int:
    """Requests of `length` tokens that are held at once in so many bytes."""
    of_a_page = max((len(group.layers) for group in groups), default=LAYERS)
    pages = memory // (of_a_page * 2 * HEAD * VALUE * PAGE)
    context = CacheContext(
        layers=(),
        pages=pages,
        page_size=PAGE,
        rows=pages,
        max_length=length,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
        share_prefixes=False,
        groups=groups,
    )
    cache, tokens = paged_cache(context), np.zeros(length, dtype=np.int64)
    for row in range(pages):
        cache.open(row, tokens, "")
        for end in [*range(CHUNK, length, CHUNK), length]:
            if not cache.reserve(row, end):
                return row
            cache.commit(row, tokens[:end])
    return pages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", type=float, default=4.0, help="GiB of the cache")
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 1024, 4096, 8192, 32768], help="tokens")
    options = parser.parse_args()
    memory = int(options.memory * 2**30)
    print(
        "| tokens of a request | fit before | fit now | tokens before | tokens now | times |\n|---|---|---|---|---|---|"
    )
    for length in options.lengths:
        before, now = (fitting(memory, length, groups) for groups in ((), cache_groups(layers(), length)))
        print(f"| {length} | {before} | {now} | {before * length} | {now * length} | {now / before:.2f} |", flush=True)


if __name__ == "__main__":
    main()
