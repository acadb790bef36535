"""The names under which a server answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.served_names import ServedName, ServedNames


@pytest.fixture
def names() -> ServedNames:
    info: Any = SimpleNamespace(name="acme/tiny", adapters=("polite", "team/terse"))
    return ServedNames(info)


def test_the_model_comes_first_and_adapters_have_it_as_their_parent(names: ServedNames) -> None:
    assert [(each.name, each.adapter, each.parent) for each in names] == [
        ("acme/tiny", "", None),
        ("polite", "polite", "acme/tiny"),
        ("team/terse", "team/terse", "acme/tiny"),
    ]


@pytest.mark.parametrize("name", [None, "", "acme/tiny"])
def test_no_name_stands_for_the_model(names: ServedNames, name: str | None) -> None:
    assert names.get(name).name == "acme/tiny"


def test_bodies_give_whole_names_and_paths_may_give_the_last_part(names: ServedNames) -> None:
    assert names.get("polite").adapter == "polite"
    assert names.find("tiny").name == "acme/tiny"
    assert names.find("terse").name == "team/terse"
    with pytest.raises(RequestError, match="'terse' does not exist; this server has 'acme/tiny', 'polite'"):
        names.get("terse")
    with pytest.raises(RequestError) as error:
        names.find("huge")
    assert (error.value.status, error.value.code, error.value.param) == (404, "model_not_found", "model")


def test_names_come_and_go(names: ServedNames) -> None:
    names.add(ServedName(name="loud", adapter="loud-2", parent="acme/tiny"))
    assert names.get("loud").adapter == "loud-2"
    with pytest.raises(ValueError, match="'loud' is taken"):
        names.add(ServedName(name="loud"))
    names.remove("loud")
    with pytest.raises(RequestError):
        names.get("loud")
    for name in ("loud", "acme/tiny"):
        with pytest.raises(ValueError, match="cannot be removed"):
            names.remove(name)


def test_a_new_worker_has_the_adapters_of_the_start(names: ServedNames) -> None:
    names.add(ServedName(name="loud", adapter="loud", parent="acme/tiny"))
    names.remove("polite")
    info: Any = SimpleNamespace(name="acme/tiny", adapters=("polite", "team/terse"))
    names.restore(info)
    assert {each.name: each.adapter for each in names} == {
        "acme/tiny": "",
        "team/terse": "team/terse",
        "polite": "polite",
    }


def test_an_adapter_that_was_replaced_is_as_at_the_start_again(names: ServedNames) -> None:
    names.remove("polite")
    names.add(ServedName(name="polite", adapter="polite", parent="acme/tiny", root="polite-2"))
    names.add(ServedName(name="kind", adapter="polite", parent="acme/tiny", root="a name of another plugin"))
    info: Any = SimpleNamespace(name="acme/tiny", adapters=("polite", "team/terse"))
    names.restore(info)
    assert names.get("polite").root == ""
    assert names.get("kind").adapter == "polite"
