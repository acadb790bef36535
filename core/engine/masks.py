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

    def __init__(self, rows: torch.Tensor, packed: torch.Tensor, *, everyone: bool) -> None:
        self._rows = rows  # [C] int64, indices of the constrained rows
        self._packed = packed  # [C, words] int32
        self._everyone = everyone
        self._banned: torch.Tensor | None = None  # [C, vocab] bool

    def likeliest(self, logits: torch.Tensor) -> torch.Tensor:
        """The likeliest token of each row of logits that were masked, for where transforms leave nothing else."""
        best, tokens = logits.max(dim=-1)
        return torch.where(best.isfinite(), tokens, NOTHING)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits [rows, vocab] with -inf for what is not allowed; in place."""
        banned = self._unpacked(logits.shape[-1])
        if self._everyone:
            return logits.masked_fill_(banned, -torch.inf)
        logits[self._rows] = logits[self._rows].masked_fill_(banned, -torch.inf)
        return logits

    def settle(self, tokens: torch.Tensor, spare: torch.Tensor) -> torch.Tensor:
        """`tokens` with those of `spare` where transforms left a constrained row nothing: the grammar wins."""
        spare_here = torch.full_like(tokens, NOTHING)
        spare_here[self._rows] = spare[self._rows]
        return torch.where(tokens < 0, spare_here, tokens)

    def _unpacked(self, vocab: int) -> torch.Tensor:
        if self._banned is None:
            count = len(self._rows)
            bits = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=self._packed.device)
            parts = self._packed.view(torch.uint8).unsqueeze(-1) & bits  # [C, bytes, 8]
            self._banned = (parts == 0).view(count, -1)[:, :vocab]
        return self._banned


class Masks:
    """Fills the masks of steps."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

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
            everyone=len(guides) == rows,
        )
