"""Checks of a plugin's hooks, and how their failures read."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

from maxserve.core import hookspecs
from maxserve.core.interfaces.architecture import Architecture
from maxserve.core.interfaces.errors import PluginError, SettingsError
from maxserve.core.registry.entries import nearest, words
from maxserve.core.registry.selection import Plugin

if TYPE_CHECKING:
    import click

    from maxserve.core.config.settings import PluginSection

# Fields of declarations that hold a Ref.
REFERENCES = ("build", "check", "config", "group", "max_started", "params", "recognises", "schema")
REFERENCE = re.compile(r"[\w.]+:[\w.]+")
HOOKS = tuple(name for name in vars(hookspecs) if name.startswith(f"{hookspecs.PROJECT}_"))


def check_implementation(name: str, implementation: pluggy.HookImpl, *, known: bool) -> None:
    """Raises when no hook is called so, or when the plugin wants to wrap the other plugins' answers."""
    if not known and not implementation.optionalhook:
        raise PluginError(
            f"there is no hook {name}{nearest(name, HOOKS)}; upgrade maxserve, or mark it @hookimpl(optionalhook=True)"
        )
    if implementation.wrapper or implementation.hookwrapper:
        raise PluginError(f"{name} is a wrapper, and those are refused: a plugin answers for itself only")


def declares_nothing(plugin: Plugin, target: object) -> PluginError:
    """The error of a plugin without a single hook, with the likeliest reason."""
    unmarked = [name for name in HOOKS if name in dir(target)]
    if unmarked:
        return PluginError(f"declares nothing: {unmarked[0]} is not marked @hookimpl")
    wanted = "there is no ARCHITECTURES list, and " if plugin.source.is_custom else ""
    return PluginError(f"declares nothing: {wanted}no function is marked @hookimpl")


def one_line(error: Exception) -> str:
    """What pluggy says of a hook's arguments takes several."""
    return " ".join(str(error).split())


def wrong_type(hook: str, verb: str, value: object, wanted: type[Any]) -> str:
    """How an answer that is not what the hook is for reads."""
    return f"{hook} {verb} {repr(value)[:80]}, of type {type(value).__name__}; it must give maxserve.{wanted.__name__}"


def check_declaration(item: Any) -> None:
    """Raises when a declaration has no name, or refers to what can be no thing to build."""
    what = words(item.kind)
    if not isinstance(item.name, str) or not item.name.strip():
        raise PluginError(f"{what}: a name must be some text, not {item.name!r}")
    for field in dataclasses.fields(item):
        ref = getattr(item, field.name)
        if field.name in REFERENCES and ref is not field.default and not _is_reference(ref):
            raise PluginError(
                f"{what} {item.name!r}: {field.name} must be 'module:attribute' or the thing itself, not "
                f"{repr(ref)[:80]}"
            )
    if isinstance(item, Architecture):
        validate_required(item)


def validate_required(architecture: Architecture, sections: Sequence[PluginSection] | None = None) -> None:
    """PluginError for options that an architecture cannot insist on; `sections` are those of plugins, once known."""
    if not architecture.required_arguments:
        return
    from maxserve.core.config.components import check_required  # imports every setting, and most declare none

    try:
        check_required(architecture.required_arguments, sections)
    except SettingsError as error:
        raise PluginError(f"architecture {architecture.name!r}: required_arguments: {error}") from None


def _is_reference(ref: object) -> bool:
    return REFERENCE.fullmatch(ref) is not None if isinstance(ref, str) else callable(ref)


def check_commands(
    plugin: Plugin, before: Mapping[str, click.Command], after: Mapping[str, click.Command], owners: dict[str, str]
) -> None:
    """Raises when a command that was there is another one now, or gone; notes who owns the new ones."""
    for name, command in before.items():
        if after.get(name) is not command:
            raise plugin.source.error(f"replaces the command {name!r}, which belongs to {owners[name]}")
    owners.update(dict.fromkeys(after.keys() - before.keys(), plugin.source.label))
