"""Typed settings, and how command line, file and environment become them. No torch."""

from __future__ import annotations

from maxserve.core.config.resolve import check_sections, resolve, resolve_plugins
from maxserve.core.config.settings import PluginSection, Settings

__all__ = ["PluginSection", "Settings", "check_sections", "resolve", "resolve_plugins"]
