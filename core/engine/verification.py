"""The verification of drafts: which of the drawn tokens continue their sequences.

A sequence with k drafts draws k + 1 tokens from the model's own distributions, each with the history, the grammar and
the random number that it would have without drafts. As long as a drawn token equals its draft, the next
one was drawn after the right history. So the text does not depend on the drafts, for any sampling setting
(architecture: draw and compare; for drafts without probabilities it accepts as many as rejection sampling does,
Leviathan et al., arXiv 2211.17192).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Sequence as SequenceOf

    from numpy.typing import NDArray

    from maxserve.core.engine.sequence import Sequence
    from maxserve.core.engine.step import Step


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
