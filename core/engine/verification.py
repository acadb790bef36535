"""The verification of drafts: which of the drawn tokens continue their sequences.

A sequence with k drafts draws k + 1 tokens from the model's own distributions, each with the history and the grammar
that it would have without drafts. As long as a drawn token equals its draft, the next one was drawn after the right
history. How a row draws is one of two ways, both of them exact for any sampling setting:

- With the random number that it would have without drafts. The text is then the very same, whatever the drafts are:
  so draw requests with a seed, greedy ones, and rows whose drafts came about in an unknown way.
- So that it equals its draft as often as can be, where it is known what the draft was drawn from: `DrawnDrafts`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from collections.abc import Sequence as SequenceOf

    from numpy.typing import NDArray

    from maxserve.core.engine.sequence import DrawnFrom, Sequence
    from maxserve.core.engine.step import Step


VALUES_AT_ONCE = 1 << 24  # in what a draw needs beside logits and weights, 8 bytes each: 110 rows of 150 000 tokens


class _Part(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Some drafts: their rows among those that are drawn, tokens, random numbers, what they were drawn from."""

    rows: torch.Tensor
    tokens: torch.Tensor
    uniforms: torch.Tensor
    probs: SequenceOf[DrawnFrom]

    @classmethod
    def of(cls, drafts: SequenceOf[tuple[int, int, float, DrawnFrom]]) -> _Part:
        rows, tokens, uniforms, probs = zip(*drafts, strict=True)
        device = probs[0].table.device
        return cls(
            rows=torch.tensor(rows, device=device),
            tokens=torch.tensor(tokens, device=device),
            uniforms=torch.tensor(uniforms, dtype=torch.float64, device=device),
            probs=probs,
        )

    def verify(self, weights: torch.Tensor) -> torch.Tensor:
        """Which drafts [R] stand; in their rows of the weights is then what is drawn from where they do not."""
        wanted, left = weights[self.rows], self._drawn_from()
        likely, drawn = (each.gather(1, self.tokens[:, None])[:, 0].double() for each in (wanted, left))
        left.sub_(wanted).neg_().clamp_(min=0)
        wanted.mul_(left.sum(dim=-1, keepdim=True) <= 0)  # nothing is left where both are the same
        weights[self.rows] = left.add_(wanted)
        return self.uniforms * drawn < likely

    def _drawn_from(self) -> torch.Tensor:
        """A copy of the distributions [R, vocab]."""
        table = self.probs[0].table
        if all(each.table is table for each in self.probs):
            return table[torch.tensor([each.row for each in self.probs], device=table.device)]
        return torch.stack([each.table[each.row] for each in self.probs])


class DrawnDrafts:
    """Drafts with what they were drawn from, for rejection sampling (Leviathan et al., arXiv 2211.17192)."""

    def __init__(self, parts: SequenceOf[_Part]) -> None:
        self._parts = parts

    @classmethod
    def of(cls, drafts: Iterable[tuple[int, int, float, DrawnFrom]]) -> DrawnDrafts:
        """By row among those that are drawn, token, random number that decides whether it stands, and distribution."""
        all_drafts = list(drafts)
        rows = _rows_at_once(all_drafts[0][3].table)
        return cls([_Part.of(all_drafts[start : start + rows]) for start in range(0, len(all_drafts), rows)])

    def draw(self, logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        """One token per row of logits [rows that are drawn, vocab].

        Of a draft d with p of the row and q of the draft it is d with probability min(1, p(d) / q(d)), and otherwise
        drawn from what p has more than q; elsewhere drawn from p. Rejected drafts are never drawn again in their row.
        """
        weights = logits.softmax(dim=-1)
        standing = [part.verify(weights) for part in self._parts]
        found = draw_by_weights(weights, uniforms)
        for part, stands in zip(self._parts, standing, strict=True):
            found[part.rows] = torch.where(stands, part.tokens, found[part.rows])
        return found


def draw_by_weights(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The token at which the cumulated share of the weights [rows, vocab] first exceeds each row's number in [0, 1).

    float64, because the rounding of a float32 sum over 150 000 tokens would be visible in the distribution.
    """
    rows = _rows_at_once(weights)
    if len(weights) > rows:
        slices = [slice(start, start + rows) for start in range(0, len(weights), rows)]
        return torch.cat([draw_by_weights(weights[each], uniforms[each]) for each in slices])
    cumulated = weights.cumsum(dim=-1, dtype=torch.float64)
    aims = uniforms[:, None] * cumulated[:, -1:]
    found = torch.searchsorted(cumulated, aims, right=True)[:, 0]
    return found.clamp_(max=weights.shape[-1] - 1)


def _rows_at_once(weights: torch.Tensor) -> int:
    """Rows of weights [rows, vocab] that are worked on together."""
    return max(VALUES_AT_ONCE // weights.shape[-1], 1)


class Verification:
    """The rows of logits of a step with drafts, and after `accept`, which of their tokens stand.

    `rows` has the sequence of each row; `accepted` are the rows whose tokens stand, `counts` how many of them each of
    those who draw has.
    """

    def __init__(self, step: Step) -> None:
        self._drawing = step.drawing
        counts = step.draw_counts
        self._offsets: list[int] = np.concatenate(([0], np.cumsum(counts))).tolist()
        self.rows = [s for s, count in zip(self._drawing, counts.tolist(), strict=True) for _ in range(count)]
        self.accepted: list[int] = []
        self.counts: NDArray[np.int64] = np.ones_like(counts)

    def accept(self, tokens: SequenceOf[int], uniforms: Mapping[int, float]) -> None:
        """Decides by the tokens of all rows. `uniforms` are the random numbers by the rows that were drawn with one.

        The numbers of rows that do not stand go back to their sequences.
        """
        for i, (sequence, (start, stop)) in enumerate(zip(self._drawing, pairwise(self._offsets), strict=True)):
            end = start + _accepted(sequence, tokens[start:stop])
            self.counts[i] = end - start
            self.accepted.extend(range(start, end))
            sequence.put_back([uniforms[row] for row in range(end, stop) if row in uniforms])


def _accepted(sequence: Sequence, tokens: SequenceOf[int]) -> int:
    """How many of the tokens that a sequence drew stand: those after equal drafts, up to one that ends it."""
    for count, (token, draft) in enumerate(zip(tokens, sequence.drafts, strict=False), start=1):
        if token != draft or token in sequence.ends:
            return count
    return len(tokens)
