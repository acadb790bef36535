"""The rounding of plain weights while they are loaded, and numbers in few bytes: for formats and linear methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.plugins.quantization.narrow import narrowed
    from maxserve.plugins.quantization.rounding import WeightRounding
    from maxserve.plugins.quantization.rounding_cache import RoundingCache

__all__ = [
    "WeightRounding",
    "RoundingCache",
    "narrowed",
]

__getattr__ = exports(
    __name__,
    {
        "WeightRounding": "maxserve.plugins.quantization.rounding",
        "RoundingCache": "maxserve.plugins.quantization.rounding_cache",
        "narrowed": "maxserve.plugins.quantization.narrow",
    },
)
