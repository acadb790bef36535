"""Numbers of all sequences in arrays: a step reads and writes those of all its sequences at once.

The tokens of a sequence that holds a row, while a step may be on its way:

    0 ──────────────── computed ────────── length ────────── limit
    │ keys and values   │ its last token    │ where it ends
    │ are in the row,   │ may be on its way │
    │ or on their way   │ too (`drawn_at`)  │
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NO_ROW = -1
KNOWN = -1  # in `drawn_at`: no token of the sequence is on its way
NEVER = -1  # in `launched`: no step had it yet


class Ledger:
    """One slot per sequence, for all its life. Growing replaces the arrays: keep none of them over an `open`."""

    row: NDArray[np.int64]
    """Its cache row, or NO_ROW."""
    prompt_length: NDArray[np.int64]
    length: NDArray[np.int64]
    limit: NDArray[np.int64]
    computed: NDArray[np.int64]
    commit_at: NDArray[np.int64]
    """How many tokens in its row make the next page full."""
    last: NDArray[np.int64]
    """Its last token that is known."""
    drawn_at: NDArray[np.int64]
    """Its index among the tokens that the step on its way draws, or KNOWN."""
    launched: NDArray[np.int64]
    """The number of the last step it was part of, or NEVER."""
    images_end: NDArray[np.int64]
    """Where in its prompt the last image ends; 0 without one."""
    shift: NDArray[np.int64]
    """How far the positions that rope applies lie from its own, after the prompt."""
    alive: NDArray[np.bool_]
    """Whether its tokens are still waited for."""
    eos_ends: NDArray[np.bool_]
    """Whether the model's own end tokens end it."""
    needs_check: NDArray[np.bool_]
    """Whether its outputs are looked at one by one: it has end tokens of its own, or wants logprobs of its prompt."""

    NUMBERS = (
        "row",
        "prompt_length",
        "length",
        "limit",
        "computed",
        "commit_at",
        "last",
        "drawn_at",
        "launched",
        "images_end",
        "shift",
    )
    FLAGS = ("alive", "eos_ends", "needs_check")

    def __init__(self, slots: int = 16) -> None:
        for name in self.NUMBERS:
            setattr(self, name, np.zeros(slots, dtype=np.int64))
        for name in self.FLAGS:
            setattr(self, name, np.zeros(slots, dtype=np.bool_))
        self._free = list(reversed(range(slots)))

    def open(self) -> int:
        """A slot for a new sequence, which holds no row yet."""
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self.row[slot], self.computed[slot] = NO_ROW, 0
        self.drawn_at[slot], self.launched[slot] = KNOWN, NEVER
        self.alive[slot] = True
        return slot

    def extend(self, slots: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """So many tokens more of each are drawn and, but for the last, computed: drafts that were accepted."""
        self.computed[slots] += counts
        self.length[slots] += counts

    def close(self, slot: int) -> None:
        """Gives a slot back; no step on its way may refer to it."""
        self._free.append(slot)

    def _grow(self) -> None:
        slots = len(self.row)
        for name in (*self.NUMBERS, *self.FLAGS):
            column = getattr(self, name)
            setattr(self, name, np.concatenate((column, np.zeros_like(column))))
        self._free = list(reversed(range(slots, 2 * slots)))
