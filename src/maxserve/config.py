"""Settings and the options of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.core.cli.early import plugin_options
    from maxserve.core.cli.serve import settle, typed
    from maxserve.core.config import Settings
    from maxserve.core.config.catalog import catalog, near
    from maxserve.core.config.checks import check_checkpoint
    from maxserve.core.config.options import HELP_WIDTH, GroupedCommand, engine_options
    from maxserve.core.config.settings import CheckpointSettings
    from maxserve.core.config.values import Choice, read_bool, read_int

__all__ = [
    "CheckpointSettings",
    "Choice",
    "GroupedCommand",
    "HELP_WIDTH",
    "Settings",
    "catalog",
    "check_checkpoint",
    "engine_options",
    "near",
    "plugin_options",
    "read_bool",
    "read_int",
    "settle",
    "typed",
]

__getattr__ = exports(
    __name__,
    {
        "CheckpointSettings": "maxserve.core.config.settings",
        "Choice": "maxserve.core.config.values",
        "GroupedCommand": "maxserve.core.config.options",
        "HELP_WIDTH": "maxserve.core.config.options",
        "Settings": "maxserve.core.config",
        "catalog": "maxserve.core.config.catalog",
        "check_checkpoint": "maxserve.core.config.checks",
        "engine_options": "maxserve.core.config.options",
        "near": "maxserve.core.config.catalog",
        "plugin_options": "maxserve.core.cli.early",
        "read_bool": "maxserve.core.config.values",
        "read_int": "maxserve.core.config.values",
        "settle": "maxserve.core.cli.serve",
        "typed": "maxserve.core.cli.serve",
    },
)
