from __future__ import annotations

import sys
from typing import Any

import pytest

from maxserve.core.interfaces.errors import PluginError
from maxserve.core.registry.complaints import Complaints
from maxserve.core.registry.options import PluginOptions
from maxserve.core.registry.sources import builtin_sources, installed_sources, typed_sources
from maxserve.plugins import BUILTINS


def complaints() -> Complaints:
    return Complaints(strict=True)


def test_built_ins_are_those_of_the_tuple_in_its_order() -> None:
    assert [(source.name, source.target) for source in builtin_sources()] == list(BUILTINS)
    assert {source.origin for source in builtin_sources()} == {"built-in"}


def test_entry_points_are_sorted_by_distribution_and_name(plugin_folder: Any) -> None:
    plugin_folder.distribution("zebra", "1.0", {"a": "zebra_a"})
    plugin_folder.distribution("acme-llm", "2.0", {"z": "acme_z", "b": "acme_b:plugin"})
    found = installed_sources(complaints())
    ours = [source for source in found if source.distribution in ("zebra", "acme-llm")]
    assert [(source.distribution, source.name) for source in ours] == [
        ("acme-llm", "b"),
        ("acme-llm", "z"),
        ("zebra", "a"),
    ]
    assert ours[0].target == "acme_b:plugin"
    assert ours[0].label == "plugin 'b' (acme-llm 2.0)"
    assert not any(source.foreign for source in found)


def test_extras_of_an_entry_point_are_no_part_of_its_target(plugin_folder: Any) -> None:
    plugin_folder.distribution("acme", "1", {"acme": "acme_llm:plugin [gpu]"})
    found = installed_sources(complaints())
    assert [source.target for source in found if source.distribution == "acme"] == ["acme_llm:plugin"]


def test_other_versions_of_the_interface_are_told_apart(plugin_folder: Any) -> None:
    plugin_folder.distribution("old", "0.1", {"old": "old_llm"}, group="maxserve.v0")
    plugin_folder.distribution("new", "9.0", {"new": "new_llm"}, group="maxserve.v2")
    plugin_folder.distribution("other", "1.0", {"x": "y"}, group="maxserve.vanilla")
    found = installed_sources(complaints())
    foreign = [(source.group, source.name) for source in found if source.foreign]
    assert foreign == [("maxserve.v2", "new"), ("maxserve.v0", "old")]
    assert found[-2:] == [source for source in found if source.foreign]
    assert "x" not in {source.name for source in found}


def test_of_two_copies_the_first_is_used_and_the_other_named(
    plugin_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin_folder.distribution("Acme.LLM", "2.0", {"acme": "acme_llm"}, folder="first")
    plugin_folder.distribution("acme-llm", "1.0", {"stale": "acme_old"}, folder="second")
    folders = [str(plugin_folder.path / name) for name in ("first", "second")]
    monkeypatch.setattr(sys, "path", [*folders, *sys.path])
    noted = complaints()
    found = installed_sources(noted)
    assert [source.name for source in found if source.distribution.lower().startswith("acme")] == ["acme"]
    assert len(noted.warnings) == 1
    assert "installed twice: 2.0 in" in noted.warnings[0]
    assert "1.0 in" in noted.warnings[0]


def test_named_plugins() -> None:
    found = typed_sources(PluginOptions(plugin=("acme", "other.module:plugin")), complaints())
    assert [(source.name, source.target) for source in found] == [
        ("acme", "acme"),
        ("other.module:plugin", "other.module:plugin"),
    ]


def test_a_plugin_by_its_file_or_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    monkeypatch.chdir(tmp_path)
    given = ("./mine.py", "mine.py:plugin", f"{tmp_path}/package", "./package/")
    found = typed_sources(PluginOptions(plugin=given), complaints())
    assert [(source.name, source.target) for source in found] == [
        ("mine", "mine"),
        ("mine", "mine:plugin"),
        ("package", "package"),
        ("package", "package"),
    ]
    assert {source.folder for source in found} == {str(tmp_path.resolve())}


@pytest.mark.parametrize("given", ["./none.py", "folder/none", "./1st.py"])
def test_a_file_that_cannot_be_a_plugin(given: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1st.py").write_text("")
    with pytest.raises(PluginError, match=r"there is no Python file|is no name of a module"):
        typed_sources(PluginOptions(plugin=(given,)), complaints())


@pytest.mark.parametrize("given", ["", ":x", "acme:", "a:b:c"])
def test_named_plugin_that_does_not_read_so(given: str) -> None:
    with pytest.raises(PluginError, match=r"must read MODULE, FILE\.py or one of them"):
        typed_sources(PluginOptions(plugin=(given,)), complaints())
