"""Make tokens of the prompt and the answer less likely (CTRL, arXiv:1909.05858)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maxserve.samplers.history import Entries, entries

if TYPE_CHECKING:
    from torch import Tensor

    from maxserve.interfaces.sampler import Rows, SamplerContext


@dataclass(frozen=True, slots=True)
class RepetitionPenalty:
    """Divide positive logits of tokens that came before by this, multiply negative ones; 1 changes none."""

    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0.0):
            raise ValueError(f"repetition_penalty must be above 0, got {self.repetition_penalty}")


class RepetitionPenaltyTransform:
    def prepare(self, rows: Rows) -> Entries | None:
        """Every occurrence of a token in prompt and answer."""
        return entries(rows, [p.repetition_penalty for p in rows.params(RepetitionPenalty)], 1.0, prompt=True)

    def apply(self, logits: Tensor, state: Entries) -> Tensor:
        import torch

        row, token, penalty = state
        seen = logits[row, token]
        # All occurrences of a token read the same logit and write the same one. A tiny penalty makes no infinity.
        changed = torch.where(seen < 0, seen * penalty, seen / penalty).clamp_(max=torch.finfo(logits.dtype).max)
        return logits.index_put_((row, token), changed.to(logits.dtype))


def build(context: SamplerContext) -> RepetitionPenaltyTransform:
    return RepetitionPenaltyTransform()
