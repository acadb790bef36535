"""The bricks that model families are made of, and the configs these read; imported when they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maxserve.architectures import layers as _layers

if TYPE_CHECKING:
    from maxserve.architectures.layers import *  # noqa: F403

__all__ = _layers.__all__


def __getattr__(name: str) -> Any:
    return getattr(_layers, name)
