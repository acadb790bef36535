from __future__ import annotations

from typing import Any

import pytest

from maxserve.core.interfaces.architecture import Architecture
from maxserve.core.interfaces.errors import PluginError, UsageError, cause
from maxserve.core.interfaces.scheduler import Scheduler
from maxserve.core.registry.entries import Entry, Registry, find_architecture, load_ref, nearest, where


def entry(component: Any, plugin: str = "acme") -> Entry[Any]:
    return Entry(
        kind=component.kind,
        component=component,
        plugin=plugin,
        origin="entry point",
        distribution="acme-llm",
        version="1.2",
        where=where(component.build),
    )


def schedulers(*names: str) -> Registry[Scheduler]:
    return Registry("scheduler", [entry(Scheduler(name=name, build="x:y")) for name in names])


def architectures(*declared: Architecture) -> Registry[Architecture]:
    return Registry("architecture", [entry(architecture) for architecture in declared])


def test_iterates_in_name_order() -> None:
    registry = schedulers("fair", "continuous")
    assert [each.name for each in registry] == ["continuous", "fair"]
    assert registry.names() == ("continuous", "fair")
    assert len(registry) == 2
    assert "fair" in registry
    assert "unfair" not in registry


def test_the_last_that_were_registered_come_first_where_that_is_asked_for() -> None:
    registry = schedulers("tts", "continuous", "fair")
    assert [each.name for each in registry.last_registered_first()] == ["fair", "continuous", "tts"]


def test_get_gives_the_entry_with_its_provenance() -> None:
    found = schedulers("fair").get("fair")
    assert found.component.name == "fair"
    assert found.provider == "plugin 'acme' (acme-llm 1.2)"
    assert found.title == "plugin 'acme' (acme-llm 1.2): scheduler 'fair'"


def test_unknown_name_is_told_with_what_is_near_and_what_there_is() -> None:
    with pytest.raises(PluginError) as error:
        schedulers("fair", "continuous").get("continous")
    assert str(error.value) == (
        "no scheduler is called 'continous' (did you mean 'continuous'?); there are: continuous, fair"
    )


def test_unknown_name_in_an_empty_registry() -> None:
    with pytest.raises(PluginError, match="no scheduler is called 'x'; there is none"):
        schedulers().get("x")


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("LlamaForCausalLM", "LlamaForCausalLM"),
        ("LlamaForCausalLM_Legacy", "LlamaForCausalLM"),
        ("LlamaForCausalLM_ModuleV3", "LlamaForCausalLM"),
        ("MistralForCausalLM", "LlamaForCausalLM"),
        ("MistralForCausalLM_Legacy", "LlamaForCausalLM"),
        ("AcmeForCausalLM", "AcmeForCausalLM_Legacy"),
    ],
)
def test_architecture_by_name_alias_and_without_suffix(asked: str, found: str) -> None:
    registry = architectures(
        Architecture(name="LlamaForCausalLM", build="x:y", aliases=("MistralForCausalLM",)),
        Architecture(name="AcmeForCausalLM_Legacy", build="x:y"),
    )
    assert find_architecture(registry, [asked]).name == found


def test_exact_name_goes_before_one_without_suffix() -> None:
    registry = architectures(Architecture(name="X_Legacy", build="x:y"), Architecture(name="X_ModuleV3", build="x:y"))
    assert find_architecture(registry, ["X_ModuleV3"]).name == "X_ModuleV3"
    assert find_architecture(registry, ["X"]).name == "X_Legacy"


def test_architecture_of_the_second_class_when_the_first_is_unknown() -> None:
    registry = architectures(Architecture(name="LlamaForCausalLM", build="x:y"))
    assert find_architecture(registry, ["AcmeForCausalLM", "LlamaForCausalLM"]).name == "LlamaForCausalLM"


def test_unknown_architecture_names_the_way_to_add_it() -> None:
    registry = architectures(Architecture(name="LlamaForCausalLM", build="x:y"))
    with pytest.raises(UsageError, match=r"'LamaForCausalLM' \(did you mean 'LlamaForCausalLM'\?\).*--custom-arch"):
        find_architecture(registry, ["LamaForCausalLM"])


def test_config_without_architectures() -> None:
    with pytest.raises(PluginError, match="names no"):
        find_architecture(architectures(), [])


def test_ref_of_text_is_imported_and_others_are_themselves() -> None:
    assert load_ref("collections:OrderedDict.fromkeys")(["a"]) == {"a": None}
    assert load_ref(len) is len


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("json", "must read 'module:attribute'"),
        (":x", "must read 'module:attribute'"),
        ("json:", "must read 'module:attribute'"),
        ("no_such_module:x", "cannot load 'no_such_module:x': ModuleNotFoundError"),
        ("json:nothing", "cannot load 'json:nothing': AttributeError"),
    ],
)
def test_ref_that_leads_nowhere(ref: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        load_ref(ref)


class Callable:
    def __call__(self) -> None: ...


def test_where_names_module_and_attribute() -> None:
    assert where("a.b:c") == "a.b:c"
    assert where(schedulers) == f"{__name__}:schedulers"
    assert where(Scheduler) == "maxserve.core.interfaces.scheduler:Scheduler"
    assert where(Callable()) == f"{__name__}:Callable"


def test_cause_is_one_line_and_leaves_our_class_names_away() -> None:
    assert cause(ValueError("one\n  two")) == "ValueError: one two"
    assert cause(KeyError()) == "KeyError"
    assert cause(PluginError("as it is")) == "as it is"


def test_nearest_ignores_case_and_stays_silent_when_nothing_is_near() -> None:
    assert nearest("PAGED", ["paged"]) == " (did you mean 'paged'?)"
    assert nearest("zebra", ["paged"]) == ""
