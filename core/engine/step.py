"""One step: whose tokens are computed in one forward pass, and who draws a token after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from maxserve.core.engine.ledger import Ledger
    from maxserve.core.engine.sequence import Sequence

# What stands for the token of a row:
INVALID = -1  # whose logits hold nothing to choose from
NO_ALLOWED_TOKEN = -2  # which the request's own params left nothing
FAILED = -3  # whose request asked for a sampler that raised


class Step:
    """B sequences in the order of the plan, as the ledger knows them when the step is made.

    Sequence i computes its tokens `starts[i]` … `stops[i]` - 1; `draws` are the indices of those who draw the token
    that follows, which `drawing` are. The last `drafts[i]` of its tokens are drafts: it draws one token more for each,
    instead of the draft or after the last. `drafts` is None where no sequence has any.
    """

    sequences: list[Sequence]
    slots: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    __slots__ = ("decodes", "drafts", "drawing", "draws", "ledger", "sequences", "slots", "starts", "stops")

    def __init__(
        self, entries: Mapping[Sequence, int], ledger: Ledger, before: Step | None = None, *, drafting: bool = False
    ) -> None:
        self.ledger = ledger
        sequences = list(entries)
        one_each = sum(entries.values()) == len(sequences)
        counts = 1 if one_each else np.fromiter(entries.values(), dtype=np.int64, count=len(sequences))
        if before is not None and before.sequences == sequences:  # who decodes today mostly did so before
            self.sequences, self.slots = before.sequences, before.slots
        else:
            self.sequences = sequences
            self.slots = np.array([s.slot for s in sequences], dtype=np.int64)
        self.starts = ledger.computed[self.slots]
        self.stops = self.starts + counts
        self.drafts = self._drafts() if drafting and not one_each else None
        self._find_draws(one_each=one_each)

    def _drafts(self) -> NDArray[np.int64] | None:
        drafts: NDArray[np.int64] = np.maximum(self.stops - self.ledger.length[self.slots], 0)
        return drafts if drafts.any() else None

    def _find_draws(self, *, one_each: bool) -> None:
        self.draws: NDArray[np.int64] = (self.stops >= self.ledger.length[self.slots]).nonzero()[0]
        all_of_them = len(self.draws) == len(self.slots)
        self.decodes = all_of_them and one_each
        self.drawing = self.sequences if all_of_them else [self.sequences[i] for i in self.draws.tolist()]

    @property
    def size(self) -> int:
        return len(self.sequences)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of prompts that it computes; looked up before the slots can be another's."""
        ends = self.ledger.prompt_length[self.slots]
        prompts = (self.starts < ends).nonzero()[0]
        return int((np.minimum(self.stops, ends) - self.starts)[prompts].sum()) if len(prompts) else 0

    @property
    def draw_counts(self) -> NDArray[np.int64]:
        """How many tokens each of those who draw draws."""
        counts: NDArray[np.int64] = np.ones(len(self.draws), dtype=np.int64)
        return counts if self.drafts is None else counts + self.drafts[self.draws]

    @property
    def drawing_slots(self) -> NDArray[np.int64]:
        return self.slots if self.drawing is self.sequences else self.slots[self.draws]
