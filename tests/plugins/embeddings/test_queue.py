"""The order of encoding: requests take turns, within the bounds of a step."""

from __future__ import annotations

from maxserve.core.interfaces.request import EncodeRequest
from maxserve.plugins.embeddings.queue import EncodeQueue


def request(id: str, *lengths: int) -> EncodeRequest:
    return EncodeRequest(id=id, texts=tuple((1,) * length for length in lengths))


def step(queue: EncodeQueue, tokens: int = 100, texts: int = 100) -> list[tuple[str, int]]:
    """The (request, index) of each text of a step; requests of which all is taken leave, as in the engine."""
    taken = queue.take(tokens, texts)
    for work in list(queue):
        if not work.left:
            queue.drop(work.request.id)
    return [(each.work.request.id, each.index) for each in taken]


def test_texts_of_a_step_are_sorted_by_length_and_keep_their_places() -> None:
    queue = EncodeQueue()
    queue.add(request("a", 5, 2, 9))
    queue.add(request("b", 4))
    assert step(queue) == [("a", 1), ("b", 0), ("a", 0), ("a", 2)]
    assert len(queue) == 0


def test_a_step_keeps_to_its_tokens_and_texts() -> None:
    queue = EncodeQueue()
    queue.add(request("a", *[10] * 7))
    assert len(step(queue, tokens=35)) == 3
    assert len(step(queue, texts=2)) == 2
    assert len(step(queue)) == 2


def test_a_text_that_is_longer_than_a_step_runs_alone() -> None:
    queue = EncodeQueue()
    queue.add(request("a", 50, 1))
    queue.add(request("b", 1))
    assert step(queue, tokens=20) == [("a", 0)]
    assert sorted(step(queue, tokens=20)) == [("a", 1), ("b", 0)]


def test_a_big_request_does_not_hold_up_small_ones() -> None:
    queue = EncodeQueue()
    queue.add(request("big", *[10] * 1000))
    assert {id for id, _ in step(queue)} == {"big"}
    for name in ("x", "y", "z"):
        queue.add(request(name, 10))
    served = {id for _ in range(2) for id, _ in step(queue)}
    assert served == {"big", "x", "y", "z"}


def test_many_small_requests_do_not_hold_up_a_big_one() -> None:
    queue = EncodeQueue()
    queue.add(request("big", *[10] * 40))
    rounds = 0
    while "big" in queue:
        for number in range(9):  # nearly all that a step holds, every time
            queue.add(request(f"small {rounds} {number}", 10))
        step(queue)
        rounds += 1
        assert rounds < 1000


def test_what_one_cannot_use_of_its_share_another_gets() -> None:
    queue = EncodeQueue()
    queue.add(request("a", 1))
    queue.add(request("b", *[10] * 20))
    assert len(step(queue, tokens=100)) == 10  # 1 + 9 x 10


def test_nobody_waits_for_ever_behind_a_text_that_does_not_fit() -> None:
    queue = EncodeQueue()
    queue.add(request("small", *[1] * 500))
    queue.add(request("long", 90))
    for _ in range(3):
        if ("long", 0) in step(queue, tokens=95):
            return
    raise AssertionError("the long text never had its turn")


def test_dropped_requests_are_gone() -> None:
    queue = EncodeQueue()
    queue.add(request("a", 1))
    assert queue.drop("a")
    assert not queue.drop("a")
    assert step(queue) == []
