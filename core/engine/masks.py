"""Which tokens do the grammars of a step allow? One bit per token, for the rows that have a grammar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from maxserve.core.engine.guides import Guide

NOTHING = -1  # INVALID of draw.py


class Mask:
    """Allows tokens twice: before the transforms, so that top-k and the like choose among the allowed ones, and after
    them, so that none can bring back what is not allowed.
    """

    def __init__(self, rows: torch.Tensor, packed: torch.Tensor, table: torch.Tensor, *, everyone: bool) -> None:
        self._rows = rows  # [C] int64, indices of the constrained rows
        self._packed = packed  # [C, words] int32
        self._table = table  # see `bars_of_bytes`
        self._everyone = everyone
        self._bars: torch.Tensor | None = None

    def likeliest(self, logits: torch.Tensor) -> torch.Tensor:
        """The likeliest token of each row of logits that were masked, for where transforms leave nothing else."""
        best, tokens = logits.max(dim=-1)
        return torch.where(best.isfinite(), tokens, NOTHING)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits [rows, vocab] with -inf for what is not allowed; in place."""
        bars = self._unpacked(logits.shape[-1])
        return logits.add_(bars) if self._everyone else logits.index_add_(0, self._rows, bars)

    def settle(self, tokens: torch.Tensor, spare: torch.Tensor) -> torch.Tensor:
        """`tokens` with those of `spare` where transforms left a constrained row nothing: the grammar wins."""
        spare_here = torch.full_like(tokens, NOTHING)
        spare_here[self._rows] = spare[self._rows]
        return torch.where(tokens < 0, spare_here, tokens)

    def _unpacked(self, vocab: int) -> torch.Tensor:
        """What to add to the logits: 0 or -inf, [C, vocab]. On a CPU that is several times faster than filling."""
        if self._bars is None:
            bars = self._table.index_select(0, self._packed.view(torch.uint8).flatten().int())
            self._bars = bars.view(len(self._rows), -1)[:, :vocab]
        return self._bars


class Masks:
    """Fills the masks of steps."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._table = bars_of_bytes().to(device)

    def of(self, guides: Mapping[int, Guide], rows: int) -> Mask | None:
        """What the grammars allow next, of so many rows those that have one, by row; None when none has."""
        if not guides:
            return None
        words = next(iter(guides.values())).words
        packed: NDArray[np.int32] = np.zeros((len(guides), words), dtype=np.int32)
        for line, guide in zip(packed, guides.values(), strict=True):
            guide.fill(line)
        return Mask(
            torch.tensor(list(guides), device=self._device),
            torch.from_numpy(packed).to(self._device),
            self._table,
            everyone=len(guides) == rows,
        )


def bars_of_bytes() -> torch.Tensor:
    """For each value of a byte of a mask, what its eight tokens' logits have added: 0 or -inf, [256, 8]."""
    allowed = torch.arange(256)[:, None] >> torch.arange(8) & 1
    return torch.zeros(256, 8).masked_fill_(allowed == 0, -torch.inf)
