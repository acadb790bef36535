"""Adapter sources: where adapters are that requests name before they are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from maxserve.core.interfaces.component import Component

__all__ = ["AdapterSource", "FindsAdapters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSource(Component):
    """Where adapters are found by name. `build(Context)` gives a FindsAdapters."""

    kind: ClassVar[str] = "adapter_source"


class FindsAdapters(Protocol):
    """Finds adapters; what is found is read and checked by the kind of adapters that is served."""

    def find(self, name: str) -> str | None:
        """Where the adapter of this name is, a folder of this machine as a rule; None: there is none here.

        Called in threads, and may take as long as a download does. RequestError for one that is here and cannot be had.
        """
        ...
