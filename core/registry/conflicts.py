"""Conflicts between plugins that declare one name.

No plugin wins silently: it is an error that names both, unless --prefer decides, or an architecture of the operator's
own --custom-architectures replaces a built-in one. What else such a module declares is treated as any plugin's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from maxserve.core.interfaces.architecture import Architecture
from maxserve.core.interfaces.config import ConfigSection
from maxserve.core.interfaces.errors import PluginError
from maxserve.core.registry.complaints import Complaints
from maxserve.core.registry.entries import Declared, Entry, plain, unknown, words
from maxserve.core.registry.options import Preference
from maxserve.core.registry.sources import BUILT_IN, CUSTOM

SECTION = ConfigSection.kind

T = TypeVar("T", bound=Declared)


def settle(
    kind: str, entries: Sequence[Entry[T]], prefer: Sequence[Preference], complaints: Complaints
) -> list[Entry[T]]:
    """The entries of one kind with every name held by one plugin; who loses a name keeps its aliases."""
    holders: dict[str, list[Entry[T]]] = {}
    for entry in entries:
        for name in _names(entry):
            holders.setdefault(name, []).append(entry)
    preferences = {_normal(kind, preference.name): preference for preference in prefer if preference.kind == kind}
    for name in preferences.keys() - holders.keys():
        complaints.report(PluginError(f"{preferences[name]}: {unknown(words(kind), preferences[name].name, holders)}"))
    lost: dict[int, set[str]] = {}
    for name, rivals in holders.items():
        winner = _winner(name, rivals, preferences.get(name), complaints)
        for rival in rivals:
            if rival is not winner and not _variants(rival, winner):
                lost.setdefault(id(rival), set()).add(name)
    shrunk = [_without(entry, lost.get(id(entry), set())) for entry in entries]
    return [entry for entry in shrunk if entry is not None]


def _names(entry: Entry[T]) -> list[str]:
    """The names an entry answers to, as they are compared: architectures without suffixes, sections without dashes."""
    aliases = entry.component.aliases if isinstance(entry.component, Architecture) else ()
    return list(dict.fromkeys(_normal(entry.kind, name) for name in (entry.name, *aliases)))


def _normal(kind: str, name: str) -> str:
    if kind == "architecture":
        return plain(name)
    return name.replace("-", "_") if kind == SECTION else name  # one environment variable stands for both


def _variants(one: Entry[T], other: Entry[T]) -> bool:
    """Both are variants of one model (X_Legacy, X_ModuleV3) in one plugin: lookup by plain name takes the first.

    Or they make different uses of one class: lookup goes by the task as well.
    """
    if one.name == other.name:
        return False
    return one.plugin == other.plugin or _task(one) != _task(other)


def _task(entry: Entry[T]) -> str:
    return entry.component.task if isinstance(entry.component, Architecture) else ""


def _winner(name: str, rivals: list[Entry[T]], preference: Preference | None, complaints: Complaints) -> Entry[T]:
    preferred = [entry for entry in rivals if preference is not None and entry.plugin == preference.plugin]
    if preference is not None and not preferred:
        complaints.report(_not_declared_by(preference, rivals))
    rivals = preferred or rivals
    first, *others = [entry for entry in rivals if _replaces(entry)] or rivals
    if _replaces(first) and not others:
        replaced = [entry for entry in rivals if entry.origin == BUILT_IN]
        for entry in replaced:
            complaints.warn(f"{first} replaces that of {entry.provider}")
        others = [entry for entry in rivals if entry is not first and entry.origin != BUILT_IN]
    others = [entry for entry in others if not _variants(first, entry)]
    if others:
        complaints.report(_clash(name, first, others[0]))
    return first


def _replaces(entry: Entry[T]) -> bool:
    """Returns whether an entry replaces a built-in one of its name."""
    return entry.origin == CUSTOM and isinstance(entry.component, Architecture)


def _clash(name: str, one: Entry[T], other: Entry[T]) -> PluginError:
    what = f"{words(one.kind)} {name!r}"
    if one.plugin == other.plugin:
        return PluginError(f"{one.provider} declares {what} twice")
    if one.kind == SECTION:  # both plugins read their section, so none can be preferred
        way_out = f"leave out one of them with --no-plugin {one.plugin} or --no-plugin {other.plugin}"
    else:
        ways = (f"--prefer {one.kind}:{name}={plugin}" for plugin in (one.plugin, other.plugin))
        way_out = f"choose with {' or '.join(ways)}"
    return PluginError(f"{what} is declared by {one.provider} and by {other.provider}; {way_out}")


def _not_declared_by(preference: Preference, rivals: list[Entry[T]]) -> PluginError:
    givers = ", ".join(sorted({entry.plugin for entry in rivals}))
    return PluginError(f"{preference}: that plugin does not declare it; these do: {givers}")


def _without(entry: Entry[T], lost: set[str]) -> Entry[T] | None:
    """The entry under the names it has left, None when there is none."""
    if not lost:
        return entry
    component = entry.component
    if not isinstance(component, Architecture):
        return None
    left = [name for name in (component.name, *component.aliases) if plain(name) not in lost]
    if not left:
        return None
    return replace(entry, component=replace(component, name=left[0], aliases=tuple(left[1:])))
