"""How many drafts are verified, by what steps cost and by how many drafts stand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from maxserve.core.engine.draft_lengths import PROBE, SIZES, DraftLengths, StepCost

MOST = 5


class Simulated:
    """Sequences that decode, drafts that stand with a given probability, and steps of a given cost."""

    def __init__(self, shares: list[float], *, base: float, slope: float, per_pass: float = 0.0, seed: int = 0) -> None:
        self.shares = shares
        self.lengths = DraftLengths(MOST)
        self.sequences = [SimpleNamespace(acceptance=None, draft_depth=None) for _ in shares]
        self.base, self.slope, self.per_pass = base, slope, per_pass
        self.random = np.random.default_rng(seed)
        self.wanted = np.zeros(len(shares), dtype=np.int64)
        self.seconds, self.tokens = 0.0, 0

    def step(self) -> None:
        drafts = self.wanted
        stood = np.array(
            [self._stood(share, int(count)) for share, count in zip(self.shares, drafts, strict=True)], dtype=np.int64
        )
        rows = len(self.shares) + int(drafts.sum())
        took = self.base + self.slope * rows
        step = SimpleNamespace(drafts=drafts, sequences=self.sequences)
        in_flight: Any = SimpleNamespace(
            step=step, verified=lambda: (drafts, stood), drawing=self.sequences, prompt_tokens=0
        )
        self.lengths.learn(in_flight, rows, took)
        self.wanted = np.full(len(self.shares), MOST, dtype=np.int64)
        self.lengths.cut(in_flight, self.wanted)
        passes = self.per_pass * int(self.wanted.max())
        self.lengths.learn_pass(self.wanted, passes)
        self.seconds += took + passes
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
    assert simulated.wanted.tolist() == [MOST]


@pytest.mark.parametrize("sequences", [1, 8, 32])
@pytest.mark.parametrize(("base", "slope"), [(1.0, 0.02), (1.0, 0.2), (0.1, 1.0)])
@pytest.mark.parametrize("per_pass", [0.0, 0.1])
def test_drafts_that_never_stand_cost_little(sequences: int, base: float, slope: float, per_pass: float) -> None:
    assert Simulated([0.0] * sequences, base=base, slope=slope, per_pass=per_pass).speed() > 0.97


def test_where_each_row_costs_as_much_as_a_step_there_are_few() -> None:
    simulated = Simulated([0.7] * 16, base=0.01, slope=1.0)
    assert simulated.speed() > 0.97
    assert simulated.wanted.sum() <= 16


@pytest.mark.parametrize("sequences", [1, 8])
def test_it_is_as_fast_as_the_best_fixed_length(sequences: int) -> None:
    share, base, slope, per_pass = 0.7, 1.0, 0.1, 0.05

    def fixed(k: int) -> float:
        tokens = sum(share**j for j in range(k + 1)) * sequences
        took = base + slope * sequences * (k + 1) + per_pass * k
        return tokens / took / (sequences / (base + slope * sequences))

    found = Simulated([share] * sequences, base=base, slope=slope, per_pass=per_pass).speed()
    assert found > 0.93 * max(fixed(k) for k in range(MOST + 1))


def test_those_whose_drafts_stand_have_more() -> None:
    simulated = Simulated([0.95] * 4 + [0.1] * 4, base=1.0, slope=0.2)
    simulated.speed()
    assert simulated.wanted[:4].min() > simulated.wanted[4:].max()


def test_a_text_that_becomes_easy_is_found() -> None:
    simulated = Simulated([0.0], base=1.0, slope=0.2)
    simulated.speed()
    simulated.shares[0] = 0.95
    simulated.tokens, simulated.seconds = 0, 0.0
    assert simulated.speed(20 * PROBE) > 1.5


def test_nothing_beyond_what_is_wanted() -> None:
    lengths = DraftLengths(MOST)
    lengths._cost.add(1, 1.0)
    lengths._cost.add(2, 1.0)
    wanted = np.array([0, 2, 5], dtype=np.int64)
    step = SimpleNamespace(sequences=[SimpleNamespace(acceptance=0.99, draft_depth=None) for _ in range(3)])
    lengths.cut(SimpleNamespace(step=step), wanted)  # type: ignore[arg-type]
    assert wanted.tolist() == [0, 2, 5]


def test_the_line_of_costs() -> None:
    cost = StepCost()
    assert cost.line() == (1.0, 0.0)
    for _ in range(5):
        cost.add(4, 2.0)
    assert cost.line() == pytest.approx((2.0, 0.0))  # rows may be free
    for rows in (4, 8, 12) * 10:
        cost.add(rows, 1.0 + 0.25 * rows)
    assert cost.line() == pytest.approx((1.0, 0.25))
    cost.add(8, 1000.0)  # the machine was away
    assert cost.line() == pytest.approx((1.0, 0.25), rel=0.05)
    for rows in (4, 8, 12) * 60:
        cost.add(rows, 2.0 + 0.5 * rows)  # texts are longer now
    assert cost.line() == pytest.approx((2.0, 0.5))
    for rows in range(1000, 1000 + 2 * SIZES):
        cost.add(rows, 1.0)
    assert len(cost._times) == SIZES
