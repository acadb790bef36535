"""How many drafts are worth their verification: no more than make text come faster.

A step of T rows takes about `base + slope * T` seconds, and each pass of the drafter about as long as the last; both
are measured as steps go by. The j-th draft of a sequence stands with a probability of a ** j, where `a` is the share of
its drafts that stood lately. Drafts are taken as long as tokens per second grow (compare Liu et al., "Optimizing
Speculative Decoding for Serving Large Language Models Using Goodput", arXiv 2406.14066).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence as SequenceOf

    from numpy.typing import NDArray

    from maxserve.core.engine.in_flight import InFlightStep
    from maxserve.core.engine.sequence import Sequence

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

START = 0.7  # the share of drafts that stand, before any was verified
RECENT = 0.05  # weight of a new draft among those before
SLOWER = 1.02  # a time that is longer than the last one is believed this much at once: machines are busy elsewhere, too
SIZES = 32  # numbers of rows of which the time is known
DRIFT = 0.05  # part of the way to the share of all, per decision without drafts: a text may have changed
PERIOD = 8  # steps for which a decision holds; the first ones hold for less
PROBE = 64  # steps without any draft, after which each sequence has one


class StepCost:
    """The time of a step by its rows: a line through the shortest ones of the last numbers of rows."""

    def __init__(self) -> None:
        self._times: OrderedDict[int, float] = OrderedDict()

    def add(self, rows: int, seconds: float) -> None:
        known = self._times.get(rows)
        self._times[rows] = seconds if known is None else min(seconds, known * SLOWER)
        self._times.move_to_end(rows)
        if len(self._times) > SIZES:
            self._times.popitem(last=False)

    @property
    def known(self) -> bool:
        """Whether steps had more than one number of rows."""
        return len(self._times) > 1

    def line(self) -> tuple[float, float]:
        """Base and slope; as long as all steps had as many rows, rows cost nothing."""
        if not self._times:
            return 1.0, 0.0
        rows, times = np.array(list(self._times)), np.array(list(self._times.values()))
        slope = float(np.polyfit(rows, times, 1)[0]) if self.known else 0.0
        slope = max(slope, 0.0)
        return max(float(times.mean() - slope * rows.mean()), 0.05 * float(times.mean())), slope


class DraftLengths:
    """Chooses how many drafts each sequence may have, up to `most`."""

    def __init__(self, most: int) -> None:
        self._depths = np.arange(1, most + 1)
        self._cost = StepCost()
        self._seconds_per_pass = 0.0
        self._overall = START
        self._holds = self._decisions = 0  # steps for which the last decision holds, and decisions so far
        self._without = 0  # steps in a row without a draft

    def learn(self, in_flight: InFlightStep, rows: int, seconds: float) -> None:
        """Notes what a step took, and which drafts stood in it."""
        if not in_flight.prompt_tokens:
            self._cost.add(rows, seconds)
        if in_flight.step.drafts is None:
            return
        tried, stood = in_flight.verified()
        for i in np.flatnonzero(tried).tolist():
            looked_at = min(int(stood[i]) + 1, int(tried[i]))  # none counts behind the first that did not stand
            share, weight = int(stood[i]) / looked_at, 1 - (1 - RECENT) ** looked_at
            sequence = in_flight.drawing[i]
            before = self._share(sequence)
            sequence.acceptance = before + weight * (share - before)
            self._overall += weight / len(in_flight.drawing) * (share - self._overall)

    def learn_pass(self, wanted: Ints, seconds: float) -> None:
        """Notes what the drafter took."""
        passes = int(wanted.max(initial=0))
        if passes:
            known = self._seconds_per_pass
            self._seconds_per_pass = min(seconds / passes, known * SLOWER) if known else seconds / passes

    def cut(self, in_flight: InFlightStep, wanted: Ints) -> None:
        """Cuts `wanted` [B] to what is worth it."""
        sequences = in_flight.step.sequences
        self._holds -= 1
        if self._holds <= 0 or any(sequence.draft_depth is None for sequence in sequences):
            self._decide(sequences)
            self._decisions += 1
            self._holds = min(self._decisions, PERIOD)
        depths = [sequence.draft_depth or 0 for sequence in sequences]
        self._without = 0 if any(depths) else self._without + 1
        if self._without >= PROBE:
            self._without, depths = 0, [1] * len(sequences)
        np.minimum(wanted, depths, out=wanted)

    def _share(self, sequence: Sequence) -> float:
        return self._overall if sequence.acceptance is None else sequence.acceptance

    def _decide(self, sequences: SequenceOf[Sequence]) -> None:
        shares = np.array([self._share(sequence) for sequence in sequences])
        stands: Floats = shares[:, None] ** self._depths.astype(np.float64)
        taken = self._taken(stands) if self._cost.known else np.ones(len(sequences), dtype=np.int64)
        for sequence, depth, share in zip(sequences, taken.tolist(), shares.tolist(), strict=True):
            sequence.draft_depth = depth
            if not depth:
                sequence.acceptance = share + DRIFT * (self._overall - share)

    def _taken(self, stands: Floats) -> Ints:
        """How many drafts of each sequence are worth it: the likeliest of all, as long as speed grows with them."""
        base, slope = self._cost.line()
        sequences = len(stands)
        order = np.argsort(-stands, axis=None, kind="stable")
        gains = np.cumsum(stands.ravel()[order])
        passes = np.maximum.accumulate(order % len(self._depths)) + 1
        rows = sequences + np.arange(1, len(order) + 1)
        speed = (sequences + gains) / (base + slope * rows + self._seconds_per_pass * passes)
        best = int(speed.argmax())
        chosen = np.zeros(stands.size, dtype=np.int64)
        if speed[best] > sequences / (base + slope * sequences):
            chosen[order[: best + 1]] = 1
        found: Ints = chosen.reshape(stands.shape).sum(axis=1)
        return found
