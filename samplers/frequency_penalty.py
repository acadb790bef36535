"""Make tokens less likely each time they were generated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maxserve.samplers.history import Entries, entries

if TYPE_CHECKING:
    from torch import Tensor

    from maxserve.interfaces.sampler import Rows, SamplerContext


@dataclass(frozen=True, slots=True)
class FrequencyPenalty:
    """Take this off a token's logit each time it was generated; negative values add."""

    frequency_penalty: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.frequency_penalty) and -2.0 <= self.frequency_penalty <= 2.0):
            raise ValueError(f"frequency_penalty must be between -2 and 2, got {self.frequency_penalty}")


class FrequencyPenaltyTransform:
    def prepare(self, rows: Rows) -> Entries | None:
        """Every occurrence of a token in the answer."""
        return entries(rows, [p.frequency_penalty for p in rows.params(FrequencyPenalty)], 0.0, prompt=False)

    def apply(self, logits: Tensor, state: Entries) -> Tensor:
        row, token, penalty = state
        return logits.index_put_((row, token), -penalty.to(logits.dtype), accumulate=True)


def build(context: SamplerContext) -> FrequencyPenaltyTransform:
    return FrequencyPenaltyTransform()
