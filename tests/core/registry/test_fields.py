"""No sampler may take a request field that means something already."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.errors import PluginError
from maxserve.core.interfaces.sampler import Sampler


@pytest.mark.parametrize("field", ["model", "max_tokens", "seed", "stop", "stream"])
def test_fields_that_every_request_has(plugin_host: Any, field: str) -> None:
    params = dataclasses.make_dataclass("Own", [(field, int, 0)], frozen=True)
    own = Sampler(name="own", params=params, build="x:y")
    plugin = SimpleNamespace(maxserve_samplers=hookimpl(lambda: [own]))
    with pytest.raises(PluginError, match=f"sampler 'own' of plugin .*: its request field '{field}' has a meaning"):
        plugin_host(plugin)


def own_sampler(params: type[Any]) -> SimpleNamespace:
    return SimpleNamespace(maxserve_samplers=hookimpl(lambda: [Sampler(name="own", params=params, build="x:y")]))


def test_a_field_without_a_default_is_refused_at_start(plugin_host: Any) -> None:
    params = dataclasses.make_dataclass("Own", ["strength"], frozen=True)
    with pytest.raises(PluginError, match=r"sampler 'own' of plugin .*: its request field 'strength' has no default"):
        plugin_host(own_sampler(params))


def test_defaults_that_the_class_itself_refuses(plugin_host: Any) -> None:
    @dataclasses.dataclass(frozen=True)
    class Own:
        strength: float = 0.0

        def __post_init__(self) -> None:
            raise ValueError("strength must be above 0")

    with pytest.raises(PluginError, match=r"Own\(\) cannot be made: ValueError: strength must be above 0"):
        plugin_host(own_sampler(Own))


def test_params_that_never_equal_each_other(plugin_host: Any) -> None:
    params = dataclasses.make_dataclass("Own", [("strength", float, 0.0)], eq=False)
    with pytest.raises(PluginError, match=r"two objects Own\(\) are not equal"):
        plugin_host(own_sampler(params))
