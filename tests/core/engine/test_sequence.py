from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from maxserve.core.engine.ledger import Ledger
from maxserve.core.engine.sequence import AHEAD, Sequence
from maxserve.core.interfaces.request import Request, SamplingParams

Make = Callable[..., Sequence]


@pytest.fixture
def make() -> Make:
    def make(
        id: str = "a", prompt: tuple[int, ...] = (1, 2, 3), limit: int = 400, seed: int | None = 5, user: str = ""
    ) -> Sequence:
        request = Request(id=id, prompt=prompt, params=SamplingParams(seed=seed), user=user)
        return Sequence(request, limit=limit, ends=frozenset(), params={})

    return make


def test_tokens_are_the_prompt_and_what_was_appended(make: Make) -> None:
    sequence = make()
    for token in range(200):  # longer than any buffer it begins with
        sequence.append(token)
    assert sequence.tokens.tolist() == [1, 2, 3, *range(200)]
    assert (sequence.length, sequence.generated) == (203, 200)


def test_what_it_generated_is_its_own_count(make: Make) -> None:
    """Its slot is given to another when it is over; who kept books on it still reads what was."""
    ledger = Ledger(1)
    sequence = Sequence(Request(id="a", prompt=(1,) * 9), limit=99, ends=frozenset(), params={}, ledger=ledger)
    for token in range(5):
        sequence.append(token)
    ledger.close(sequence.slot)
    other = Sequence(Request(id="b", prompt=(1,)), limit=99, ends=frozenset(), params={}, ledger=ledger)
    assert other.slot == sequence.slot
    assert (sequence.view.generated, other.view.generated) == (5, 0)


def test_its_buffer_ends_at_its_limit(make: Make) -> None:
    sequence = make(limit=150)
    for token in range(147):
        sequence.append(token)
        assert sequence.tokens[-1] == token
    assert sequence.length == len(sequence.buffer) == 150


@dataclass(frozen=True)
class Deadline:
    deadline: float = 0.0


def test_drafts_lie_behind_its_tokens_when_the_buffer_grows(make: Make) -> None:
    sequence = make()
    for token in range(200):
        sequence.append(token)  # not in the buffer yet
        assert sequence.drafted(0).tolist() == [1, 2, 3, *range(token + 1)]
    sequence.draft([7, 8, 9])
    assert sequence.drafted(2).tolist()[-3:] == [199, 7, 8]


def test_drafts_are_cut_with_all_that_is_known_of_them(make: Make) -> None:
    sequence = make()
    sequence.draft([5, 6, 7], [None, torch.ones(8), None], certain=2)
    sequence.cut_drafts(1)
    assert (sequence.drafts, list(sequence.draft_probs), sequence.certain_drafts) == ([5], [None], 1)
    sequence.cut_drafts(0)
    assert (sequence.drafts, list(sequence.draft_probs), sequence.certain_drafts) == ([], [], 0)


def test_policies_see_what_was_cached_how_much_may_come_and_their_own_fields() -> None:
    request = Request(id="a", prompt=(1,) * 9, params=SamplingParams(max_tokens=7))
    sequence = Sequence(request, limit=99, ends=frozenset(), params={Deadline: Deadline(2.5)})
    sequence.peeked = (4, 6)
    assert (sequence.view.cached, sequence.view.todo, sequence.view.max_tokens) == (6, 3, 7)
    assert sequence.view.params(Deadline) == Deadline(2.5)
    other = Sequence(Request(id="b", prompt=(1,)), limit=99, ends=frozenset(), params={})
    assert (other.view.cached, other.view.max_tokens, other.view.params(Deadline)) == (0, None, Deadline())


def test_samplers_draw_numbers_of_their_own(make: Make) -> None:
    first, again, other = make(seed=5), make(seed=5), make(seed=6)
    numbers = first.generator.random(4).tolist()
    assert numbers == again.generator.random(4).tolist() != other.generator.random(4).tolist()
    assert first.generator is first.generator
    assert first.uniform() == make(seed=5).uniform(), "what draws the tokens is not used up"
    assert (first.seed, make(seed=None).seed) == (5, None)


def test_a_seed_decides_every_number(make: Make) -> None:
    expected = np.random.Generator(np.random.Philox(5)).random(3 * AHEAD)
    sequence = make(seed=5)
    assert [sequence.uniform() for _ in range(3 * AHEAD)] == expected.tolist()
    assert make(seed=6).uniform() != expected[0]


@pytest.mark.parametrize("seed", [-1, 2**64 - 1])
def test_any_whole_number_is_a_seed(make: Make, seed: int) -> None:
    assert make(seed=seed).uniform() == make(seed=2**64 - 1).uniform()


def test_without_a_seed_numbers_differ(make: Make) -> None:
    assert make(seed=None).uniform() != make(seed=None).uniform()


def test_a_view_answers_and_counts_what_the_cache_has(make: Make) -> None:
    sequence = make(prompt=tuple(range(10)))
    assert (sequence.view.todo, sequence.view.length, sequence.view.started) == (10, 10, False)
    sequence.peeked = (0, 8)
    assert sequence.view.todo == 2
    sequence.take_row(0, 4, 16)
    assert (sequence.view.todo, sequence.view.started) == (6, True)
