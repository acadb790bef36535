"""Typed settings, and how command line, file and environment become them. No torch."""

from __future__ import annotations

from maxserve.core.config.resolve import resolve, resolve_plugins
from maxserve.core.config.settings import PluginSection, Settings

__all__ = ["PluginSection", "Settings", "resolve", "resolve_plugins"]
