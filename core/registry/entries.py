"""Registries: what there is of one kind, and who gave it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from maxserve.core.interfaces.errors import PluginError, cause

if TYPE_CHECKING:
    from collections.abc import Set

    from maxserve.core.interfaces.architecture import Architecture
    from maxserve.core.interfaces.component import Declaration, Declarations, Ref

NAMED = (type, FunctionType, MethodType, BuiltinFunctionType)
SUFFIXES = ("_Legacy", "_ModuleV3")  # names that MAX's own architectures carry; the plain name means the same


class Declared(Protocol):
    """Anything with a kind and a name that a plugin declares."""

    kind: ClassVar[str]

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Declared)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Generic[T]):
    """One declaration and its provenance. `where` is the "module:attribute" of what it builds."""

    kind: str
    component: T
    plugin: str
    origin: str
    distribution: str = ""
    version: str = ""
    path: str = ""
    where: str = ""

    @property
    def name(self) -> str:
        return self.component.name

    @property
    def provider(self) -> str:
        """The plugin as error messages name it."""
        return provider(self.plugin, self.distribution, self.version, self.path or self.origin)

    @property
    def title(self) -> str:
        """Plugin and component, as the beginning of an error message."""
        return f"{self.provider}: {words(self.kind)} {self.name!r}"

    def __str__(self) -> str:
        return f"{words(self.kind)} {self.name!r} of {self.provider}"


class Registry(Generic[T]):
    """The entries of one kind, unique by name; iteration is in name order."""

    def __init__(self, kind: str, entries: Iterable[Entry[T]] = ()) -> None:
        self.kind = kind
        self._registered = tuple(entries)
        self._entries = {entry.name: entry for entry in sorted(self._registered, key=lambda entry: entry.name)}

    def get(self, name: str) -> Entry[T]:
        """The entry called `name`; PluginError with what is near otherwise."""
        try:
            return self._entries[name]
        except KeyError:
            raise PluginError(unknown(words(self.kind), name, self._entries)) from None

    def names(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def last_registered_first(self) -> tuple[Entry[T], ...]:
        return self._registered[::-1]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[Entry[T]]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)


def find_architecture(
    registry: Declarations[Architecture], classes: Sequence[str], task: str | None = None
) -> Declaration[Architecture]:
    """The architecture of a model whose config.json lists `classes`; names first, then aliases, then without suffix.

    With a `task`, among those that are for it.
    """
    able = [entry for entry in registry if task is None or entry.component.task == task]
    for name in classes:
        for known in (_name, _aliases, _plain_names):
            wanted = plain(name) if known is _plain_names else name
            entry = next((entry for entry in able if wanted in known(entry.component)), None)
            if entry is not None:
                return entry
    if not classes:
        raise PluginError('the model\'s config.json names no "architectures"')
    native = [entry.name for entry in registry if entry.component.fallback is None]
    raise PluginError(unknown("architecture", classes[0], native) + "; --custom-architectures or a plugin can add it")


def tasks_of(registry: Declarations[Architecture], classes: Sequence[str]) -> tuple[str, ...]:
    """What a model of `classes` can be used for, generation of text first; empty when the classes are unknown."""
    wanted = {plain(name) for name in classes}
    found = {entry.component.task for entry in registry if wanted & _plain_names(entry.component)}
    return tuple(sorted(found, key=lambda task: (task != "text_generation", task)))


def _name(architecture: Architecture) -> Set[str]:
    return {architecture.name}


def _aliases(architecture: Architecture) -> Set[str]:
    return {*architecture.aliases}


def _plain_names(architecture: Architecture) -> Set[str]:
    return {plain(known) for known in (architecture.name, *architecture.aliases)}


def plain(name: str) -> str:
    """An architecture's name without the suffixes that stand for a variant of the same model."""
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def load_ref(ref: Ref) -> Any:
    """The thing a Ref stands for; PluginError with target and cause when it cannot be imported."""
    if not isinstance(ref, str):
        return ref
    module, colon, attribute = ref.partition(":")
    if not (module and colon and attribute):
        raise PluginError(f"{ref!r} is no reference: it must read 'module:attribute'")
    try:
        found: Any = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:
        raise PluginError(f"cannot load {ref!r}: {cause(error)}") from error
    return found


def where(ref: Ref) -> str:
    """A Ref as "module:attribute", without importing anything."""
    if isinstance(ref, str):
        return ref
    named = ref if isinstance(ref, NAMED) else type(ref)  # an instance with __call__ has no name of its own
    return f"{named.__module__}:{named.__qualname__}"


def provider(plugin: str, distribution: str, version: str, path: str) -> str:
    """A plugin and where it comes from: "plugin 'acme' (acme-llm 1.0)"."""
    return f"plugin {plugin!r} ({f'{distribution} {version}'.strip() or path})"


def unknown(what: str, name: str, names: Iterable[str]) -> str:
    """The one line that says a name is not there, what is near it, and what there is."""
    known = sorted(names)
    there = f"there are: {', '.join(known)}" if known else "there is none"
    return f"no {what} is called {name!r}{nearest(name, known)}; {there}"


def nearest(name: str, names: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" when a name like `name` is known, else nothing."""
    from difflib import get_close_matches

    lowered = {known.lower(): known for known in names}
    close = get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return f" (did you mean {lowered[close[0]]!r}?)" if close else ""


def words(kind: str) -> str:
    """A kind as it reads in a sentence."""
    return kind.replace("_", " ")
