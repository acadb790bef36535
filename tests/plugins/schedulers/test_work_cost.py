from __future__ import annotations

import numpy as np
import pytest

from maxserve.interfaces.scheduler import Work
from maxserve.plugins.schedulers.work_cost import EVERY, GROWTH, WorkCost

BASE, TOKEN, CONTEXT, PAIR = 0.01, 4e-4, 1e-6, 7e-7
DECODING = Work.of(np.arange(100, 106), np.arange(101, 107))


def chunk(start: int, tokens: int) -> Work:
    return Work.of(np.array([start]), np.array([start + tokens]))


def taken(work: Work) -> float:
    return BASE + TOKEN * work.tokens + CONTEXT * work.context + PAIR * work.pairs


def learned(*works: Work, noise: float = 0.0, slower: float = 1.0) -> WorkCost:
    rng, cost = np.random.default_rng(0), WorkCost()
    for work in works:
        cost.learn(work, slower * taken(work) * rng.lognormal(0, noise))
    return cost


def test_work_counts_tokens_context_and_what_each_token_sees() -> None:
    assert chunk(3, 2) == Work(tokens=2, context=5, pairs=4 + 5)
    assert Work(tokens=6, context=sum(range(101, 107)), pairs=sum(range(101, 107))) == DECODING
    assert chunk(0, 2) + chunk(1, 1) == Work(3, 4, 1 + 2 + 2)


def test_the_parts_are_found_and_new_sizes_foretold() -> None:
    works = [DECODING, chunk(0, 40), chunk(40, 200), chunk(700, 100), DECODING + chunk(240, 300), DECODING + DECODING]
    cost = learned(*works)
    for work in (*works, chunk(2000, 250), DECODING + chunk(1500, 64)):
        assert cost.seconds(work) == pytest.approx(taken(work), rel=0.02)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_chunks_of_a_long_prompt_take_about_as_long_as_wanted(noise: float) -> None:
    rng, cost = np.random.default_rng(1), learned(*[DECODING] * 20, noise=noise)
    computed, steps = 0, []
    while computed < 4000:
        tokens = min(4000 - computed, cost.most(DECODING, computed, 0.17))
        assert tokens > 0
        work = DECODING + chunk(computed, tokens)
        steps.append(taken(work) * rng.lognormal(0, noise))
        cost.learn(work, steps[-1])
        computed += tokens
    assert max(steps) < 0.3, "even the first ones, of which nothing was known"
    assert np.mean(steps[8:-1]) == pytest.approx(0.17, rel=0.1)


def test_nothing_is_believed_far_beyond_what_was_seen() -> None:
    assert WorkCost().seconds(DECODING) == 0
    assert WorkCost().most(DECODING, 0, 0.2) == GROWTH * DECODING.tokens, "a prompt moves before anything is known"
    assert learned(chunk(0, 2), DECODING).most(DECODING, 0, 100.0) == GROWTH * DECODING.tokens
    assert learned(DECODING, chunk(0, 500)).most(DECODING, 0, 100.0) == GROWTH * 500


def test_nothing_fits_where_there_is_no_time_left() -> None:
    cost = learned(DECODING, chunk(0, 500))
    assert cost.most(DECODING, 0, cost.seconds(DECODING)) == 0


def test_no_part_is_below_zero() -> None:
    cost = WorkCost()
    cost.learn(chunk(0, 10), 0.5)  # the first step is slow, as first steps are
    cost.learn(chunk(0, 100), 0.05)
    assert cost.seconds(chunk(0, 1000)) >= cost.seconds(chunk(0, 100)) > 0


def test_a_machine_that_gets_slower_is_noticed() -> None:
    works = [DECODING, chunk(0, 100), chunk(100, 200), DECODING + chunk(500, 100)]
    cost = learned(*works)
    for work in works * 10:
        cost.learn(work, 3 * taken(work))
    assert cost.seconds(works[-1]) == pytest.approx(3 * taken(works[-1]), rel=0.1)


def test_steps_without_a_draw_and_those_behind_them_tell_nothing() -> None:
    cost = WorkCost()
    assert [cost.wants(1, draws=draws, decodes=False) for draws in (True, False, True, True)] == [
        True,
        False,
        False,
        True,
    ]


def test_of_steps_that_only_decode_few_are_learned_from() -> None:
    cost = learned(DECODING, chunk(0, 100))
    assert sum(cost.wants(number, draws=True, decodes=True) for number in range(10 * EVERY)) == 10
    assert all(cost.wants(number, draws=True, decodes=False) for number in range(EVERY))
