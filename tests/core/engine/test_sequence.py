from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from maxserve.core.engine.sequence import AHEAD, Queues, Sequence
from maxserve.core.nouns import Request, SamplingParams

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
    assert (sequence.length, sequence.generated, sequence.last) == (203, 200, 199)


def test_its_buffer_ends_at_its_limit(make: Make) -> None:
    sequence = make(limit=150)
    for token in range(147):
        sequence.append(token)
    assert sequence.length == len(sequence.buffer) == 150


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
    sequence.row, sequence.computed = 0, 4
    assert (sequence.view.todo, sequence.view.started) == (6, True)


def test_queues_lead_from_waiting_over_begun_to_running(make: Make) -> None:
    queues, a, b = Queues(), make("a"), make("b")
    for sequence in (a, b):
        queues.wait(sequence)
    queues.begin([b])
    assert list(queues.prompts()) == [b, a]
    queues.run([b])
    assert (list(queues.running), list(queues.begun), list(queues.waiting)) == (["b"], [], ["a"])
    queues.run([b])  # it runs already
    assert "b" in queues
    assert len(queues) == 2


def test_who_is_preempted_is_first_in_line(make: Make) -> None:
    queues, a, b = Queues(), make("a"), make("b")
    for sequence in (a, b):
        queues.wait(sequence)
    queues.begin([b])
    queues.run([b])
    queues.wait_first(b)
    assert list(queues.waiting) == ["b", "a"]
    assert not queues.running


def test_who_waits_is_found_by_user_too(make: Make) -> None:
    queues = Queues()
    a1, b1, a2 = (make(id, user=id[0]) for id in ("a1", "b1", "a2"))
    for sequence in (a1, b1, a2):
        queues.wait(sequence)
    assert (list(queues.by_user), list(queues.prompts_of("a")), queues.joined) == (["a", "b"], [a1, a2], [a1, b1, a2])
    queues.begin([a2, b1])
    assert (list(queues.by_user), list(queues.prompts_of("a")), list(queues.prompts_of("b"))) == (["a"], [a2, a1], [b1])
    queues.run([a2, b1])
    assert (list(queues.prompts_of("a")), list(queues.prompts_of("b"))) == ([a1], [])
    queues.wait_first(a2)
    assert (list(queues.prompts_of("a")), queues.joined[-1]) == ([a2, a1], a2)
    queues.pop("a1")
    queues.pop("a2")
    assert not queues.by_user


def test_holders_are_those_with_a_row_newest_first(make: Make) -> None:
    queues, sequences = Queues(), [make(id) for id in "abcd"]
    for sequence in sequences:
        queues.wait(sequence)
    queues.begin(sequences[:3])
    queues.run(sequences[:2])
    for row, sequence in enumerate(sequences[:3]):
        sequence.row = row
    sequences[1].row = -1
    assert [s.request.id for s in queues.holders()] == ["c", "a"]
