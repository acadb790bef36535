"""Typed reads of the keys of config.json. A value of the right kind, or a ModelError that names the key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from maxserve.interfaces.errors import ModelError


def size(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A positive whole number; `default` where it is missing or null, and also if it is what stands there."""
    value = raw.get(key)
    if value is None:
        value = default
    if value is None:
        raise ModelError(f"config.json has no {key!r}: the model's sizes must be there, nothing is guessed")
    if isinstance(value, bool) or not isinstance(value, int) or (value < 1 and value != default):
        raise ModelError(f"config.json: {key!r} is {value!r}, but must be a positive whole number")
    return value


def number(raw: Mapping[str, Any], key: str, default: float) -> float:
    """A number; `default` where it is missing."""
    return as_number(raw.get(key, default), key)


def optional_number(raw: Mapping[str, Any], key: str) -> float | None:
    """A number, or None where it is missing or null."""
    value = raw.get(key)
    return None if value is None else as_number(value, key)


def as_number(value: Any, key: str) -> float:
    """`value`, which config.json has under `key`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ModelError(f"config.json: {key!r} is {value!r}, but must be a number")
    if not math.isfinite(value):
        raise ModelError(f"config.json: {key!r} is {value!r}, but must be a finite number")
    return float(value)
