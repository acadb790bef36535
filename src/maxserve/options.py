"""Options as they are declared, for what shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.core.config import PluginSection, Settings
    from maxserve.core.config.catalog import OptionSpec, catalog
    from maxserve.core.config.values import Choice, value_text

__all__ = ["Choice", "OptionSpec", "PluginSection", "Settings", "catalog", "value_text"]

__getattr__ = exports(
    __name__,
    {
        "Choice": "maxserve.core.config.values",
        "OptionSpec": "maxserve.core.config.catalog",
        "PluginSection": "maxserve.core.config",
        "Settings": "maxserve.core.config",
        "catalog": "maxserve.core.config.catalog",
        "value_text": "maxserve.core.config.values",
    },
)
