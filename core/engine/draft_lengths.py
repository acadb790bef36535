"""How many drafts are worth their verification: no more than make text come faster.

A step of T rows takes about `base + slope * T` seconds, and each pass of the drafter about as long as the last; both
are measured as steps go by. The j-th draft of a sequence stands with a probability of a ** j, where `a` is the share of
its drafts that stood lately. Drafts are taken as long as tokens per second grow (compare Liu et al., "Optimizing
Speculative Decoding for Serving Large Language Models Using Goodput", arXiv 2406.14066).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from maxserve.core.engine.in_flight import InFlightStep

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

START = 0.7  # the share of drafts that stand, before any was verified
RECENT = 0.05  # weight of a new draft, or of a new time, among those before
MEMORY = 0.97  # weight of a step's time after each further step
DRIFT = 0.01  # part of the way to the share of all, per step without drafts: a text may have changed
PROBE = 64  # steps without any draft, after which each sequence has one


class StepCost:
    """The time of a step by its rows: a line through the latest ones, the older the lighter."""

    def __init__(self) -> None:
        self._sums = np.zeros(5)  # of weights, rows, times, rows², rows * times
        self._seen = 0

    def add(self, rows: int, seconds: float) -> None:
        base, slope = self.line()
        if self._seen >= 8:  # a machine that was busy elsewhere says nothing
            seconds = min(seconds, 3 * (base + slope * rows))
        self._sums = self._sums * MEMORY + np.array([1.0, rows, seconds, rows * rows, rows * seconds])
        self._seen += 1

    def line(self) -> tuple[float, float]:
        """Base and slope. As long as all steps had as many rows, rows cost nothing: more of them will be tried."""
        weight, x, y, xx, xy = self._sums.tolist()
        if not weight:
            return 1.0, 0.0
        spread = weight * xx - x * x
        slope = max(0.0, (weight * xy - x * y) / spread) if spread > 1e-6 * xx * weight else 0.0
        return max(y / weight - slope * x / weight, 0.05 * y / weight), slope


class DraftLengths:
    """Chooses how many drafts each sequence may have, up to `most`."""

    def __init__(self, most: int) -> None:
        self._depths = np.arange(1, most + 1)
        self._cost = StepCost()
        self._seconds_per_pass = 0.0
        self._overall = START
        self._without = 0  # steps in a row without a draft

    def learn(self, in_flight: InFlightStep, rows: int, seconds: float) -> None:
        """Notes what a step took, and which drafts stood in it."""
        if not in_flight.prompt_tokens:
            self._cost.add(rows, seconds)
        tried, stood = in_flight.verified()
        for i in np.flatnonzero(tried).tolist():
            looked_at = min(int(stood[i]) + 1, int(tried[i]))  # none counts behind the first that did not stand
            share, weight = int(stood[i]) / looked_at, 1 - (1 - RECENT) ** looked_at
            sequence = in_flight.drawing[i]
            before = self._overall if sequence.acceptance is None else sequence.acceptance
            sequence.acceptance = before + weight * (share - before)
            self._overall += weight / len(in_flight.drawing) * (share - self._overall)

    def learn_pass(self, wanted: Ints, seconds: float) -> None:
        """Notes what the drafter took."""
        passes = int(wanted.max(initial=0))
        if passes:
            weight = RECENT if self._seconds_per_pass else 1.0
            self._seconds_per_pass += weight * (seconds / passes - self._seconds_per_pass)

    def cut(self, in_flight: InFlightStep, wanted: Ints) -> None:
        """Cuts `wanted` [B] to what is worth it."""
        who = np.flatnonzero(wanted)
        if not len(who):
            return
        shares = self._shares(in_flight, who)
        stands = np.where(self._depths <= wanted[who][:, None], shares[:, None] ** self._depths, 0.0)
        taken = self._taken(stands, in_flight.step.size)
        self._without = 0 if taken.any() else self._without + 1
        if self._without >= PROBE:
            self._without, taken = 0, np.ones_like(taken)
        wanted[who] = np.minimum(wanted[who], taken)
        for i in who[wanted[who] == 0].tolist():
            sequence = in_flight.step.sequences[i]
            before = self._overall if sequence.acceptance is None else sequence.acceptance
            sequence.acceptance = before + DRIFT * (self._overall - before)

    def _shares(self, in_flight: InFlightStep, who: Ints) -> Floats:
        found = [in_flight.step.sequences[i].acceptance for i in who.tolist()]
        return np.array([self._overall if share is None else share for share in found])

    def _taken(self, stands: Floats, sequences: int) -> Ints:
        """How many drafts of each sequence are worth it: the likeliest of all, as long as speed grows with them."""
        base, slope = self._cost.line()
        order = np.argsort(-stands, axis=None, kind="stable")
        gains = np.cumsum(stands.ravel()[order])
        passes = np.maximum.accumulate(order % len(self._depths)) + 1
        rows = sequences + np.arange(1, len(order) + 1)
        speed = (sequences + gains) / (base + slope * rows + self._seconds_per_pass * passes)
        best = int(speed.argmax())
        chosen = np.zeros(stands.size, dtype=np.int64)
        if speed[best] > sequences / (base + slope * sequences):
            chosen[order[: best + 1]] = 1
        found: Ints = (chosen.reshape(stands.shape) * (stands > 0)).sum(axis=1)
        return found
