"""Two plugins that declare one name."""

from __future__ import annotations

from typing import Any

import pytest

from maxserve.core.interfaces.architecture import Architecture
from maxserve.core.interfaces.config import ConfigSection
from maxserve.core.interfaces.errors import PluginError
from maxserve.core.interfaces.scheduler import Scheduler
from maxserve.core.registry.complaints import Complaints
from maxserve.core.registry.conflicts import settle
from maxserve.core.registry.entries import Entry
from maxserve.core.registry.options import Preference
from maxserve.core.registry.sources import BUILT_IN, CUSTOM, ENTRY_POINT


def entry(component: Any, plugin: str, origin: str = ENTRY_POINT) -> Entry[Any]:
    return Entry(
        kind=component.kind,
        component=component,
        plugin=plugin,
        origin=origin,
        distribution=f"{plugin}-dist",
        version="1.0",
        where="x:y",
    )


def scheduler(plugin: str, name: str = "fair", origin: str = ENTRY_POINT) -> Entry[Any]:
    return entry(Scheduler(name=name, build="x:y"), plugin, origin)


def architecture(plugin: str, name: str, *aliases: str, origin: str = ENTRY_POINT) -> Entry[Any]:
    return entry(Architecture(name=name, build="x:y", aliases=aliases), plugin, origin)


def decide(*entries: Entry[Any], prefer: tuple[str, str, str] | None = None) -> tuple[list[tuple[str, str]], list[str]]:
    complaints = Complaints(strict=True)
    preferences = [Preference(kind=prefer[0], name=prefer[1], plugin=prefer[2])] if prefer else []
    left = settle(entries[0].kind, entries, preferences, complaints)
    return [(each.plugin, each.name) for each in left], complaints.warnings


def test_different_names_stay() -> None:
    left, _ = decide(scheduler("a", "one"), scheduler("b", "two"))
    assert left == [("a", "one"), ("b", "two")]


def test_one_name_twice_names_both_and_the_way_out() -> None:
    with pytest.raises(PluginError) as error:
        decide(scheduler("a"), scheduler("b"))
    assert str(error.value) == (
        "scheduler 'fair' is declared by plugin 'a' (a-dist 1.0) and by plugin 'b' (b-dist 1.0); "
        "choose with --prefer scheduler:fair=a or --prefer scheduler:fair=b"
    )


def test_an_installed_plugin_does_not_replace_a_built_in() -> None:
    with pytest.raises(PluginError, match="--prefer scheduler:fair=builtin or --prefer scheduler:fair=a"):
        decide(scheduler("builtin", origin=BUILT_IN), scheduler("a"))


@pytest.mark.parametrize("preferred", ["a", "b"])
def test_preference_decides(preferred: str) -> None:
    left, _ = decide(scheduler("a"), scheduler("b"), prefer=("scheduler", "fair", preferred))
    assert left == [(preferred, "fair")]


def test_preference_for_a_plugin_that_does_not_declare_it() -> None:
    with pytest.raises(PluginError, match="--prefer scheduler:fair=c: that plugin does not declare it; these do: a, b"):
        decide(scheduler("a"), scheduler("b"), prefer=("scheduler", "fair", "c"))


def test_preference_for_a_name_that_nobody_declares() -> None:
    with pytest.raises(PluginError, match=r"--prefer scheduler:fiar=a: no scheduler is called 'fiar' \(did you mean"):
        decide(scheduler("a"), prefer=("scheduler", "fiar", "a"))


def test_one_plugin_that_declares_a_name_twice() -> None:
    with pytest.raises(PluginError, match=r"plugin 'a' \(a-dist 1.0\) declares scheduler 'fair' twice"):
        decide(scheduler("a"), scheduler("a"))


def test_custom_architecture_replaces_a_built_in_with_one_warning() -> None:
    left, warnings = decide(architecture("b", "X", origin=BUILT_IN), architecture("mine", "X", origin=CUSTOM))
    assert left == [("mine", "X")]
    assert warnings == ["architecture 'X' of plugin 'mine' (mine-dist 1.0) replaces that of plugin 'b' (b-dist 1.0)"]


def test_a_replaced_built_in_keeps_its_aliases() -> None:
    built_in = architecture("b", "LlamaForCausalLM", "MistralForCausalLM", origin=BUILT_IN)
    left, _ = decide(built_in, architecture("mine", "LlamaForCausalLM", origin=CUSTOM))
    assert left == [("b", "MistralForCausalLM"), ("mine", "LlamaForCausalLM")]


def test_custom_architecture_with_a_suffix_replaces_the_plain_built_in() -> None:
    left, warnings = decide(architecture("b", "X", origin=BUILT_IN), architecture("mine", "X_Legacy", origin=CUSTOM))
    assert left == [("mine", "X_Legacy")]
    assert len(warnings) == 1


def test_preference_keeps_the_built_in_from_being_replaced() -> None:
    left, warnings = decide(
        architecture("b", "X", origin=BUILT_IN),
        architecture("mine", "X", origin=CUSTOM),
        prefer=("architecture", "X", "b"),
    )
    assert left == [("b", "X")]
    assert warnings == []


def test_two_custom_architectures() -> None:
    with pytest.raises(PluginError, match=r"declared by plugin 'one' .* and by plugin 'two'"):
        decide(architecture("one", "X", origin=CUSTOM), architecture("two", "X", origin=CUSTOM))


def test_custom_architecture_against_an_installed_one() -> None:
    with pytest.raises(PluginError, match="--prefer architecture:X=mine or --prefer architecture:X=acme"):
        decide(
            architecture("b", "X", origin=BUILT_IN), architecture("acme", "X"), architecture("mine", "X", origin=CUSTOM)
        )


def test_aliases_clash_as_names_do() -> None:
    with pytest.raises(PluginError, match=r"architecture 'Z' is declared by plugin 'a' .* and by plugin 'b'"):
        decide(architecture("a", "X", "Z"), architecture("b", "Y", "Z"))
    left, _ = decide(architecture("a", "X", "Z"), architecture("b", "Y", "Z"), prefer=("architecture", "Z", "b"))
    assert left == [("a", "X"), ("b", "Y")]


def test_variants_of_one_plugin_live_side_by_side() -> None:
    left, _ = decide(architecture("a", "X_Legacy"), architecture("a", "X_ModuleV3"))
    assert left == [("a", "X_Legacy"), ("a", "X_ModuleV3")]


def test_sections_clash_whether_spelled_with_dash_or_underscore() -> None:
    sections = [entry(ConfigSection(name=name, schema="x:y"), plugin) for name, plugin in (("a-b", "a"), ("a_b", "b"))]
    with pytest.raises(
        PluginError, match=r"config 'a_b' is declared by .*; leave out one of them with --no-plugin a or"
    ):
        decide(*sections)


def test_leniently_the_first_is_kept() -> None:
    complaints = Complaints(strict=False)
    left = settle("scheduler", [scheduler("a"), scheduler("b")], [], complaints)
    assert [each.plugin for each in left] == ["a"]
    assert len(complaints.errors) == 1


def test_a_custom_module_replaces_architectures_only() -> None:
    """What else it declares has no right over built-ins that an installed plugin has not."""
    with pytest.raises(PluginError, match="--prefer scheduler:fair=builtin or --prefer scheduler:fair=mine"):
        decide(scheduler("builtin", origin=BUILT_IN), scheduler("mine", origin=CUSTOM))
