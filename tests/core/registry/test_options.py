from __future__ import annotations

import pytest

from maxserve.core.config import resolve
from maxserve.core.interfaces.errors import PluginError
from maxserve.core.registry.options import PluginOptions, Preference, parse_preferences, split_commas

KINDS = ("architecture", "cache_strategy")


def test_preferences_are_read() -> None:
    assert parse_preferences(["architecture:X=acme", "cache-strategy:paged=mod:attr"], KINDS) == [
        Preference(kind="architecture", name="X", plugin="acme"),
        Preference(kind="cache_strategy", name="paged", plugin="mod:attr"),
    ]


@pytest.mark.parametrize("text", ["", "x", "architecture:X", "architecture=acme", ":X=acme", "architecture:=a", "a:b="])
def test_preference_that_does_not_read_so(text: str) -> None:
    with pytest.raises(PluginError, match="must read KIND:NAME=PLUGIN"):
        parse_preferences([text], KINDS)


def test_preference_of_an_unknown_kind() -> None:
    with pytest.raises(PluginError, match=r"no kind is called 'architectur' \(did you mean 'architecture'\?\)"):
        parse_preferences(["architectur:X=acme"], KINDS)


def test_preferences_that_contradict_each_other() -> None:
    with pytest.raises(PluginError, match="--prefer architecture:X=a and --prefer architecture:X=b contradict"):
        parse_preferences(["architecture:X=a", "architecture:X=b"], KINDS)


def test_the_same_preference_twice_is_one() -> None:
    assert len(parse_preferences(["architecture:X=a", "architecture:X=a"], KINDS)) == 1


def test_commas_part_values() -> None:
    assert split_commas(["a,b", "c", " d , e"]) == ("a", "b", "c", "d", "e")


def test_options_from_settings() -> None:
    settings = resolve({"no_plugin": ("builtin.demo",), "prefer": ("scheduler:x=y",)}, environ={})
    assert PluginOptions.from_choice(settings.plugins) == PluginOptions(
        no_plugin=("builtin.demo",), prefer=("scheduler:x=y",)
    )
