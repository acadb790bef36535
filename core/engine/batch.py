"""From a plan to one ragged Batch: numpy over whole arrays, no loop over tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from maxserve.core.nouns import Batch

if TYPE_CHECKING:
    from maxserve.core.computing import Attention
    from maxserve.core.engine.sequence import Sequence
    from maxserve.core.interfaces import Cache


class BatchBuilder:
    """Builds the batch of a step. Sequences keep the order of the plan."""

    def __init__(self, cache: Cache, attention: Attention, page_size: int, device: torch.device) -> None:
        self._cache = cache
        self._attention = attention
        self._page_size = page_size
        self._device = device

    def build(self, entries: Mapping[Sequence, int]) -> Batch:
        sequences = list(entries)
        counts = np.fromiter(entries.values(), dtype=np.int64, count=len(entries))
        starts = np.array([s.computed for s in sequences], dtype=np.int64)
        rows = np.array([s.row for s in sequences], dtype=np.int64)
        lengths = np.array([s.length for s in sequences], dtype=np.int64)
        query_start = np.zeros(len(sequences) + 1, dtype=np.int64)
        np.cumsum(counts, out=query_start[1:])
        seq_lens = starts + counts
        positions = np.arange(query_start[-1]) + np.repeat(starts - query_start[:-1], counts)
        pages = self._cache.tables[np.repeat(rows, counts), positions // self._page_size]
        return Batch(
            input_ids=self._to_device(_new_tokens(sequences, counts)),
            positions=self._to_device(positions),
            slots=self._to_device(pages.astype(np.int64) * self._page_size + positions % self._page_size),
            query_start=query_start,
            seq_lens=seq_lens,
            prompt_lens=np.array([s.prompt_length for s in sequences], dtype=np.int64),
            tables=self._cache.tables[rows, : -(-int(seq_lens.max()) // self._page_size)],
            logit_rows=self._to_device(query_start[1:][seq_lens == lengths] - 1),
            attention=self._attention,
        )

    def _to_device(self, array: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)


def _new_tokens(
    sequences: list[Sequence], counts: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The tokens to compute, one after another. Decoding sequences, the many, bring one known token each."""
    if len(sequences) == int(counts.sum()):
        known = [s.last if s.computed + 1 == s.length else int(s.buffer[s.computed]) for s in sequences]
        return np.array(known, dtype=np.int64)
    parts = [s.buffer[s.computed : s.computed + n] for s, n in zip(sequences, counts.tolist(), strict=True)]
    return np.concatenate(parts)
