"""Keep only the likeliest tokens that together reach a probability (nucleus sampling, arXiv:1904.09751)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from maxserve.interfaces.sampler import Rows, SamplerContext

BUCKETS = 4096
PER_NAT = 128.0  # buckets for each factor e of probability: what falls beyond e**-32 is in the last
BLOCK = 1 << 20  # logits at once: what is made of them stays in the processor's cache


@dataclass(frozen=True, slots=True)
class TopP:
    """Draw from the likeliest tokens whose probabilities add up to this much; 1 means all."""

    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.top_p <= 1.0:
            raise ValueError(f"top_p must be between 0 and 1, got {self.top_p}")


class TopPTransform:
    steady = True

    def prepare(self, rows: Rows) -> Tensor:
        return rows.tensor([p.top_p for p in rows.params(TopP)])[:, None]

    def apply(self, logits: Tensor, wanted: Tensor) -> Tensor:
        # A device sorts faster than it tells the host how many tokens there are to look at.
        drop = _by_sorting if logits.device.type != "cpu" or logits.shape[-1] <= BUCKETS else _by_buckets
        rows = max(1, BLOCK // logits.shape[-1]) if drop is _by_buckets else len(logits)
        for first in range(0, len(logits), rows):
            some, reach = logits[first : first + rows], wanted[first : first + rows]
            some.masked_fill_(drop(some, reach) & (reach < 1.0), float("-inf"))
        return logits


def _by_sorting(logits: Tensor, wanted: Tensor) -> Tensor:
    """Which tokens are dropped, [rows, vocab]."""
    ordered, order = logits.sort(dim=-1, descending=True)
    beyond = _beyond(ordered.softmax(dim=-1), wanted)
    return beyond.scatter(-1, order, beyond)


def _by_buckets(logits: Tensor, wanted: Tensor) -> Tensor:
    """The same without a sort of the vocabulary: of tokens that are nearly as likely as where the border runs only."""
    best = logits.amax(dim=-1, keepdim=True)
    probabilities = logits.softmax(dim=-1)
    bucket = (best - logits).mul_(PER_NAT).clamp_(max=BUCKETS - 1).long().clamp_(min=0)
    mass = probabilities.new_zeros(len(logits), BUCKETS).scatter_add_(-1, bucket, probabilities)
    likelier = mass.cumsum(dim=-1) - mass  # what the buckets before each reach together
    last = ((likelier < wanted).sum(dim=-1, keepdim=True) - 1).clamp_(min=0)
    inside = bucket == last
    among, order = probabilities.masked_fill(~inside, -1.0).topk(int(inside.sum(dim=-1).max()))
    dropped = bucket > last
    beyond = _beyond(among, wanted - likelier.gather(-1, last))
    return dropped.scatter(-1, order, beyond.where(among >= 0, dropped.gather(-1, order)))


def _beyond(ordered: Tensor, wanted: Tensor) -> Tensor:
    """Which of the probabilities, the largest first, come when `wanted` is reached; the first one never does."""
    beyond = ordered.cumsum(dim=-1) - ordered >= wanted
    beyond[:, 0] = False
    return beyond


def build(context: SamplerContext) -> TopPTransform:
    return TopPTransform()
