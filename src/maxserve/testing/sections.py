"""The settings of plugins that come with maxserve."""

from __future__ import annotations

from maxserve.core.config.settings import PluginSection
from maxserve.core.registry.host import PluginHost, PluginOptions


def built_in_sections() -> list[PluginSection]:
    """The sections of all built-in plugins."""
    return PluginHost.discover(PluginOptions(autoload=False), strict=True).plugin_sections()
