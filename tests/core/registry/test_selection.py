"""Which plugins take part: the switches, and names that no plugin has."""

from __future__ import annotations

from typing import Any

import pytest

from maxserve.core.interfaces.errors import PluginError
from maxserve.core.registry.complaints import Complaints
from maxserve.core.registry.options import PluginOptions
from maxserve.core.registry.selection import Plugin, find_plugins


def find(**options: Any) -> dict[str, Plugin]:
    return {plugin.name: plugin for plugin in find_plugins(PluginOptions(**options), Complaints(strict=True))}


@pytest.fixture
def installed(plugin_folder: Any) -> None:
    plugin_folder.distribution("acme-llm", "1.0", {"acme": "acme_llm", "acme-extra": "acme_extra"})
    plugin_folder.distribution("older", "0.3", {"older": "older_llm"}, group="maxserve.v0")


@pytest.mark.usefixtures("installed")
def test_order_of_sources() -> None:
    found = find(plugin=("mine",), custom_architectures=("my_arch",))
    origins = [plugin.source.origin for plugin in found.values()]
    first = {origin: origins.index(origin) for origin in origins}
    assert sorted(first, key=lambda origin: first[origin]) == [
        "built-in",
        "entry point",
        "--plugin",
        "--custom-architectures",
    ]


@pytest.mark.usefixtures("installed")
def test_everything_is_active_but_plugins_for_other_versions() -> None:
    found = find()
    assert found["acme"].active
    assert found["builtin.cache"].active
    assert found["older"].status == "off: is for maxserve.v0; this is v1"


@pytest.mark.usefixtures("installed")
def test_no_plugin_switches_off_built_ins_and_others() -> None:
    found = find(no_plugin=("builtin.demo", "acme", "mine"), plugin=("mine",))
    assert {found[name].status for name in ("builtin.demo", "acme", "mine")} == {"off: --no-plugin"}
    assert found["acme-extra"].active


@pytest.mark.usefixtures("installed")
def test_autoload_off_leaves_installed_plugins_out() -> None:
    found = find(autoload=False, plugin=("mine",))
    assert found["acme"].status == "off: MAX_SERVE_PLUGIN_AUTOLOAD=0"
    assert found["mine"].active
    assert found["builtin.cache"].active


@pytest.mark.usefixtures("installed")
def test_allow_names_the_installed_plugins_to_use() -> None:
    found = find(allow=("acme",))
    assert found["acme"].active
    assert found["acme-extra"].status == "off: not in MAX_SERVE_PLUGIN_ALLOW"
    assert found["builtin.cache"].active
    assert find(allow=())["acme"].status == "off: not in MAX_SERVE_PLUGIN_ALLOW"


@pytest.mark.usefixtures("installed")
def test_unknown_name_to_leave_out() -> None:
    with pytest.raises(PluginError, match=r"--no-plugin .*no plugin is called 'acm' \(did you mean 'acme'\?\)"):
        find(no_plugin=("acm",))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", ["acme-extr", "builtin.cache", "older"])
def test_unknown_name_to_allow(name: str) -> None:
    with pytest.raises(PluginError, match="MAX_SERVE_PLUGIN_ALLOW: no plugin is called"):
        find(allow=(name,))


def test_two_distributions_with_one_plugin_name(plugin_folder: Any) -> None:
    plugin_folder.distribution("acme-one", "1.0", {"acme": "acme_one"})
    plugin_folder.distribution("acme-two", "2.0", {"acme": "acme_two"})
    with pytest.raises(
        PluginError, match=r"two plugins are called 'acme': one of acme-one 1.0 and one of acme-two 2.0"
    ):
        find()
    assert find(no_plugin=("acme",))["acme"].status == "off: --no-plugin"


def test_the_same_plugin_typed_twice() -> None:
    with pytest.raises(
        PluginError, match="two plugins are called 'mine': one of --plugin mine and one of --plugin mine"
    ):
        find(plugin=("mine", "mine"))


def test_names_of_built_ins_are_reserved(plugin_folder: Any) -> None:
    plugin_folder.distribution("acme", "1.0", {"builtin.acme": "acme"})
    with pytest.raises(PluginError, match=r"'builtin.acme' \(acme 1.0\): names that start with 'builtin.' belong"):
        find()


def test_a_lenient_search_keeps_the_first_and_tells_of_the_second() -> None:
    complaints = Complaints(strict=False)
    found = find_plugins(PluginOptions(plugin=("mine", "mine")), complaints)
    assert [plugin.status for plugin in found if plugin.name == "mine"] == ["active", "broken"]
    assert len(complaints.errors) == 1
