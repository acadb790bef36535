"""A step on its way: from the moment its batch is built until its tokens are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from maxserve.core.engine.ledger import KNOWN
from maxserve.core.engine.logprobs import PromptScores
from maxserve.core.engine.step import FAILED

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Sequence as SequenceOf

    from numpy.typing import NDArray

    from maxserve.core.engine.sequence import Sequence
    from maxserve.core.engine.step import Step
    from maxserve.core.interfaces.inputs import StepInputs
    from maxserve.core.interfaces.request import TokenLogprob
    from maxserve.core.interfaces.runner import ModelOutput


NO_TOKENS: NDArray[np.int64] = np.empty(0, dtype=np.int64)


class InFlightStep:
    """`launch` writes to the ledger what will be when the step is complete; carries tokens, or why there are none.

    Each of those who draw has one token, and all drafts are rejected, unless `accept` says otherwise.

    What a plan sees after the launch are the sequences as they will be, all but the drawn tokens, which it does not
    need. That is why a step can be planned before the one before it is done.
    """

    def __init__(self, step: Step, number: int) -> None:
        self.step = step
        self.number = number
        self.rows: NDArray[np.int64] = step.ledger.row[step.slots]
        self.drawing = step.drawing
        self.slots = step.drawing_slots  # of those who draw
        self.tokens = NO_TOKENS  # theirs, one after another
        self.owners: SequenceOf[Sequence] = step.drawing  # of each token
        self.counts: NDArray[np.int64] | None = None  # how many tokens each of those who draw has; None: one
        self.logprobs: Mapping[int, TokenLogprob] = {}  # of some tokens, by their index, for who wants them
        self.prompts = PromptScores.of(step)
        self.prompt_tokens = step.prompt_tokens
        self.inputs: StepInputs | None = None
        self.output: ModelOutput | None = None  # once it was computed, and did not fail
        self.error: Exception | None = None
        self.faults: Mapping[Sequence, str] = {}  # why one of those who draw has failed, though the step has not
        self.stops: NDArray[np.int64] = step.stops if step.drafts is None else step.stops - step.drafts
        self.lengths: NDArray[np.int64] = self.stops[step.draws] + 1  # of those who draw, new tokens included

    def launch(self) -> list[Sequence]:
        """Returns those whose last token it draws."""
        ledger, step = self.step.ledger, self.step
        ledger.computed[step.slots] = self.stops
        ledger.launched[step.slots] = self.number
        ledger.length[self.slots] = self.lengths
        ledger.drawn_at[self.slots] = np.arange(len(self.slots))
        last = self.lengths >= ledger.limit[self.slots]
        return [self.drawing[i] for i in last.nonzero()[0].tolist()]

    def accept(self, owners: list[Sequence], counts: NDArray[np.int64]) -> None:
        """Those who draw have so many tokens each: drafts were accepted."""
        more = counts - 1
        self.owners, self.counts = owners, counts
        self.step.ledger.extend(self.slots, more)
        self.stops[self.step.draws] += more
        self.lengths = self.lengths + more

    def verified(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of those who draw, how many drafts each had, and how many of them stood."""
        drafts = self.step.drafts
        none = np.zeros(len(self.slots), dtype=np.int64)
        return none if drafts is None else drafts[self.step.draws], none if self.counts is None else self.counts - 1

    def fail(self, faults: Mapping[Sequence, str]) -> None:
        """Ends some of those who draw, and no others, with what went wrong for them; `tokens` are there."""
        self.faults = faults
        if faults:
            self.tokens = np.where([sequence in faults for sequence in self.owners], FAILED, self.tokens)

    def complete(self) -> NDArray[np.int64]:
        """Notes what was written and drawn; the indices of the sequences that have filled a page with it.

        Who died or lost the row meanwhile is left as it is.
        """
        ledger, step = self.step.ledger, self.step
        ledger.last[self.slots] = self.tokens if self.counts is None else self.tokens[np.cumsum(self.counts) - 1]
        settled = ledger.launched[self.slots] == self.number  # none of a later step, whose token is not known yet
        ledger.drawn_at[self.slots[settled]] = KNOWN
        full: NDArray[np.int64] = (self.stops >= ledger.commit_at[step.slots]).nonzero()[0]
        slots = step.slots[full]
        here: NDArray[np.bool_] = ledger.alive[slots] & (ledger.row[slots] == self.rows[full])
        return full[here]
