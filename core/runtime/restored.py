"""The plugins and their settings in another process of a plugin's own."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from maxserve.core.config.catalog import without_secrets
from maxserve.core.interfaces.component import Components
from maxserve.core.registry.host import PluginHost
from maxserve.core.registry.manifest import Manifest

if TYPE_CHECKING:
    from maxserve.core.config import Settings
    from maxserve.core.registry.protocol import Host


class Restored(NamedTuple):
    """The components of plugins, and the settings by schema, as `Context.sections` has them."""

    components: Components
    sections: Mapping[type[Any], Any]


class _State(msgspec.Struct, frozen=True):
    manifest: Manifest
    sections: dict[str, Any]


def packed(host: Host, settings: Settings) -> bytes:
    """What `restored` takes: the plugins, and their settings but for secrets."""
    sections = without_secrets(settings, host.plugin_sections()).plugins.sections
    return msgspec.msgpack.encode(_State(host.manifest(), dict(sections)))


def restored(plugins: bytes) -> Restored:
    """What the process with these plugins has; PluginError when it does not come out equal."""
    state = msgspec.msgpack.decode(plugins, type=_State)
    host = PluginHost.from_manifest(state.manifest)
    settings: Any = SimpleNamespace(plugins=SimpleNamespace(sections=state.sections))
    return Restored(host, host.section_values(settings))
