"""The mask of all rows of a step. One mask for all rows of all sequences, of which every call is a slice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maxserve.interfaces.inputs import Span
from maxserve.plugins.attention.plan import Sight


class CausalMask:
    """0 where row i of a block may look, -inf where not; a token sees `window` positions, its own included.

    A block of m rows from position p on, looking at positions low … p + m - 1, needs a band that depends only on the
    distance of row and position. So one band, `reach` columns before the diagonal and `rows` after, serves all: the
    slice [:m, reach - (p - low) : reach + m]. It grows when a step asks for more.
    """

    def __init__(self, rows: int, window: int | None, device: torch.device) -> None:
        self.rows = rows
        self.window = window
        self.device = device
        self.reach = 0
        self.band: Tensor | None = None

    def slice(self, rows: int, before: int, dtype: torch.dtype) -> Tensor:
        """The mask [rows, before + rows] of a block with `before` visible positions ahead of it."""
        if self.band is None or self.band.dtype != dtype or before > self.reach:
            self.reach = max(self.reach, before + before // 2)
            self.band = self._made(dtype)
        return self.band[:rows, self.reach - before : self.reach + rows]

    def _made(self, dtype: torch.dtype) -> Tensor:
        row = torch.arange(self.rows, device=self.device)[:, None]
        column = torch.arange(-self.reach, self.rows, device=self.device)
        hidden = column > row
        if self.window is not None:
            hidden |= column <= row - self.window
        return torch.zeros(hidden.shape, dtype=dtype, device=self.device).masked_fill_(hidden, float("-inf"))


def with_spans(rows: range, seen: range, sight: Sight, spans: Sequence[Span], like: Tensor) -> Tensor:
    """The mask [rows, seen] of some positions: a token sees those before it, and all of a span that it lies in.

    How far back it sees is bounded by its `sight` all the same. The tensor is as `like`.
    """
    own = torch.arange(rows.start, rows.stop, device=like.device)[:, None]
    other = torch.arange(seen.start, seen.stop, device=like.device)
    hidden = other > own
    for first, last in spans:
        hidden &= ~((own >= first) & (own < last) & (other >= first) & (other < last))
    if sight.window is not None:
        hidden |= other <= own - sight.window
    if sight.chunk is not None:
        hidden |= other < own // sight.chunk * sight.chunk
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))
