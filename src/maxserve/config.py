"""Settings and the options of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.core.cli.chosen import settle, typed
    from maxserve.core.cli.early import plugin_options
    from maxserve.core.config import Settings
    from maxserve.core.config.catalog import catalog, near
    from maxserve.core.config.checks import check_checkpoint
    from maxserve.core.config.settings import CheckpointSettings
    from maxserve.core.config.values import Choice, cpu_ranks, gpu_numbers, is_loopback, read_bool, read_int
    from maxserve.plugins.commands.options import HELP_WIDTH, GroupedCommand, engine_options

__all__ = [
    "CheckpointSettings",
    "Choice",
    "GroupedCommand",
    "HELP_WIDTH",
    "Settings",
    "catalog",
    "check_checkpoint",
    "cpu_ranks",
    "engine_options",
    "gpu_numbers",
    "is_loopback",
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
        "cpu_ranks": "maxserve.core.config.values",
        "gpu_numbers": "maxserve.core.config.values",
        "is_loopback": "maxserve.core.config.values",
        "GroupedCommand": "maxserve.plugins.commands.options",
        "HELP_WIDTH": "maxserve.plugins.commands.options",
        "Settings": "maxserve.core.config",
        "catalog": "maxserve.core.config.catalog",
        "check_checkpoint": "maxserve.core.config.checks",
        "engine_options": "maxserve.plugins.commands.options",
        "near": "maxserve.core.config.catalog",
        "plugin_options": "maxserve.core.cli.early",
        "read_bool": "maxserve.core.config.values",
        "read_int": "maxserve.core.config.values",
        "settle": "maxserve.core.cli.chosen",
        "typed": "maxserve.core.cli.chosen",
    },
)
