"""Settings and the options of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.core.cli.early import plugin_options
    from maxserve.core.cli.serve import settle, typed
    from maxserve.core.config import Settings
    from maxserve.core.config.catalog import catalog
    from maxserve.core.config.options import HELP_WIDTH, GroupedCommand, engine_options

__all__ = [
    "GroupedCommand",
    "HELP_WIDTH",
    "Settings",
    "catalog",
    "engine_options",
    "plugin_options",
    "settle",
    "typed",
]

__getattr__ = exports(
    __name__,
    {
        "GroupedCommand": "maxserve.core.config.options",
        "HELP_WIDTH": "maxserve.core.config.options",
        "Settings": "maxserve.core.config",
        "catalog": "maxserve.core.config.catalog",
        "engine_options": "maxserve.core.config.options",
        "plugin_options": "maxserve.core.cli.early",
        "settle": "maxserve.core.cli.serve",
        "typed": "maxserve.core.cli.serve",
    },
)
