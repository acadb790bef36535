"""The memory that unused prefixes make the cache touch, and how far the pages of a sequence lie side by side.

    python benchmarks/cache_pages.py

The paged cache alone, without a model: random prompts that share nothing, so many rows open at a time, a token per row
and step. Per scenario and budget: the most pages that rows held at once, the pages ever handed out, and runs of
neighbouring pages per finished sequence (mean and largest).
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from maxserve.core.interfaces.cache import CacheContext
from maxserve.plugins.cache.paged import PagedCache

PAGE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Rows open at once, and the tokens of prompt and answer of each."""

    name: str
    rows: int
    prompt: int
    answer: int


SCENARIOS = (
    Scenario(name="1 x 128 + 128", rows=1, prompt=128, answer=128),
    Scenario(name="8 x 128 + 64", rows=8, prompt=128, answer=64),
    Scenario(name="32 x 64 + 64", rows=32, prompt=64, answer=64),
    Scenario(name="4 x 1024 + 8", rows=4, prompt=1024, answer=8),
    Scenario(name="16 x up to 1500 + 300", rows=16, prompt=-1500, answer=-300),  # negative: up to that
)


class Load:
    """Rows that open, grow by a token a step, and close."""

    def __init__(self, scenario: Scenario, *, pages: int, soft: int | None) -> None:
        self.cache = PagedCache(
            CacheContext(
                layers=(),
                pages=pages,
                page_size=PAGE,
                rows=scenario.rows,
                max_length=2048,
                dtype=torch.float32,
                device=torch.device("cpu"),
                soft_pages=soft,
            )
        )
        self.touched: set[int] = set()
        self.most = 0
        self.runs: list[int] = []
        self._scenario = scenario
        self._random = random.Random(0)
        self._rows: dict[int, tuple[NDArray[np.int64], int]] = {}

    def run(self, sequences: int) -> None:
        """Until so many sequences have come to their end."""
        while len(self.runs) < sequences:
            for row in range(self._scenario.rows):
                if row not in self._rows:
                    self._open(row)
                self._grow(row)
            self.most = max(self.most, self.cache.sizes().owned)
        self.cache.check()

    def _open(self, row: int) -> None:
        prompt, answer = (self._length(n) for n in (self._scenario.prompt, self._scenario.answer))
        tokens = np.array([self._random.randrange(10**6) for _ in range(prompt + answer)], dtype=np.int64)
        self.cache.open(row, tokens[:prompt], "")
        self._rows[row] = (tokens, prompt)

    def _length(self, tokens: int) -> int:
        return tokens if tokens > 0 else self._random.randint(32, -tokens)

    def _grow(self, row: int) -> None:
        tokens, length = self._rows[row]
        assert self.cache.reserve(row, length)
        self.cache.commit(row, tokens[:length])
        if length < len(tokens):
            self._rows[row] = (tokens, length + 1)
            return
        pages = self.cache.block_tables[row, : -(-length // PAGE)]
        self.touched.update(pages.tolist())
        self.runs.append(1 + int((np.diff(pages) != 1).sum()))
        self.cache.close(row)
        del self._rows[row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=600, help="sequences per scenario")
    parser.add_argument("--pages", type=int, default=1365, help="pages in all (4 GiB for 3 MiB a page)")
    parser.add_argument("--soft", type=int, default=68, help="pages that unused prefixes may keep")
    options = parser.parse_args()
    print("| requests at once | budget | most held | touched | runs, mean | largest |\n|---|---|---|---|---|---|")
    for scenario in SCENARIOS:
        for soft in (None, options.soft):
            load = Load(scenario, pages=options.pages, soft=soft)
            load.run(options.sequences)
            cells = (scenario.name, soft or "none", load.most, len(load.touched))
            print("|", *(f"{cell} |" for cell in cells), f"{np.mean(load.runs):.2f} | {max(load.runs)} |")


if __name__ == "__main__":
    main()
