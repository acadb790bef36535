"""The fixtures that plugin authors get with pytest."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from maxserve import testing
from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.scheduler import Scheduler


def declare() -> Any:
    return [Scheduler(name="acme", build="x:y")]


def test_hosts_do_not_see_each_others_plugins(plugin_host: Any) -> None:
    assert "acme" in plugin_host(SimpleNamespace(maxserve_schedulers=hookimpl(declare))).schedulers
    assert "acme" not in plugin_host().schedulers


def test_hosts_do_not_see_what_is_installed(plugin_host: Any, plugin_folder: Any) -> None:
    plugin_folder.distribution("acme-llm", "1.0", {"acme": "acme_llm"})
    (acme,) = [plugin for plugin in plugin_host().plugins if plugin.name == "acme"]
    assert not acme.active


def test_plugin_may_be_a_module_or_its_name(plugin_host: Any, plugin_folder: Any) -> None:
    plugin_folder.module("acme_llm", "x = 1")
    import acme_llm  # type: ignore[import-not-found]

    acme_llm.maxserve_schedulers = hookimpl(declare)
    for plugin in (acme_llm, "acme_llm"):
        assert plugin_host(plugin).schedulers.get("acme").plugin == "acme_llm"


def test_light_import_tells_all_modules(light_import: Any) -> None:
    loaded = light_import("import json.decoder")
    assert {"json", "json.decoder"} <= loaded
    assert "maxserve" not in light_import("import sys")


def test_max_cli_runs_without_the_environment(max_cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAX_SERVE_NO_PLUGIN", "absent")
    ran = max_cli("list", "schedulers")
    assert (ran.status, ran.err) == (0, "")


def test_spawned_tells_the_error_of_the_other_process(plugin_host: Any, spawned: Any) -> None:
    host = plugin_host(SimpleNamespace(maxserve_schedulers=hookimpl(declare)))
    assert spawned(host).startswith("PluginError: plugin 'maxserve_plugins_under_test:plugin1'")


@pytest.mark.parametrize("name", testing.LAZY)
def test_check_classes_come_when_asked_for(name: str) -> None:
    assert getattr(testing, name).__name__ == name


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'NothingChecks'"):
        _ = testing.NothingChecks
