"""The base of all components and of all contexts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias, TypeVar

__all__ = ["Component", "Context", "Ref"]

Ref: TypeAlias = str | Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """Something with a name in the registry of its kind. `build(context)` gives the kind's Protocol object."""

    kind: ClassVar[str] = ""

    name: str
    build: Ref
    summary: str = ""


C = TypeVar("C")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What every build gets at least: the settings sections of plugins, by schema."""

    sections: Mapping[type[Any], Any] = field(default_factory=dict)

    def config(self, schema: type[C]) -> C:
        """The plugin's own validated settings; the schema's defaults when nothing was set."""
        found = self.sections.get(schema)
        return schema() if found is None else found
