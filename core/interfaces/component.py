"""The base of all components and of all contexts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

__all__ = ["Component", "Components", "Context", "Declaration", "Declarations", "Ref"]

Ref: TypeAlias = str | Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """Something with a name in the registry of its kind. `build(context)` gives the kind's Protocol object."""

    kind: ClassVar[str] = ""

    name: str
    build: Ref
    summary: str = ""


C = TypeVar("C")
D = TypeVar("D", bound=Component)
D_co = TypeVar("D_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What every build gets at least: the settings sections of plugins, by schema."""

    sections: Mapping[type[Any], Any] = field(default_factory=dict)

    def config(self, schema: type[C]) -> C:
        """The plugin's own validated settings; the schema's defaults when nothing was set."""
        found = self.sections.get(schema)
        return schema() if found is None else found


class Declaration(Protocol[D_co]):
    """A component, and who declared it: `title` says both at the beginning of an error message, str() within one."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def component(self) -> D_co: ...
    @property
    def plugin(self) -> str: ...
    @property
    def where(self) -> str: ...
    @property
    def title(self) -> str: ...


class Declarations(Protocol[D_co]):
    """What plugins declare of one kind, in name order."""

    def get(self, name: str) -> Declaration[D_co]:
        """The one called `name`; PluginError with what is near otherwise."""
        ...

    def names(self) -> tuple[str, ...]: ...
    def last_registered_first(self) -> Sequence[Declaration[D_co]]:
        """All of them, those of the operator's own plugins before what ships: the order in which to ask for answers."""
        ...

    def __contains__(self, name: object) -> bool: ...
    def __iter__(self) -> Iterator[Declaration[D_co]]: ...
    def __len__(self) -> int: ...


class Components(Protocol):
    """What the plugins of this process declare, for what uses components of other plugins."""

    def of(self, component: type[D]) -> Declarations[D]:
        """What plugins declare as `component`."""
        ...

    def load(self, entry: Declaration[Any], ref: Ref) -> Any:
        """The thing behind one of the component's references."""
        ...

    def build(self, entry: Declaration[Any], context: Any) -> Any:
        """What the component's `build` makes of `context`, checked; PluginError names plugin, component and cause."""
        ...
