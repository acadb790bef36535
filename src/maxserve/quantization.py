"""The rounding of plain weights while they are loaded, for quantization formats of any plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.plugins.quantization.rounding import WeightRounding
    from maxserve.plugins.quantization.rounding_cache import RoundingCache

__all__ = [
    "WeightRounding",
    "RoundingCache",
]

__getattr__ = exports(
    __name__,
    {
        "WeightRounding": "maxserve.plugins.quantization.rounding",
        "RoundingCache": "maxserve.plugins.quantization.rounding_cache",
    },
)
