"""Prompt lookup: the text goes on as it did when its last tokens were there before (method `ngram`).

The longest run of last tokens, of `--ngram.prompt-lookup-max` down to `--ngram.prompt-lookup-min`, that the prompt or
the text had before is looked for, the latest place first, and what followed there is proposed (Saxena, "Prompt Lookup
Decoding", 2023). Answers that repeat their prompts gain: summaries, edits, code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from maxserve.plugins.speculation.histories import WIDTH, Histories, History
from maxserve.plugins.speculation.options import NgramSettings

if TYPE_CHECKING:
    from maxserve.interfaces.speculator import DraftStep, SpeculatorContext

TRIED = 16  # places that are compared


class NgramHistory(History):
    """A history that is looked up in for runs of `longest` down to `shortest` tokens."""

    def __init__(self, longest: int, shortest: int) -> None:
        super().__init__(shortest)
        self._sizes = range(longest, shortest - 1, -1)

    def continuation(self, most: int) -> list[int]:
        """Up to `most` tokens that followed the last ones; none where they were not there before."""
        data, places = self.data, self.places(TRIED)
        for size in self._sizes if places else ():
            last = data[-size * WIDTH :]
            for place in reversed(places):
                if len(last) <= place * WIDTH and data.endswith(last, 0, place * WIDTH):
                    return self._from(place, most)
        return []

    def _from(self, place: int, most: int) -> list[int]:
        """`most` tokens from there on; where the text ends they go on with themselves, as a loop does."""
        found = np.frombuffer(self.data, dtype=np.int32, offset=place * WIDTH)[:most].tolist()
        return [found[i % len(found)] for i in range(most)]


class NgramDrafter:
    """A Drafter."""

    def __init__(self, context: SpeculatorContext) -> None:
        settings = context.config(NgramSettings)
        sizes = settings.prompt_lookup_max, settings.prompt_lookup_min
        self._histories = Histories(lambda: NgramHistory(*sizes))

    def propose(self, step: DraftStep) -> list[list[int]]:
        self._histories.begin(step)
        pairs = zip(step.sequences, step.wanted.tolist(), strict=True)
        return [self._histories.read(sequence).continuation(wanted) if wanted else [] for sequence, wanted in pairs]
