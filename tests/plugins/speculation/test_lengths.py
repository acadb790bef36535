"""How many drafts are verified, by what steps cost and by how many drafts stand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from maxserve.core.interfaces.speculator import DraftedStep
from maxserve.plugins.speculation.lengths import AdaptiveLengths, CostByRows

MOST = 5


class Simulated:
    """Sequences that decode, drafts that stand with a given probability, and steps of a given cost.

    The drafter takes `per_pass` for each draft and `asking` for each call, and proposes something with a probability of
    `proposed`. Steps with drafts take `host` times as long as others of as many rows. `measured` are the rows of the
    steps at the start. On a `busy` machine all seem to take up to three times as long, for tens of steps each time. The
    first `cold` calls of the drafter seem to take four times as long.
    """

    def __init__(
        self,
        shares: list[float],
        *,
        base: float,
        slope: float,
        per_pass: float = 0.0,
        asking: float = 0.0,
        proposed: float = 1.0,
        host: float = 1.0,
        measured: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64),
        busy: bool = False,
        cold: int = 0,
        seed: int = 0,
    ) -> None:
        self.shares = shares
        self.cold = cold
        context: Any = SimpleNamespace(draft_tokens=MOST)
        self.lengths = AdaptiveLengths(context)
        self.sequences: list[Any] = [SimpleNamespace(id=str(i)) for i in range(len(shares))]
        self.slots = np.arange(len(shares))
        self.base, self.slope, self.per_pass, self.asking, self.proposed = base, slope, per_pass, asking, proposed
        self.host = host
        self.busy, self.factor, self.until = busy, 1.0, 0
        self.random = np.random.default_rng(seed)
        self.drafts = np.zeros(len(shares), dtype=np.int64)
        self.asked = 0
        self.seconds, self.tokens = 0.0, 0
        with self.lengths.measuring():
            for rows in measured * 5:
                self.lengths.choose(self.run(None, None, rows))

    def run(self, drafts: Any, stood: Any, rows: int) -> DraftedStep:
        self.until -= 1
        if self.busy and self.until < 0:
            self.factor, self.until = self.random.uniform(1.0, 3.0), self.random.integers(5, 60)
        return DraftedStep(
            rows=rows,
            seconds=self.factor * self._seconds(drafts, rows),
            prompts=False,
            sequences=self.sequences,
            slots=self.slots,
            tried=drafts,
            stood=stood,
        )

    def _seconds(self, drafts: Any, rows: int) -> float:
        return (self.base + self.slope * rows) * (1.0 if drafts is None else self.host)

    def step(self) -> None:
        drafts = self.drafts
        stood = np.array(
            [self._stood(share, int(count)) for share, count in zip(self.shares, drafts, strict=True)], dtype=np.int64
        )
        rows = len(self.shares) + int(drafts.sum())
        run = self.run(drafts if drafts.any() else None, stood, rows)
        took = self._seconds(run.tried, rows)
        wanted = self.lengths.choose(run)
        self.drafts = np.zeros(len(self.shares), dtype=np.int64)
        if wanted is not None and wanted.any():
            self.asked += 1
            self.drafts = np.where(self.random.random(len(wanted)) < self.proposed, wanted, 0)
            passes = self.asking + self.per_pass * int(wanted.max())
            cold = 4.0 if self.asked <= self.cold else 1.0
            self.lengths.learn_drafter(run, self.slots, wanted, self.drafts, passes * self.factor * cold)
            took += passes
        self.seconds += took
        self.tokens += len(self.shares) + int(stood.sum())

    def _stood(self, share: float, count: int) -> int:
        wrong = np.flatnonzero(self.random.random(count) >= share)
        return int(wrong[0]) if len(wrong) else count

    def speed(self, steps: int = 600) -> float:
        """Tokens per second, in those of decoding without drafts."""
        for _ in range(steps):
            self.step()
        plain = len(self.shares) / (self.base + self.slope * len(self.shares))
        return self.tokens / self.seconds / plain


def test_where_rows_cost_nothing_all_are_verified() -> None:
    simulated = Simulated([0.8], base=1.0, slope=0.0)
    assert simulated.speed() > 3.0
    assert simulated.drafts.tolist() == [MOST]


@pytest.mark.parametrize("sequences", [1, 8, 32])
@pytest.mark.parametrize(("base", "slope"), [(1.0, 0.02), (1.0, 0.2), (0.1, 1.0)])
@pytest.mark.parametrize("per_pass", [0.0, 0.1])
def test_drafts_that_never_stand_cost_little(sequences: int, base: float, slope: float, per_pass: float) -> None:
    assert Simulated([0.0] * sequences, base=base, slope=slope, per_pass=per_pass).speed() > 0.97


def test_where_each_row_costs_as_much_as_a_step_there_are_few() -> None:
    simulated = Simulated([0.7] * 16, base=0.01, slope=1.0)
    assert simulated.speed() > 0.97
    assert simulated.drafts.sum() <= 16


@pytest.mark.parametrize("sequences", [1, 8])
def test_it_is_as_fast_as_the_best_fixed_length(sequences: int) -> None:
    share, base, slope, per_pass = 0.7, 1.0, 0.1, 0.05

    def fixed(k: int) -> float:
        tokens = sum(share**j for j in range(k + 1)) * sequences
        took = base + slope * sequences * (k + 1) + per_pass * k
        return tokens / took / (sequences / (base + slope * sequences))

    found = Simulated([share] * sequences, base=base, slope=slope, per_pass=per_pass).speed()
    assert found > 0.93 * max(fixed(k) for k in range(MOST + 1))


@pytest.mark.parametrize(("share", "host"), [(0.7, 3.0), (0.5, 2.0), (0.3, 1.4)])
def test_work_on_the_host_is_a_cost_of_drafts_alone(share: float, host: float) -> None:
    """It is not taken for a machine that is slower for all steps."""
    simulated = Simulated([share] * 8, base=1.0, slope=0.1, host=host)
    assert simulated.speed(1500) > 0.97
    assert simulated.lengths._cost.seconds(np.array([8.0]))[0] == pytest.approx(1.8, rel=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_a_machine_that_is_busy_elsewhere_has_the_same_drafts(seed: int) -> None:
    assert Simulated([0.6] * 8, base=1.0, slope=0.03, busy=True, seed=seed).speed() > 1.35


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize(("sequences", "per_pass", "gain", "cold"), [(1, 0.3, 1.2, 5), (8, 0.2, 1.25, 8)])
def test_a_drafter_whose_first_calls_took_long_is_asked_again(
    sequences: int, per_pass: float, gain: float, cold: int, busy: bool
) -> None:
    """Also after the machine was slow when a trial was put off: trials are not put off for ever."""
    costs = {"base": 0.8, "slope": 0.045, "per_pass": per_pass, "asking": per_pass + 0.1 * (sequences == 1)}
    for seed in range(3):
        simulated = Simulated([0.87] * sequences, cold=cold, busy=busy, seed=seed, **costs)
        simulated.speed(1000)
        simulated.seconds, simulated.tokens = 0.0, 0
        assert simulated.speed(1000) > 0.9 * gain


def test_a_start_that_was_slow_is_no_excuse_for_drafts() -> None:
    """What was measured beside other work is corrected by a few steps without drafts."""
    simulated = Simulated([0.6] * 8, base=1.0, slope=0.5, measured=())
    with simulated.lengths.measuring():
        for rows in (1, 2, 4, 8, 16, 32, 64) * 5:
            factor = 4.0 if rows in (4, 8, 16) else 1.0
            run = simulated.run(None, None, rows)
            run.seconds *= factor
            simulated.lengths._learn(run)
    assert simulated.speed(200) > 0.97


def test_a_size_that_was_measured_while_the_machine_was_away_is_no_excuse_for_drafts() -> None:
    cost = CostByRows()
    for rows, seconds in ((1, 1.0), (2, 9.0), (4, 1.2), (8, 1.4)):
        cost.add(rows, seconds)
    assert cost.seconds(np.array([1.0, 2.0, 4.0, 8.0])) == pytest.approx([1.0, 1.2, 1.2, 1.4])


def test_those_whose_drafts_stand_have_more() -> None:
    simulated = Simulated([0.95] * 4 + [0.1] * 4, base=1.0, slope=0.2)
    simulated.speed()
    assert simulated.drafts[:4].min() > simulated.drafts[4:].max()


def test_a_text_that_becomes_easy_is_found() -> None:
    simulated = Simulated([0.0], base=1.0, slope=0.2)
    simulated.speed()
    simulated.shares[0] = 0.95
    simulated.tokens, simulated.seconds = 0, 0.0
    assert simulated.speed(1280) > 1.5


def test_drafts_that_never_stood_are_tried_ever_more_seldom() -> None:
    simulated = Simulated([0.0], base=1.0, slope=0.2)
    simulated.speed(1000)
    simulated.tokens, simulated.seconds, simulated.asked = 0, 0.0, 0
    assert simulated.speed(4000) > 0.995
    assert simulated.asked > 10


def test_steps_that_were_not_told_of_count_for_trials() -> None:
    told, counted = (Simulated([0.0] * 4, base=1.0, slope=0.2) for _ in range(2))
    for simulated, steps in ((told, 1), (counted, 16)):
        simulated.speed(200)
        simulated.lengths._allowed = 0.0
        run = simulated.run(None, None, 4)
        run.steps = steps
        for _ in range(16 // steps):
            simulated.lengths._learn(run)
    assert counted.lengths._allowed == pytest.approx(told.lengths._allowed)


@pytest.mark.parametrize(("seconds", "left"), [(1.5, 0.4), (2.0, -0.1), (9.0, -0.5)])
def test_a_trial_that_took_longer_than_was_thought_is_paid(seconds: float, left: float) -> None:
    """But for what is more than three times as long: something else was in the way."""
    simulated = Simulated([0.0], base=1.0, slope=0.0)
    lengths = simulated.lengths
    lengths._record.enter(simulated.sequences, simulated.slots)
    lengths._allowed, lengths._tried, lengths._asked = 0.5, 0.5, 0.1
    run = simulated.run(np.array([2]), np.array([0]), 3)
    run.seconds = seconds
    lengths._learn(run)
    assert lengths._allowed == pytest.approx(left, abs=0.02 * seconds)


def test_a_drafter_that_proposes_nothing_is_hardly_asked() -> None:
    simulated = Simulated([0.9] * 8, base=1.0, slope=0.02, asking=0.1, proposed=0.0)
    assert simulated.speed() > 0.98
    assert 2 < simulated.asked < 100


def test_one_whose_drafts_are_rare_is_asked_where_they_gain() -> None:
    simulated = Simulated([0.95], base=1.0, slope=0.02, asking=0.01, proposed=0.3)
    assert simulated.speed() > 1.5
    assert simulated.asked > 250


def test_without_times_each_has_one() -> None:
    simulated = Simulated([0.7] * 3, base=1.0, slope=0.1, measured=())
    simulated.step()
    assert simulated.drafts.tolist() == [1, 1, 1]
    assert simulated.speed() > 1.3


def test_a_slot_that_is_another_ones_begins_anew() -> None:
    simulated = Simulated([0.0, 0.9, 0.9, 0.9], base=1.0, slope=0.02)
    simulated.speed()
    assert simulated.drafts[0] < simulated.drafts[1]
    simulated.sequences[0], simulated.slots = SimpleNamespace(id="new"), np.arange(4)
    simulated.step()
    assert simulated.drafts[0] == simulated.drafts[1]


def test_what_is_learned_while_times_are_measured_is_times_alone() -> None:
    simulated = Simulated([0.0], base=1.0, slope=0.1)
    simulated.speed()
    with simulated.lengths.measuring():
        assert simulated.lengths.choose(simulated.run(None, None, 1)) is None
    simulated.step()
    assert simulated.drafts[0] > 1


def test_asking_is_never_free() -> None:
    """A time below that of following is noise: asked once so, the drafter would look free for a hundred steps."""
    simulated = Simulated([0.5], base=1.0, slope=0.1, measured=())
    lengths, slots, none = simulated.lengths, simulated.slots, np.array([0])
    run = simulated.run(None, None, 1)
    lengths.choose(run)  # enters the sequence
    lengths.learn_drafter(run, slots, none, none, 3.0)
    lengths.learn_drafter(run, slots, np.array([2]), np.array([2]), 2.0)
    assert lengths._seconds_of_asking(1, np.array([2])) == pytest.approx([0.1])


def test_a_start_that_was_slow_for_many_rows_is_corrected() -> None:
    """Steps of as many rows are not run unless they are tried."""
    simulated = Simulated([0.9], base=1.0, slope=0.01, asking=0.2, per_pass=0.02, measured=())
    with simulated.lengths.measuring():
        for rows in (1, 2, 4, 8) * 5:
            run = simulated.run(None, None, rows)
            run.seconds *= 4.0 if rows > 2 else 1.0
            simulated.lengths.choose(run)
    assert simulated.speed(1000) > 2.3


def test_where_no_step_has_more_rows_at_the_start_drafts_show_what_they_cost() -> None:
    """As with `--max-batch-size 1`."""
    cheap = Simulated([0.8], base=1.0, slope=0.01, measured=(1,))
    assert cheap.speed() > 2.8
    assert cheap.lengths._record.depths.tolist() == [MOST]
    dear = Simulated([0.8], base=0.1, slope=1.0, measured=(1,))
    assert dear.speed() > 0.97
    wrong = Simulated([0.0], base=1.0, slope=0.01, measured=(1,))
    assert wrong.speed() > 0.98
    assert wrong.asked < 60


def test_times_by_rows() -> None:
    cost = CostByRows()
    assert not cost.known
    for _ in range(5):
        cost.add(4, 2.0)
    assert not cost.known
    assert cost.seconds(np.array([1.0, 4.0, 99.0])) == pytest.approx([2.0] * 3)  # rows may be free
    for rows in (4, 8, 16) * 200:
        cost.add(rows, 1.0 + 0.25 * rows)
    assert cost.known
    some = np.array([4.0, 8.0, 12.0, 16.0, 32.0])
    assert cost.seconds(some) == pytest.approx(1.0 + 0.25 * some, rel=0.02)
    cost.add(8, 1000.0)  # the machine was away
    assert cost.seconds(some) == pytest.approx(1.0 + 0.25 * some, rel=0.06)


def test_a_machine_that_is_busy_elsewhere_is_slower_for_all_sizes() -> None:
    cost = CostByRows()
    for rows in (1, 8, 16, 32) * 10:
        cost.add(rows, 1.0 + 0.5 * rows)
    for _ in range(100):
        cost.add(8, 3 * (1.0 + 0.5 * 8))
    found = cost.seconds(np.array([8.0, 16.0]))
    assert found[0] == pytest.approx(15.0, rel=0.1)
    assert 1.4 < found[1] / found[0] < 1.9  # 1.8 before


def test_steps_of_sizes_between() -> None:
    cost = CostByRows()
    random = np.random.default_rng(0)
    for rows in random.integers(1, 60, 3000).tolist():
        cost.add(rows, (1.0 + 0.25 * rows) * (1 + 0.05 * random.random()))
    for rows in (1, 5, 10, 20, 40, 55):
        assert cost.seconds(np.array([rows])) == pytest.approx(1.025 * (1.0 + 0.25 * rows), rel=0.1)


def test_what_begins_beside_many_has_drafts_to_expect_where_they_pay() -> None:
    cheap = Simulated([0.9] * 32, base=1.0, slope=0.01, per_pass=0.01)
    cheap.speed()
    assert cheap.lengths.foresees(32)
    dear = Simulated([0.9] * 32, base=0.01, slope=1.0)
    dear.speed()
    assert not dear.lengths.foresees(32)
    assert dear.lengths.foresees(1), "beside few it is always found out"
    alone = Simulated([0.9], base=0.01, slope=1.0)
    alone.speed()
    assert alone.lengths.foresees(1)
    alone.lengths.learn_drafter(alone.run(None, None, 1), alone.slots[:1], np.zeros(1), np.zeros(1), 0.1)
    assert not alone.lengths.foresees(1), "unless following takes a tenth of a step"
    assert dear.lengths.foresees(8), "as long as none was tried beside so many"
    with dear.lengths.measuring():
        assert dear.lengths.foresees(32), "what following costs is measured, too"


def test_drafts_that_pay_go_on_until_they_cost() -> None:
    """Where there are none they must promise more: times are not exact."""
    simulated = Simulated([0.9] * 8, base=1.0, slope=0.68)
    lengths = simulated.lengths
    lengths._record.enter(simulated.sequences, simulated.slots)
    lengths._drafted.add(8, 16, 1.0)
    lengths._record.of_all[:2] = (90.0, 100.0)
    gains = np.arange(1, 3, 0.01)
    limit = max(gain for gain in gains if lengths._taken(np.full(8, 0.9), np.ones(8), gain).any())
    assert 1.0 < limit < 1.05
    lengths._decide(simulated.slots)
    assert not lengths._any
    lengths._any = True
    lengths._decide(simulated.slots)
    assert lengths._any
