"""The plugins that ship with this installation, as its package names them."""

from __future__ import annotations

from collections.abc import Iterable

_shipped: list[tuple[str, str]] = []


def ship(plugins: Iterable[tuple[str, str]]) -> None:
    """Has every host find `plugins`, each a name and the module that declares it, before all others."""
    _shipped[:] = plugins


def shipped() -> tuple[tuple[str, str], ...]:
    """What was named."""
    return tuple(_shipped)
