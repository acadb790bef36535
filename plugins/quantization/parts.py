"""The tensors of a quantized weight: roles by the endings of their names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from maxserve.interfaces.errors import ModelError


def named_part(tensor: str, dtype: str, types: Collection[str], endings: Mapping[str, str]) -> tuple[str, str] | None:
    """The weight and the role of a tensor whose name has one of the `endings`, if it is of one of the `types`."""
    ending = next((ending for ending in endings if tensor.endswith(ending)), None)
    if ending is None or dtype not in types:
        return None
    return tensor.removesuffix(ending), endings[ending]


def require(tensors: Mapping[str, Any], *roles: str) -> None:
    """ModelError unless there is a tensor for each of the roles."""
    missing = [role for role in roles if role not in tensors]
    if missing:
        raise ModelError(f"it is part of a quantized weight whose {' and '.join(missing)} are missing")
