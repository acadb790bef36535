"""The plan of a step: pages and rows of each sequence. Planned on the host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maxserve.interfaces.cache import CacheLayer
from maxserve.interfaces.inputs import Span, StepInputs

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sight:
    """How far back a token of a layer sees: at most `window` positions, not beyond the start of its own `chunk`."""

    window: int | None = None
    chunk: int | None = None

    @classmethod
    def of(cls, layer: CacheLayer) -> Sight:
        return cls(layer.window, layer.chunk)

    def low(self, position: int) -> int:
        """The first position that a token at `position` sees."""
        return int(self.lows(np.array([position]))[0])

    def lows(self, positions: Ints) -> Ints:
        """The same for many."""
        lows: Ints = np.zeros_like(positions) if self.window is None else np.maximum(positions - self.window + 1, 0)
        return lows if self.chunk is None else np.maximum(lows, positions // self.chunk * self.chunk)


@dataclass(frozen=True, slots=True)
class Share:
    """One sequence's part of a step: its new rows, and the positions `low` … `length` - 1 they look at.

    `runs` are (first slot, tokens) of neighbouring pages, in order; together they hold those positions.
    `bidirectional` are spans of positions, some of them new, whose tokens see each other.
    """

    first: int  # row of the step
    rows: int
    low: int
    length: int
    runs: tuple[tuple[int, int], ...]
    bidirectional: tuple[Span, ...] = ()

    def slots(self) -> Ints:
        """The slot of every position looked at."""
        slots, tokens = np.array(self.runs, dtype=np.int64).T
        ends = np.cumsum(tokens)
        found: Ints = np.arange(ends[-1]) + np.repeat(slots - ends + tokens, tokens)
        return found


def shares(inputs: StepInputs, page_size: int, sight: Sight) -> list[Share]:
    """The shares of a batch for layers whose tokens see that far, in the order of its rows."""
    rows = np.diff(inputs.query_start)
    lows = sight.lows(inputs.seq_lens - rows)
    runs = _runs(inputs.block_tables, lows, inputs.seq_lens, page_size)
    firsts, lengths = inputs.query_start.tolist(), inputs.seq_lens.tolist()
    bidirectional = inputs.bidirectional or ((),) * len(lengths)
    return [
        Share(first, count, low, length, next(runs), tuple(span for span in spans if span[1] > length - count))
        for first, count, low, length, spans in zip(
            firsts, rows.tolist(), lows.tolist(), lengths, bidirectional, strict=False
        )
    ]


def _runs(tables: NDArray[np.int32], lows: Ints, highs: Ints, page_size: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Per sequence, the runs that hold positions `lows` … `highs` - 1."""
    ends = -(-highs // page_size)
    pages = tables[:, : ends.max(initial=0)].astype(np.int64)
    columns = np.arange(pages.shape[1])
    inside = (columns >= (lows // page_size)[:, None]) & (columns < ends[:, None])
    starts = inside.copy()
    starts[:, 1:] &= ~(inside[:, :-1] & (np.diff(pages) == 1))
    row, column = np.nonzero(starts)
    last = np.append(row[1:] != row[:-1], True)[: len(row)]
    end = np.where(last, ends[row], np.append(column[1:], 0)[: len(row)])
    from_, to = np.maximum(column * page_size, lows[row]), np.minimum(end * page_size, highs[row])
    slots = pages[row, column] * page_size + from_ - column * page_size
    pairs = list(zip(slots.tolist(), (to - from_).tolist(), strict=True))
    stops = np.cumsum(np.bincount(row, minlength=len(tables))).tolist()
    return (tuple(pairs[a:b]) for a, b in zip([0, *stops], stops, strict=False))
