from __future__ import annotations

from collections.abc import Callable

import pytest

from maxserve.core.engine.queues import Queues
from maxserve.core.engine.sequence import Sequence
from maxserve.core.interfaces.request import Request

Make = Callable[..., Sequence]


@pytest.fixture
def make() -> Make:
    def make(id: str, user: str = "") -> Sequence:
        return Sequence(Request(id=id, prompt=(1, 2, 3), user=user), limit=9, ends=frozenset(), params={})

    return make


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


def test_holders_are_those_with_a_row_newest_first(make: Make) -> None:
    queues, sequences = Queues(), [make(id) for id in "abcd"]
    for sequence in sequences:
        queues.wait(sequence)
    queues.begin(sequences[:3])
    queues.run(sequences[:2])
    for row, sequence in enumerate(sequences[:3]):
        sequence.take_row(row, 0, 16)
    sequences[1].leave_row()
    assert [s.request.id for s in queues.holders()] == ["c", "a"]


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
