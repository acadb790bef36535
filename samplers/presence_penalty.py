"""Make tokens less likely once they were generated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maxserve.samplers.history import Entries, entries

if TYPE_CHECKING:
    from torch import Tensor

    from maxserve.interfaces.sampler import Rows, SamplerContext


@dataclass(frozen=True, slots=True)
class PresencePenalty:
    """Take this off the logit of every token that was generated; negative values add."""

    presence_penalty: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.presence_penalty) and -2.0 <= self.presence_penalty <= 2.0):
            raise ValueError(f"presence_penalty must be between -2 and 2, got {self.presence_penalty}")


class PresencePenaltyTransform:
    def prepare(self, rows: Rows) -> Entries | None:
        """Every occurrence of a token in the answer."""
        return entries(rows, [p.presence_penalty for p in rows.params(PresencePenalty)], 0.0, prompt=False)

    def apply(self, logits: Tensor, state: Entries) -> Tensor:
        row, token, penalty = state
        # All occurrences of a token read the same logit and write the same one.
        return logits.index_put_((row, token), logits[row, token] - penalty.to(logits.dtype))


def build(context: SamplerContext) -> PresencePenaltyTransform:
    return PresencePenaltyTransform()
