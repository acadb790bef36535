"""Keep only the k likeliest tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from maxserve.interfaces.sampler import Rows, SamplerContext


@dataclass(frozen=True, slots=True)
class TopK:
    """Draw from this many of the likeliest tokens; -1 or 0 means all of them."""

    top_k: int = -1

    def __post_init__(self) -> None:
        if not isinstance(self.top_k, int) or self.top_k < -1:
            raise ValueError(f"top_k must be -1 (off) or a positive whole number, got {self.top_k}")


class TopKTransform:
    steady = True

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def prepare(self, rows: Rows) -> tuple[int, Tensor, Tensor] | None:
        """The largest k of the step, each row's own as an index into its sorted logits, and who has one; [rows, 1]."""
        wanted = [p.top_k if 0 < p.top_k < self._vocab_size else 0 for p in rows.params(TopK)]
        if not any(wanted):
            return None
        return max(wanted), rows.tensor([max(k, 1) for k in wanted])[:, None] - 1, rows.tensor(wanted)[:, None] > 0

    def apply(self, logits: Tensor, state: tuple[int, Tensor, Tensor]) -> Tensor:
        most, last, chosen = state
        smallest = logits.topk(most, dim=-1).values.gather(-1, last)
        return logits.masked_fill_((logits < smallest) & chosen, float("-inf"))


def build(context: SamplerContext) -> TopKTransform:
    return TopKTransform(context.vocab_size)
