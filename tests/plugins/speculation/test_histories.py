"""What drafters remember of sequences: bounded, and gone with them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from maxserve.plugins.speculation import histories
from maxserve.plugins.speculation.histories import INDEXED, REMEMBERED, Histories, History


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
    assert list(known) == [str(index) for index in range(3, most + 3)]
    assert known.read(sequence("0", [1, 2, 3, 1, 2])).places(9) == [2]
    assert known.remembered == (most - 1) * INDEXED + 5


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
