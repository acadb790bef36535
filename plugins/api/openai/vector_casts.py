"""Vectors in the types of numbers that clients may ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maxserve.plugins.embeddings.vectors import Vector


def _bfloat16(vector: Vector) -> NDArray[Any]:
    """The upper halves of float32, rounded to the nearest, ties to even."""
    bits = vector.astype(np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    halves: NDArray[Any] = np.where(np.isnan(vector), 0x7FC0, rounded).astype(np.uint16)
    return halves


@cache
def _float8(exponent: int, mantissa: int, largest: int) -> NDArray[np.float64]:
    """The values of the codes 0 to `largest` of an 8-bit type, which rise."""
    codes = np.arange(largest + 1)
    power, fraction = codes >> mantissa, (codes & (2**mantissa - 1)) / 2**mantissa
    bias = 2 ** (exponent - 1) - 1
    values: NDArray[np.float64] = np.where(
        power == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (power - bias)
    )
    return values


def _nearest(vector: Vector, values: NDArray[np.float64]) -> NDArray[Any]:
    """The codes of the nearest of `values`, ties to even codes; what is beyond the largest becomes that."""
    size = np.abs(vector.astype(np.float64))
    above = np.clip(np.searchsorted(values, size), 1, len(values) - 1)
    low, high = size - values[above - 1], values[above] - size
    up = (high < low) | ((high == low) & (above % 2 == 0))
    codes = np.where(up, above, above - 1)
    signed: NDArray[Any] = (codes | (np.signbit(vector).astype(np.int64) << 7)).astype(np.uint8)
    return signed


CASTS: Mapping[str, Callable[[Vector], NDArray[Any]]] = {
    "float32": lambda vector: vector.astype(np.float32),
    "float16": lambda vector: vector.astype(np.float16),
    "bfloat16": _bfloat16,
    "fp8_e4m3": lambda vector: _nearest(vector, _float8(4, 3, 0x7E)),
    "fp8_e5m2": lambda vector: _nearest(vector, _float8(5, 2, 0x7B)),
}
