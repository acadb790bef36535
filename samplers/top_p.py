"""Keep only the likeliest tokens that together reach a probability (nucleus sampling, arXiv:1904.09751)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from maxserve.core.interfaces import SamplerContext
    from maxserve.core.rows import Rows


@dataclass(frozen=True, slots=True)
class TopP:
    """Draw from the likeliest tokens whose probabilities add up to this much; 1 means all."""

    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.top_p <= 1.0:
            raise ValueError(f"top_p must be between 0 and 1, got {self.top_p}")


class TopPTransform:
    steady = True

    def prepare(self, rows: Rows) -> Tensor | None:
        wanted = [p.top_p for p in rows.params(TopP)]
        return None if all(p >= 1.0 for p in wanted) else rows.tensor(wanted)[:, None]

    def apply(self, logits: Tensor, wanted: Tensor) -> Tensor:
        ordered, order = logits.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities  # what the likelier tokens reach without this one
        dropped = (before >= wanted) & (wanted < 1.0)
        dropped[:, 0] = False  # the likeliest always stays
        return logits.masked_fill(dropped.scatter(-1, order, dropped), float("-inf"))


def build(context: SamplerContext) -> TopPTransform:
    return TopPTransform()
