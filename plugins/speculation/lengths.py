"""How many drafts are worth their verification: no more than make text come faster.

What a step takes is known by its rows, from a few steps at the start and from those that run. What more it takes with
drafts is known from pairs of a step with and one without, one after the other: machines are busy elsewhere, and a step
is not compared with one of another time. The j-th draft of a sequence stands with a probability of a ** j, where `a` is
the share of its drafts that stood lately, as far as there were some, and of all drafts before. Drafts are taken as long
as tokens per second grow (compare Liu et al., "Optimizing Speculative Decoding for Serving Large Language Models Using
Goodput", arXiv 2406.14066). Where none are worth it there are some for one step now and then, for a small part of the
time.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Sequence as SequenceOf

    from numpy.typing import NDArray

    from maxserve.interfaces.speculator import DraftedStep, DraftSequence, SpeculatorContext

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

SIZES = sorted({round(2 ** (i / 2)) for i in range(33)})  # rows of which the time is known; between them it is a line
FIRST = 4  # times of a kind of which the shortest counts: machines are busy elsewhere, too
FAR = 1.5  # how many times longer than before, or shorter, a time is believed to be at once
SURE = 0.5  # weight of a time that is that much shorter than before
LOAD, SHAPE = 0.1, 0.02  # weight of a time, in how fast the machine is and in what rows cost beside each other

LEAST = 0.05  # part of the time of asking that is taken for more than following, at least: times are not exact

START = 0.7  # the share of drafts that stand, before any was verified
TRUST = 4.0  # drafts, or asks, of a sequence that count as much as all those of others
KNOWN = 32.0  # drafts, or asks, of a sequence that are remembered
KNOWN_OF_ALL = 256.0
FADING = 0.95  # part of what is known of a sequence that is kept at a decision for no drafts: texts change
SELDOM = 0.05  # a sequence for which the drafter proposes something more seldom than this is not asked for
FEW = 8  # sequences of which it is always found out whether drafts are worth it, where to follow them costs little
LITTLE = 0.05  # part of a step without drafts
GAIN = 1.05  # what drafts must promise where there are none: times are not exact
PERIOD = 32  # most steps for which a decision holds; one that is not the last one's holds for two
MANY = 0.25  # part of the sequences that are new when a decision for no drafts is made again before it is over
TRIAL = 2  # drafts of a sequence alone that are tried where none are worth it; one of each where there are several
DEEP = 2  # of so many trials, one has as many drafts as promise most; of a few sequences, at first, all there can be
TRIALS = 0.01  # part of the time that trials may take
IN_VAIN = 8  # trials in a row in which no draft stood, after which the next comes as much later as it would have come
RARER = 4.0  # times later, at most
GIVEN_BACK = 0.5  # part of what a trial gains that may be taken for others: where drafts stand, more is worth knowing
PLAIN = 64  # most steps with drafts after which one has none
FARTHER = 8  # sizes beyond those that are known to take less, of which that is not believed
PAIRS = 15  # of a step with drafts and one without, next to each other, of which the median counts
DEAREST = 2.0  # times what a trial was taken to cost, which it may cost more: machines are busy elsewhere, too
TAKES = 0.25  # part of a step that a trial takes at least: times are not exact


class Lately:
    """A time that was measured again and again: the shortest of the first ones, then about the mean."""

    __slots__ = ("_count", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._count = 0

    def add(self, seconds: float) -> None:
        self._count += 1
        if self._count <= FIRST:
            self.seconds = seconds if self._count == 1 else min(seconds, self.seconds)
        else:
            weight = LOAD if seconds * FAR > self.seconds else SURE  # what was in the way of the others is gone
            self.seconds += weight * (min(seconds, 2 * self.seconds) - self.seconds)


class CostByRows:
    """The time of a step by its rows.

    How fast the machine is just now is one factor of all times, so that other work on it does not make
    sizes that were seen lately look worse than the others.
    """

    def __init__(self) -> None:
        self._times = [0.0] * len(SIZES)
        self._counts = [0] * len(SIZES)
        self._speed = 1.0
        self._line: tuple[Floats, Floats] | None = None

    @property
    def any(self) -> bool:
        """Whether there was a step at all."""
        return any(self._counts)

    @property
    def known(self) -> bool:
        """Whether steps had more than one number of rows."""
        return sum(count > 0 for count in self._counts) > 1

    def add(self, rows: int, seconds: float) -> None:
        i = _nearest(rows)
        if rows != SIZES[i] and self.known:  # what it would have been with so many rows
            here, there = self.seconds(np.array([rows, SIZES[i]], dtype=np.float64)).tolist()
            seconds *= there / here
        known, self._counts[i] = self._counts[i], self._counts[i] + 1
        if known < FIRST:
            found = seconds / self._speed
            self._times[i] = found if not known else min(found, self._times[i])
        else:
            ratio = min(max(seconds / (self._speed * self._times[i]), 1 / FAR), FAR)
            self._speed *= ratio**LOAD
            self._times[i] *= ratio ** max(SHAPE, LOAD / known)
        self._line = None

    def doubt(self) -> None:
        """What was measured so far counts as one time of each size: the first ones of real steps may be shorter."""
        self._counts = [min(count, 1) for count in self._counts]

    def seconds(self, rows: Floats) -> Floats:
        """The times of steps with so many rows; beyond those that are known, as rows cost among the last of them."""
        if self._line is None:
            self._line = self._known_line()
        return self._speed * np.interp(rows, *self._line)

    def _known_line(self) -> tuple[Floats, Floats]:
        seen = [i for i, count in enumerate(self._counts) if count]
        if not seen:
            return np.array([0.0, 1.0]), np.array([1.0, 1.0])
        rows = np.array([SIZES[i] for i in seen], dtype=np.float64)
        times = np.array([self._times[i] for i in seen])
        times = np.minimum.accumulate(times[::-1])[::-1]  # fewer rows take no longer: what others took was in the way
        slope = (times[-1] - times[-2]) / (rows[-1] - rows[-2]) if len(seen) > 1 else 0.0
        far = 2 * SIZES[-1]
        return np.append(rows, far), np.append(times, times[-1] + slope * (far - rows[-1]))


class DraftedCost:
    """How many times as long steps with drafts take as their rows say: hosts have more to do, attention has less.

    By how many sequences there are, and how many times as many rows. One pair alone is no proof that they take less,
    and what some rows take less says little of many more.
    """

    def __init__(self) -> None:
        self._ratios: dict[int, dict[int, deque[float]]] = {}  # by the sizes that are nearest to sequences, and to rows

    def add(self, sequences: int, rows: int, ratio: float) -> None:
        known = self._ratios.setdefault(_nearest(sequences), {})
        known.setdefault(_nearest(rows), deque(maxlen=PAIRS)).append(ratio)

    @property
    def any(self) -> bool:
        """Whether a step with drafts was compared with one without."""
        return len(self._ratios) > 0

    def ratios(self, sequences: int, rows: Floats) -> Floats:
        if not self._ratios:
            return np.ones_like(rows)
        size = _nearest(sequences)
        near = min(self._ratios, key=lambda other: abs(other - size))
        known = {0: 1.0}
        for each, found in self._ratios[near].items():
            if each > near and (len(found) > 1 or found[0] > 1.0):
                known[each - near] = statistics.median(found)
        last = max(known)
        known[last + FARTHER] = max(known[last], 1.0)
        steps = sorted(known)
        times: Floats = np.interp(2 * np.log2(rows / sequences), steps, [known[step] for step in steps])
        return times


def _nearest(rows: int) -> int:
    i = min(bisect_left(SIZES, rows), len(SIZES) - 1)
    return i - 1 if i and rows * rows < SIZES[i - 1] * SIZES[i] else i


class Record:
    """What became of the drafts of each sequence, by its slot, and how many it may have."""

    STOOD, LOOKED_AT, PROPOSED, ASKED = range(4)

    def __init__(self) -> None:
        self._owners: list[str | None] = []
        self.counts: Floats = np.zeros((0, 4))
        self.of_all: Floats = np.array([TRUST * START, TRUST, TRUST, TRUST])
        self.depths: Ints = np.zeros(0, dtype=np.int64)

    def enter(self, sequences: SequenceOf[DraftSequence], slots: Ints) -> int:
        """Notes which sequences are there now; returns how many are new."""
        most = int(slots.max()) + 1
        if most > len(self._owners):
            more = max(most, 2 * len(self._owners)) - len(self._owners)
            self._owners += [None] * more
            self.counts = np.concatenate((self.counts, np.zeros((more, 4))))
            self.depths = np.concatenate((self.depths, np.zeros(more, dtype=np.int64)))
        pairs = zip(slots.tolist(), sequences, strict=True)
        fresh = [(slot, sequence.id) for slot, sequence in pairs if self._owners[slot] != sequence.id]
        for slot, id in fresh:
            self._owners[slot] = id
            self.counts[slot] = 0.0
            self.depths[slot] = 0
        return len(fresh)

    def add(self, slots: Ints, one: int, ones: Ints, other: int, others: Ints) -> None:
        """Of `others` things of each, `ones` went well."""
        counts, of_all = self.counts, self.of_all
        well, known = counts[slots, one] + ones, counts[slots, other] + others
        if len(known) and known.max() > KNOWN:
            fading = np.minimum(1.0, KNOWN / np.maximum(known, 1.0))
            well, known = well * fading, known * fading
        counts[slots, one], counts[slots, other] = well, known
        of_all[one] += ones.sum()
        of_all[other] += others.sum()
        if of_all[other] > KNOWN_OF_ALL:
            of_all[[one, other]] *= KNOWN_OF_ALL / float(of_all[other])

    def share(self, slots: Ints, one: int, other: int) -> Floats:
        """What part went well, of each; as all do where little is known."""
        prior = self.of_all[one] / self.of_all[other]
        found: Floats = (self.counts[slots, one] + TRUST * prior) / (self.counts[slots, other] + TRUST)
        return found


class AdaptiveLengths:
    """A DraftLengths: as many drafts as make text come faster."""

    def __init__(self, context: SpeculatorContext) -> None:
        self._measuring = False
        self._most = most = context.draft_tokens
        self._depths = np.arange(1, most + 1)
        self._cost = CostByRows()
        self._following = CostByRows()  # what the drafter takes by the rows of a step, whether drafts are wanted or not
        self._asking: dict[int, dict[int, Lately]] = {}  # beyond that, by sequences and the most drafts of one
        self._drafted = DraftedCost()
        self._until_plain: dict[
            int, tuple[int, int]
        ] = {}  # by sequences: steps with drafts since, and how many are due
        self._record = Record()
        self._for: Ints | None = None  # slots of whom the last decision was for
        self._any = False  # whether any of these may have drafts
        self._holds = self._held = 1  # steps for which the last decision holds, and for how many it was made
        # By sequences: how often it was asked whether drafts are foreseen, and the last answer.
        self._foreseen: dict[int, tuple[int, bool]] = {}
        self._fresh = 0  # sequences that came since the last decision
        self._allowed = 0.0  # seconds that trials may take
        self._latest = 0.0  # seconds of the last step
        self._trials: dict[int, int] = {}  # by sequences: the first trials, which need no time to be left for them
        self._missed = 0.0  # seconds that a trial would have taken when there were not as many for it
        self._tried = 0.0  # seconds that the trial which runs is taken to cost
        self._in_vain = 0  # steps with drafts in a row, none of which stood
        self._asked = 0.0  # seconds that it took to ask for the last drafts
        self._promising = 0  # most drafts of a sequence that a decision found best, worth it or not
        self._deeper = False  # the step after one without drafts has more than are known to be worth it
        self._before: DraftedStep | None = None

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """There are no drafts meanwhile, and what is learned are the times of steps; what came before is forgotten."""
        self._measuring = True
        try:
            yield
        finally:
            self._measuring = False
            self._cost.doubt()
            self._asking.clear()  # a first call takes longer
            self._for, self._before, self._record = None, None, Record()

    def _learn(self, step: DraftedStep) -> None:
        """Notes what a step took, and which drafts stood in it."""
        tried, stood = step.tried, step.stood
        if step.prompts:
            self._tried = 0.0  # what it took is not known
        else:
            if tried is None:
                self._cost.add(step.rows, step.seconds)
            part = TRIALS / min(1.0 + self._in_vain / IN_VAIN, RARER)
            self._allowed = min(self._allowed + part * step.steps * step.seconds + self._settled(step), step.seconds)
            self._latest = step.seconds
        if not self._measuring:
            self._learn_pair(step)
        if tried is None or stood is None or self._measuring:
            return
        self._in_vain = 0 if stood.any() else self._in_vain + 1
        had = tried > 0  # others may be new, and not entered yet
        looked_at = np.minimum(stood + 1, tried)  # none counts behind the first that did not stand
        self._record.add(step.slots[had], Record.STOOD, stood[had], Record.LOOKED_AT, looked_at[had])

    def _settled(self, step: DraftedStep) -> float:
        """Seconds that are given back for a trial, of what its tokens would have taken; less those it was dearer by."""
        takes, self._tried = self._tried, 0.0
        if not takes:
            return 0.0
        alone = self._cost.seconds(np.array([len(step.slots)], dtype=np.float64)).item()
        took, saved = self._asked, 0.0
        if step.tried is not None and step.stood is not None:
            took += max(step.seconds - alone, 0.0)
            saved = alone * float(step.stood.mean())
        return min(takes, saved) * GIVEN_BACK - min(max(took - takes, 0.0), DEAREST * takes)

    def _learn_pair(self, step: DraftedStep) -> None:
        """Notes what a step with drafts took beside one without that came before it or after: the machine was alike."""
        before, self._before = self._before, None if step.prompts else step
        if (
            step.prompts
            or before is None
            or (before.tried is None) == (step.tried is None)
            or len(before.slots) != len(step.slots)
        ):
            return
        plain, drafted = (before, step) if before.tried is None else (step, before)
        alone, there = self._cost.seconds(np.array([plain.rows, drafted.rows], dtype=np.float64)).tolist()
        self._drafted.add(len(step.slots), drafted.rows, drafted.seconds / plain.seconds * alone / there)

    def learn_drafter(self, step: DraftedStep, slots: Ints, wanted: Ints, proposed: Ints, seconds: float) -> None:
        if not wanted.any():
            self._following.add(step.rows, seconds)
            return
        following = self._seconds_of_following(np.array([step.rows], dtype=np.float64)).item()
        asked = wanted > 0
        asking = self._asking.setdefault(SIZES[_nearest(int(asked.sum()))], {})
        self._asked = max(seconds - following, LEAST * seconds)
        asking.setdefault(int(wanted.max()), Lately()).add(self._asked)
        self._record.add(
            slots[asked],
            Record.PROPOSED,
            (proposed[asked] > 0).astype(np.int64),
            Record.ASKED,
            np.ones_like(slots[asked]),
        )

    def choose(self, step: DraftedStep) -> Ints | None:
        self._learn(step)
        slots = step.slots
        if self._measuring or not len(slots):
            return None
        self._holds -= step.steps
        if slots is not self._for:
            self._fresh += self._record.enter(step.sequences, slots)
        if self._holds <= 0 or self._fresh > (0 if self._any else MANY * len(slots)):
            self._fresh = 0
            self._held = 2 if self._decide(slots) else min(2 * self._held, PERIOD)
            self._holds = self._held
        self._for = slots
        depths = self._record.depths[slots] if self._any else None
        deeper, self._deeper = self._deeper, False
        if depths is not None and self._plain_is_due(len(slots)):
            self._deeper = True
            return None
        if depths is not None and deeper:
            return np.minimum(depths + (depths > 0), self._most)
        if depths is None or not depths.all():
            depths = self._with_trial(depths, len(slots))
        return depths

    def foresees(self, sequences: int) -> bool:
        size = _nearest(sequences)
        if self._measuring or not self._cost.any:
            return True
        untried = self._trials.get(size, 0) < FIRST  # trials need texts that are followed
        if sequences <= FEW and (untried or self._follows_for_little(sequences)):
            return True
        asked, found = self._foreseen.get(size, (0, False))
        if asked % FEW == 0:
            found = self._foresee(sequences)
        self._foreseen[size] = (asked + 1, found)
        return found

    def _follows_for_little(self, sequences: int) -> bool:
        rows = np.array([sequences], dtype=np.float64)
        return bool(self._seconds_of_following(rows) <= LITTLE * self._cost.seconds(rows))

    def _foresee(self, sequences: int) -> bool:
        record, alike = self._record.of_all, np.ones(sequences)
        stands = record[Record.STOOD] / record[Record.LOOKED_AT]
        proposed = record[Record.PROPOSED] / record[Record.ASKED]
        return bool(self._taken(stands * alike, proposed * alike, GAIN * GAIN).any())

    def _plain_is_due(self, sequences: int) -> bool:
        """Whether a step has no drafts, so that it is known what such steps take: soon at first, then seldom."""
        size = _nearest(sequences)
        since, due = self._until_plain.get(size, (0, FIRST))
        found = since == due
        self._until_plain[size] = (0, min(2 * due, PLAIN)) if found else (since + 1, due)
        return found

    def _with_trial(self, depths: Ints | None, sequences: int) -> Ints | None:
        """Drafts are tried where there are none, when there is time for it."""
        if depths is not None and depths.any():
            return depths
        size = _nearest(sequences)
        tried = self._trials.get(size, 0)
        trial = min(TRIAL, self._most) if sequences == 1 else 1
        if tried % DEEP:
            trial = self._most if tried < FIRST and 1 < sequences <= FEW else max(trial, self._promising)
        if tried < FIRST:
            self._trials[size] = tried + 1
            return np.full(sequences, trial, dtype=np.int64)
        if self._allowed < max(TAKES * self._latest, min(self._missed, self._latest)):
            return depths
        alone, drafted = self._seconds_of_steps(np.array([1.0, 1.0 + trial]) * sequences).tolist()
        proposed = float(self._record.of_all[Record.PROPOSED] / self._record.of_all[Record.ASKED])
        takes = max(
            proposed * (drafted - alone) + self._seconds_of_asking(sequences, np.array([trial])).item(), TAKES * alone
        )
        if self._allowed < min(takes, self._latest):
            self._missed = min(takes, self._latest)
            return depths
        self._missed = 0.0
        self._allowed -= takes
        self._tried = takes
        self._trials[size] = tried + 1
        return np.full(sequences, trial, dtype=np.int64)

    def _seconds_of_steps(self, rows: Floats) -> Floats:
        """What steps of so many rows take, with a drafter that follows them: the first without drafts, others with."""
        times = self._cost.seconds(rows)
        times[1:] = np.maximum(times[1:] * self._drafted.ratios(int(rows[0]), rows[1:]), times[0])
        return times + self._seconds_of_following(rows)

    def _seconds_of_following(self, rows: Floats) -> Floats:
        return self._following.seconds(rows) if self._following.any else np.zeros_like(rows)

    def _seconds_of_asking(self, sequences: int, passes: Ints) -> Floats:
        """What drafts of so many sequences take, by how many each has, as far as about as many were asked for.

        More drafts than were ever asked take no longer, so that it is found out; the first takes half at least.
        """
        if not self._asking:
            return np.zeros(len(passes))
        near = SIZES[_nearest(sequences)]
        known = self._asking[min(self._asking, key=lambda size: abs(size - near))]
        counts = sorted(known)
        seconds = np.minimum.accumulate([known[count].seconds for count in reversed(counts)])[::-1]
        seconds = np.minimum.accumulate(seconds / counts) * counts
        found = np.interp(passes, [0, *counts], [seconds[0] / 2, *seconds])
        return np.where(passes > 0, found, 0.0)

    def _decide(self, slots: Ints) -> bool:
        """How many drafts each may have from now on; whether that is something else than before."""
        record = self._record
        shares = record.share(slots, Record.STOOD, Record.LOOKED_AT)
        proposed = record.share(slots, Record.PROPOSED, Record.ASKED)
        gain = 1.0 if self._any and len(slots) <= FEW else GAIN
        taken = self._taken(shares, proposed, gain) if self._cost.any else np.ones(len(slots), dtype=np.int64)
        if not self._drafted.any:  # what steps with drafts cost is not known yet: the first have one each
            taken = np.minimum(taken, 1)
        changed = bool((record.depths[slots] != taken).any())
        record.depths[slots] = taken
        record.counts[slots[taken == 0]] *= FADING
        self._any = bool(taken.any())
        return changed

    def _taken(self, shares: Floats, proposed: Floats, gain: float) -> Ints:
        """How many drafts of each sequence are worth it: the likeliest of all, as long as speed grows with them."""
        sequences, most = len(shares), self._most
        if shares.sum() <= (gain - 1) * (1 - shares.max()) * sequences:  # even if steps with drafts took no longer
            self._promising = 1
            return np.zeros(sequences, dtype=np.int64)
        stands = np.where(proposed[:, None] < SELDOM, 0.0, shares[:, None] ** self._depths)
        order = np.argsort(-stands, axis=None, kind="stable")
        there = proposed[order // most]
        gains = np.cumsum(stands.ravel()[order] * there)
        passes = np.maximum.accumulate(order % most) + 1
        asking = self._seconds_of_asking(sequences, np.arange(most + 1))
        rows = np.concatenate(([sequences], sequences + np.cumsum(there)))
        times = self._seconds_of_steps(rows)
        speed = (sequences + gains) / (times[1:] + asking[passes])
        best = int(speed.argmax())
        self._promising = int(passes[best])
        chosen = np.zeros(stands.size, dtype=np.int64)
        if speed[best] > gain * sequences / times[0]:
            chosen[order[: best + 1]] = 1
        found: Ints = chosen.reshape(stands.shape).sum(axis=1)
        return found
