"""What drafters remember of sequences: bounded, and gone with them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from maxserve.plugins.speculation import histories
from maxserve.plugins.speculation.histories import INDEXED, RECENT, REMEMBERED, SHARE, Histories, History


def sequence(id: str, tokens: list[int]) -> Any:
    return SimpleNamespace(id=id, tokens=np.array(tokens, dtype=np.int64))


def step(*ended: str) -> Any:
    return SimpleNamespace(sequences=[sequence(id, []) for id in ended], kept=np.zeros(len(ended), dtype=np.int64))


def made() -> Histories[History]:
    return Histories(lambda: History(2))


def test_it_knows_where_the_last_run_was_before() -> None:
    found = made().read(sequence("a", [1, 2, 3, 1, 2, 4, 1, 2]))
    assert (found.places(9), found.places(1)) == ([2, 5], [5])


def test_the_oldest_sequences_are_forgotten() -> None:
    known = made()
    most = REMEMBERED // INDEXED
    for index in range(most + 3):
        known.read(sequence(str(index), list(range(INDEXED))))
        for _ in range(RECENT + 1):
            known.begin(step())
    assert list(known) == [str(index) for index in range(3, most + 3)]
    assert known.read(sequence("0", [1, 2, 3, 1, 2])).places(9) == [2]
    assert known.remembered == (most - 1) * INDEXED + 5


def test_more_long_prompts_than_are_remembered_are_each_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that come last have their ends only, and answers that grow give room once, not in every step."""
    monkeypatch.setattr(histories, "REMEMBERED", 3 * INDEXED)
    entered: list[int] = []

    class Counting(History):
        def read(self, tokens: Any, most: int = INDEXED) -> None:
            before = self.indexed
            super().read(tokens, most)
            entered.append(self.indexed - before)

    known: Histories[Counting] = Histories(lambda: Counting(2))
    text = list(range(INDEXED)) + [7, 8] * 30
    found: list[Counting] = []
    for count in range(1, 40):
        known.begin(step())
        entered.clear()
        found = [known.read(sequence(str(i), text[: INDEXED + count])) for i in range(8)]
        assert known.remembered == sum(each.indexed for each in found) <= 3 * INDEXED + 8 * 2 * SHARE
        if count == 1:
            assert entered == [INDEXED] * 3 + [SHARE] * 5
        else:
            assert sum(entered) <= 8 + SHARE
    assert sum(each.indexed > INDEXED for each in found) >= 2, "who was first keeps a whole history"
    assert all(each.places(1) for each in found)
    assert all(each.length == INDEXED + 39 for each in found)


def test_sequences_that_are_over_are_forgotten() -> None:
    known = made()
    known.read(sequence("a", [1, 2, 3, 1, 2]))
    known.read(sequence("b", [1, 2]))
    known.begin(step("a", "c"))
    assert (list(known), known.remembered) == (["b"], 2)


def test_sequences_that_do_not_come_any_more_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """They were preempted, or their clients went away: nothing says so."""
    monkeypatch.setattr(histories, "UNREAD", 3)
    known = made()
    for index in range(9):
        known.begin(step())
        known.read(sequence("stays", list(range(index + 1))))
        if index < 2:
            known.read(sequence("goes", list(range(index + 1))))
        assert ("goes" in known) == (index < 5)
    assert known.remembered == 9


def test_an_id_that_is_used_again_begins_anew() -> None:
    known = made()
    known.read(sequence("a", [1, 2, 3, 1, 2]))
    assert known.read(sequence("a", [3, 1, 2])).length == 3
    assert known.remembered == 3
