"""What plugins offer, and where it is from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.core.interfaces.errors import cause
    from maxserve.core.registry.entries import Entry, Registry, find_architecture, nearest, where, words
    from maxserve.core.registry.host import Plugin, PluginHost, ProcessInfo
    from maxserve.core.registry.options import PluginOptions
    from maxserve.core.registry.protocol import Host, Invocation
    from maxserve.core.runtime.restored import Restored, restored

__all__ = [
    "find_architecture",
    "Entry",
    "Host",
    "Invocation",
    "Plugin",
    "PluginHost",
    "PluginOptions",
    "ProcessInfo",
    "Registry",
    "Restored",
    "cause",
    "nearest",
    "restored",
    "where",
    "words",
]

__getattr__ = exports(
    __name__,
    {
        "find_architecture": "maxserve.core.registry.entries",
        "Entry": "maxserve.core.registry.entries",
        "Host": "maxserve.core.registry.protocol",
        "Invocation": "maxserve.core.registry.protocol",
        "Plugin": "maxserve.core.registry.host",
        "PluginHost": "maxserve.core.registry.host",
        "PluginOptions": "maxserve.core.registry.options",
        "ProcessInfo": "maxserve.core.registry.host",
        "Registry": "maxserve.core.registry.entries",
        "Restored": "maxserve.core.runtime.restored",
        "cause": "maxserve.core.interfaces.errors",
        "nearest": "maxserve.core.registry.entries",
        "restored": "maxserve.core.runtime.restored",
        "where": "maxserve.core.registry.entries",
        "words": "maxserve.core.registry.entries",
    },
)
