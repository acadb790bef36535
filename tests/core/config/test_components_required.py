"""What an architecture insists on is set with a warning, and left with `--force`."""

from __future__ import annotations

from typing import Any

import pytest

from maxserve import hookimpl
from maxserve.core.config import Settings, resolve
from maxserve.core.config.components import with_required
from maxserve.core.interfaces.architecture import Architecture
from maxserve.core.interfaces.errors import PluginError, SettingsError, UnsupportedError
from maxserve.core.registry.protocol import Host


def insisting(**values: Any) -> Architecture:
    return Architecture(name="X", build="x:y", required_arguments=values)


def test_values_are_overruled_with_a_warning_each(caplog: pytest.LogCaptureFixture) -> None:
    architecture = insisting(enable_prefix_caching=False, max_batch_size=4, kv_cache_format="float32", max_length=9)
    settings = with_required(resolve({"max_batch_size": 7, "max_length": 9}, environ={}), architecture)
    assert not settings.kv_cache.enable_prefix_caching
    assert (settings.scheduling.max_batch_size, settings.kv_cache.kv_cache_format) == (4, "float32")
    assert [record.getMessage() for record in caplog.records] == [
        "architecture 'X' insists on --no-enable-prefix-caching; --enable-prefix-caching is overruled "
        "(--force keeps it)",
        "architecture 'X' insists on --max-batch-size 4; --max-batch-size 7 is overruled (--force keeps it)",
        "architecture 'X' insists on --kv-cache-format float32; no --kv-cache-format is overruled (--force keeps it)",
    ], "what was so already is nothing to warn of"


def test_force_keeps_what_was_chosen(caplog: pytest.LogCaptureFixture) -> None:
    settings = resolve({"force": True}, environ={})
    assert with_required(settings, insisting(enable_prefix_caching=False)) is settings
    assert not caplog.records


def test_nothing_required_nothing_changed(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings()
    assert with_required(settings, insisting()) is settings
    assert with_required(settings, insisting(enable_prefix_caching=True)) is settings
    with_required(settings, insisting(max_batch_size=2), tell=False)
    assert not caplog.records


def test_what_contradicts_another_option_is_refused() -> None:
    swapping = resolve({"enable_kvcache_swapping_to_host": True}, environ={})
    with pytest.raises(SettingsError, match="--no-enable-prefix-caching leaves none"):
        with_required(swapping, insisting(enable_prefix_caching=False))
    with pytest.raises(UnsupportedError, match="--devices with several GPUs that share a model"):
        with_required(resolve({}, environ={}), insisting(devices="gpu:0,1"))


def test_options_of_plugins_are_among_them(plugin_host: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Declares:
        @hookimpl
        def maxserve_architectures(self) -> Any:
            yield insisting(paged__eviction="lfu")

    host: Host = plugin_host(Declares())
    sections = host.plugin_sections()
    chosen = resolve({}, environ={}, sections=sections)
    settings = with_required(chosen, host.architectures.get("X").component, sections)
    assert settings.plugins.sections["paged"]["eviction"] == "lfu"
    assert [record.getMessage() for record in caplog.records] == [
        "architecture 'X' insists on --paged.eviction lfu; --paged.eviction lru is overruled (--force keeps it)"
    ]
    assert with_required(settings, host.architectures.get("X").component, sections) is settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"enable_prefix_cache": False}, r"no option 'enable_prefix_cache' .*did you mean enable_prefix_caching"),
        ({"api_key": ("k",)}, "no option 'api_key' that an architecture may set"),
        ({"port": 1}, "no option 'port' that an architecture may set"),
        ({"model_path": "x"}, "no option 'model_path' that an architecture may set"),
        ({"max_batch_size": 0}, "max_batch_size: expected at least 1, not 0"),
        ({"max_batch_size": "many"}, "max_batch_size: expected a whole number"),
        ({"rope_type": "int1"}, "rope_type: expected"),
        ({"paged__eviction": 3}, "paged__eviction: expected"),
    ],
)
def test_declarations_are_checked(values: dict[str, Any], message: str, plugin_host: Any) -> None:
    class Declares:
        @hookimpl
        def maxserve_architectures(self) -> Any:
            yield insisting(**values)

    with pytest.raises(PluginError, match=f"architecture 'X': required_arguments: .*{message}"):
        plugin_host(Declares())


def test_a_declaration_without_fault_is_listed(plugin_host: Any) -> None:
    class Declares:
        @hookimpl
        def maxserve_architectures(self) -> Any:
            yield insisting(enable_prefix_caching=False)

    host: Host = plugin_host(Declares())
    assert host.architectures.get("X").component.required_arguments == {"enable_prefix_caching": False}
