"""No sampler may take a request field that means something already."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from maxserve.core.components import Sampler
from maxserve.core.errors import PluginError
from maxserve.core.hookspecs import hookimpl


@pytest.mark.parametrize("field", ["model", "max_tokens", "seed", "stop", "stream"])
def test_fields_that_every_request_has(plugin_host: Any, field: str) -> None:
    params = dataclasses.make_dataclass("Own", [(field, int, 0)], frozen=True)
    own = Sampler(name="own", params=params, build="x:y")
    plugin = SimpleNamespace(maxserve_samplers=hookimpl(lambda: [own]))
    with pytest.raises(PluginError, match=f"sampler 'own' of plugin .*: its request field '{field}' has a meaning"):
        plugin_host(plugin)
