"""Adapter sources: where adapters are that are named before they are loaded."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from maxserve.core.interfaces.component import Component, Components, Context

__all__ = ["AdapterSource", "AdapterSourceContext", "FindsAdapters", "ListsAdapters", "adapter_sources"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSource(Component):
    """Where adapters are found by name. `build(AdapterSourceContext)` gives a FindsAdapters."""

    kind: ClassVar[str] = "adapter_source"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSourceContext(Context):
    """What a FindsAdapters is made of; `path` is the folder with the config of the model that is served.

    `of_operator`: the names come from the options that a server or a program was started with; without it they come
    from requests.
    """

    path: str = ""
    of_operator: bool = False


class FindsAdapters(Protocol):
    """Finds adapters; what is found is read and checked by the kind of adapters that is served."""

    def find(self, name: str) -> str | None:
        """Where the adapter of this name is, a folder of this machine as a rule; None: there is none here.

        Called in threads, and may take as long as a download does. RequestError for one that is here and cannot be had.
        """
        ...


@runtime_checkable
class ListsAdapters(Protocol):
    """A FindsAdapters whose adapters are few and listed by /v1/models before they are loaded."""

    def names(self) -> Collection[str]:
        """Those of all that it finds."""
        ...


def adapter_sources(components: Components, context: AdapterSourceContext) -> list[FindsAdapters]:
    """Where adapters are looked for by name, the sources of the plugins that were registered last first."""
    return [components.build(entry, context) for entry in components.of(AdapterSource).last_registered_first()]
