"""The names under which a server answers."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.served_names import ServedName, ServedNames


@pytest.fixture
def names() -> ServedNames:
    info: Any = SimpleNamespace(
        name="acme/tiny", adapters=("polite", "team/terse"), adapter_sources={"polite": "/a/nice"}
    )
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


def test_those_of_the_start_have_the_name_of_their_folder_as_root(names: ServedNames) -> None:
    assert [each.root for each in names] == ["", "nice", ""]


def test_names_are_those_of_the_adapters_that_a_new_worker_has(names: ServedNames) -> None:
    names.add(ServedName(name="loud", adapter="loud", parent="acme/tiny"))
    names.add(ServedName(name="kind", adapter="polite", parent="acme/tiny", root="a name of another plugin"))
    names.add(ServedName(name="terser", adapter="team/terse", parent="acme/tiny"))
    names.remove("polite")
    sources = {"polite": "/a/nicer", "calm": "/a/calm"}
    info: Any = SimpleNamespace(name="acme/tiny", adapters=tuple(sources), adapter_sources=sources)
    names.restore(info)
    assert {each.name: (each.adapter, each.root) for each in names} == {
        "acme/tiny": ("", ""),
        "kind": ("polite", "a name of another plugin"),
        "polite": ("polite", "nicer"),
        "calm": ("calm", "calm"),
    }


def test_names_that_are_left_out_say_why_until_they_are_added(names: ServedNames) -> None:
    async def load(name: str) -> None:
        raise AssertionError(f"{name} is loaded")

    names.load_with(load)
    names.leave_out({"deadly": RequestError("workers died of it", status=503)})
    with pytest.raises(RequestError, match="workers died of it"):
        names.get("deadly")
    with pytest.raises(RequestError, match="workers died of it") as caught:
        asyncio.run(names.load("deadly"))
    assert caught.value.status == 503
    names.add(ServedName(name="deadly", adapter="deadly", parent="acme/tiny"))
    assert names.get("deadly").adapter == "deadly"


def test_names_that_are_not_served_are_loaded_where_something_has_them(names: ServedNames) -> None:
    asked: list[str] = []

    async def load(name: str) -> None:
        asked.append(name)
        if name == "loud":
            names.add(ServedName(name="loud", adapter="loud", parent="acme/tiny"))
        if name == "broken":
            raise RequestError("it is broken")

    async def second(name: str) -> None:
        asked.append(f"{name}?")

    names.load_with(load)
    names.load_with(second)
    for name in (None, "", "acme/tiny", "tiny", "polite", "terse", "loud", "loud", "huge"):
        asyncio.run(names.load(name))
    assert asked == ["tiny", "tiny?", "terse", "terse?", "loud", "huge", "huge?"], "ends of names are names, too"
    with pytest.raises(RequestError, match="it is broken"):
        asyncio.run(names.load("broken"))
    assert names.get("loud").adapter == "loud"
