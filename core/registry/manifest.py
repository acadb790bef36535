"""The plugins of a server, as its workers rebuild them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

from maxserve.core.interfaces.errors import PluginError
from maxserve.core.registry.entries import Entry
from maxserve.core.registry.sources import Source


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The plugins of a host as plain text, to rebuild it in another process without discovering again.

    `declared` lists what the workers' registries must hold; it travels so that a difference can be named.
    """

    sources: tuple[Source, ...]
    prefer: tuple[str, ...] = ()
    tolerant: bool = False
    declared: tuple[str, ...] = ()


def declared(entries: Iterable[Entry[Any]]) -> tuple[str, ...]:
    """One line per entry: kind, name, plugin, target, distribution."""
    return tuple(
        sorted(f"{e.kind} {e.name} plugin={e.plugin} target={e.where} distribution={e.distribution}" for e in entries)
    )


def fingerprint(lines: Iterable[str]) -> str:
    """Equal for two hosts exactly when both declare the same things from the same plugins."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def compare(manifest: Manifest, here: tuple[str, ...]) -> None:
    """Raises PluginError naming the first difference between the sender's declarations and ours."""
    missing = sorted(set(manifest.declared) - set(here))
    extra = sorted(set(here) - set(manifest.declared))
    if missing or extra:
        difference = f"the worker lacks {missing[0]!r}" if missing else f"only the worker has {extra[0]!r}"
        raise PluginError(f"server and worker see different plugins: {difference}; did an installation change?")
