"""What plugins offer, and where it is from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.core.registry.entries import Entry, Registry, cause, nearest, where, words
    from maxserve.core.registry.host import Plugin, PluginHost, ProcessInfo
    from maxserve.core.registry.manifest import Manifest
    from maxserve.core.registry.options import PluginOptions

__all__ = [
    "Entry",
    "Manifest",
    "Plugin",
    "PluginHost",
    "PluginOptions",
    "ProcessInfo",
    "Registry",
    "cause",
    "nearest",
    "where",
    "words",
]

__getattr__ = exports(
    __name__,
    {
        "Entry": "maxserve.core.registry.entries",
        "Manifest": "maxserve.core.registry.manifest",
        "Plugin": "maxserve.core.registry.host",
        "PluginHost": "maxserve.core.registry.host",
        "PluginOptions": "maxserve.core.registry.options",
        "ProcessInfo": "maxserve.core.registry.host",
        "Registry": "maxserve.core.registry.entries",
        "cause": "maxserve.core.registry.entries",
        "nearest": "maxserve.core.registry.entries",
        "where": "maxserve.core.registry.entries",
        "words": "maxserve.core.registry.entries",
    },
)
