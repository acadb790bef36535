"""Drop tokens much less likely than the likeliest (arXiv:2407.01082)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from maxserve.interfaces.sampler import Rows, SamplerContext


@dataclass(frozen=True, slots=True)
class MinP:
    """Drop tokens less likely than this share of the likeliest one's probability; 0 drops none."""

    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_p <= 1.0:
            raise ValueError(f"min_p must be between 0 and 1, got {self.min_p}")


class MinPTransform:
    steady = True

    def prepare(self, rows: Rows) -> Tensor:
        """How far below the best logit a token may lie, [rows, 1]."""
        return rows.tensor([-math.log(p.min_p) if p.min_p else math.inf for p in rows.params(MinP)])[:, None]

    def apply(self, logits: Tensor, distance: Tensor) -> Tensor:
        # p < min_p * max(p) is the same as logit < max(logit) + log(min_p): no softmax is needed.
        floor = logits.amax(dim=-1, keepdim=True) - distance
        return logits.masked_fill(logits < floor, float("-inf"))


def build(context: SamplerContext) -> MinPTransform:
    return MinPTransform()
