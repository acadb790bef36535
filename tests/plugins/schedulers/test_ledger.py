from __future__ import annotations

import random

from maxserve.plugins.schedulers.ledger import MOST_IDLE, Ledger


def test_the_least_served_is_next_and_of_equals_the_first() -> None:
    ledger = Ledger({}, 1.0)
    ledger.begin(set(), ["b", "a", "b", "c"], {"a", "b", "c"})
    assert ledger.next() == "b"
    ledger.charge("b", 10)
    ledger.charge("a", 3)
    assert ledger.next() == "c"
    ledger.charge("c", 5)
    assert ledger.next() == "a"
    ledger.leave()
    assert ledger.next() == "c"


def test_service_counts_by_weight() -> None:
    ledger = Ledger({"big": 4.0}, 2.0)
    for client in ("big", "small"):
        ledger.charge(client, 100)
    assert (ledger.served("big"), ledger.served("small")) == (25.0, 50.0)


def test_who_comes_back_starts_with_the_least_served_of_those_present() -> None:
    ledger = Ledger({}, 1.0)
    ledger.charge("old", 5)
    ledger.begin({"a", "b"}, [], set())
    ledger.charge("a", 300)
    ledger.charge("b", 700)
    ledger.begin({"a", "b"}, ["old"], {"old"})
    assert ledger.served("old") == 300.0


def test_who_was_served_more_keeps_that() -> None:
    ledger = Ledger({}, 1.0)
    ledger.begin({"greedy", "a"}, [], set())
    ledger.charge("greedy", 900)
    ledger.charge("a", 100)
    ledger.begin({"a"}, [], set())
    ledger.begin({"a"}, ["greedy"], {"greedy"})
    assert ledger.served("greedy") == 900.0


def test_who_is_present_is_not_lifted() -> None:
    ledger = Ledger({}, 1.0)
    ledger.begin({"a", "b"}, [], set())
    ledger.charge("b", 500)
    ledger.begin({"a", "b"}, ["a"], {"a"})
    assert ledger.served("a") == 0.0


def test_a_client_whose_requests_are_gone_sets_no_floor() -> None:
    ledger = Ledger({}, 1.0)
    ledger.begin({"a"}, ["gone"], {"gone"})
    ledger.charge("a", 400)
    ledger.begin({"a"}, ["new"], {"new"})
    assert ledger.served("new") == 400.0
    assert ledger.next() == "new"


def test_absent_clients_are_forgotten_once_that_makes_no_difference() -> None:
    ledger = Ledger({}, 1.0)
    ledger.begin({"stays"}, [], set())
    for number in range(1000):
        ledger.begin({"stays", str(number)}, [], set())
        ledger.charge(str(number), 7)
        ledger.charge("stays", 7)
    ledger.begin({"stays"}, [], set())
    assert len(ledger) == 1


def test_debts_of_many_are_not_remembered_for_ever() -> None:
    rng, ledger = random.Random(0), Ledger({}, 1.0)
    for number in range(3 * MOST_IDLE):
        ledger.begin({"stays", str(number)}, [], set())
        ledger.charge(str(number), rng.randint(1, 9))
    ledger.begin({"stays"}, [], set())
    assert len(ledger) <= MOST_IDLE + 2
    assert ledger.served("stays") == 0.0
