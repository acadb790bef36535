"""Which adapters a new worker is to have, after deaths of workers."""

from __future__ import annotations

import pytest

from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.request import AdapterChange
from maxserve.core.runtime.adapter_changes import AdapterChanges


def load(name: str, source: str = "", *, first_use: bool = False, replace: bool = False) -> AdapterChange:
    pinned = None if first_use else False
    return AdapterChange(id=name, action="load", name=name, source=source or f"/{name}", pinned=pinned, replace=replace)


def loaded(changes: AdapterChanges, change: AdapterChange) -> None:
    number = changes.begin(change)
    changes.end(number)
    changes.made(number, change)


def again(changes: AdapterChanges) -> list[tuple[str, str]]:
    return [(change.action, change.name) for change in changes.for_a_new_worker]


@pytest.fixture
def changes() -> AdapterChanges:
    made = AdapterChanges()
    made.worker_ready(("start",))
    return made


def test_one_that_two_workers_died_of_while_they_read_it_is_left_out(changes: AdapterChanges) -> None:
    """The others that wait to be read are not."""
    for left_out in ([], ["bad"]):
        for name in ("bad", "good"):
            changes.begin(load(name, first_use=True))
        assert changes.worker_died(()) == left_out
        changes.worker_ready(("start",))
    changes.begin(load("good", first_use=True))
    with pytest.raises(RequestError, match=r"'bad' is left out.*load_inplace") as raised:
        changes.begin(load("bad", first_use=True))
    assert raised.value.status == 503
    with pytest.raises(RequestError) as raised:
        changes.begin(load("bad"))
    assert raised.value.status == 409
    assert {name: error.status for name, error in changes.left_out.items()} == {"bad": 503}


def test_one_that_cannot_be_read_again_is_left_out_and_the_others_are_not(changes: AdapterChanges) -> None:
    for name in ("good", "bad", "other"):
        loaded(changes, load(name))
        changes.answered(name)
    assert changes.worker_died(["good", "bad"]) == []
    for left_out in ([], ["bad"]):
        assert ("load", "bad") in again(changes)
        changes.reads_again("good")
        changes.reads_again("bad")
        assert changes.worker_died(()) == left_out
    assert again(changes) == [("load", "good"), ("load", "other")]


def test_a_worker_that_died_of_the_first_use_and_one_that_died_while_it_read_it_again_are_two(
    changes: AdapterChanges,
) -> None:
    loaded(changes, load("bad"))
    assert changes.worker_died(["bad"]) == []
    changes.reads_again("bad")
    assert changes.worker_died(()) == ["bad"]


def test_the_first_use_may_be_what_ends_workers(changes: AdapterChanges) -> None:
    """That of one that has been answered with is not."""
    for name in ("bad", "good"):
        loaded(changes, load(name))
    changes.answered("good")
    assert changes.worker_died(["", "bad", "good"]) == []
    changes.worker_ready(("start", "bad", "good"))
    assert changes.worker_died(["", "bad", "good"]) == ["bad"]
    assert again(changes) == [("load", "good")]


def test_deaths_before_it_was_of_use_are_forgotten(changes: AdapterChanges) -> None:
    for _ in range(3):
        loaded(changes, load("x"))
        assert changes.worker_died(["x"]) == []
        changes.answered("x")


def test_one_of_the_start_that_a_bad_one_has_replaced_does_not_take_its_name_again(changes: AdapterChanges) -> None:
    loaded(changes, load("start", "/bad", replace=True))
    for _ in range(2):
        changes.reads_again("start")
        changes.worker_died(())
    assert again(changes) == [("unload", "start")]
    assert set(changes.left_out) == {"start"}


def test_it_is_served_again_once_it_has_been_loaded_in_place_or_from_elsewhere(changes: AdapterChanges) -> None:
    for mended in (load("bad", replace=True), load("bad", "/elsewhere")):
        for _ in range(2):
            changes.begin(load("bad"))
            changes.worker_died(())
        assert set(changes.left_out) == {"bad"}
        loaded(changes, mended)
        assert not changes.left_out
        assert again(changes) == [("load", "bad")]


def test_other_deaths_have_nothing_to_do_with_adapters(changes: AdapterChanges) -> None:
    loaded(changes, load("idle"))
    for _ in range(5):
        assert changes.worker_died([""]) == []
    assert again(changes) == [("load", "idle")]
