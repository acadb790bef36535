"""The import of a plugin."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from maxserve.core.interfaces.architecture import Architecture
from maxserve.core.interfaces.errors import PluginError, cause
from maxserve.core.registry.kinds import KINDS
from maxserve.core.registry.selection import Plugin
from maxserve.core.registry.sources import CUSTOM, DISTRIBUTION, PLUGIN, Source, own_version

LIST = "ARCHITECTURES"

_DECLARATIONS = {kind.component.__name__ for kind in KINDS} | {"ConfigSection", "ModelSource", "WeightMap"}
_MISSING = re.compile(r"cannot import name '(\w+)' from 'maxserve'")
_UNEXPECTED = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")


def import_plugin(plugin: Plugin) -> tuple[Plugin, object]:
    """The plugin with its path, import time and listed architectures, and the object that holds its hooks."""
    source = plugin.source
    start = time.perf_counter()
    with _search_in(source.folder):
        module, target = _import(source)
        elapsed = (time.perf_counter() - start) * 1000
        if source.origin in (CUSTOM, PLUGIN):
            _check_folder(source, module)
        if source.origin == CUSTOM:
            plugin = replace(plugin, listed=tuple(_listed(source, target)))
    path: str = vars(module).get("__file__") or source.folder
    located = replace(source, path=path, folder=source.folder or _root(source, path))
    return replace(plugin, source=located, import_ms=round(elapsed, 1)), target


def _check_folder(source: Source, module: ModuleType) -> None:
    """Raises when a module was imported from somewhere else than the directory that was typed.

    The directory comes last on sys.path so that a stray file in it cannot replace an installed module; hence an
    installed module of the same name would win, and must be refused.
    """
    if not source.folder:
        return
    folder = Path(source.folder)
    locations = [Path(os.path.realpath(path)) for path in _locations(module)]
    if not any(path.is_relative_to(folder) for path in locations):
        found = f"found in {locations[0]}" if locations else "built into Python"
        raise PluginError(
            f"{source.origin} {source.given}: {source.module!r} was {found}, not under {source.folder}; "
            "call the module something else"
        )


def _locations(module: ModuleType) -> list[str]:
    """Where a module lies; nowhere when it is part of the interpreter, in several locations as a namespace package."""
    file: str | None = vars(module).get("__file__")
    return [file] if file is not None else list(vars(module).get("__path__", ()))


def _listed(source: Source, module: object) -> list[Architecture]:
    """The module's ARCHITECTURES, empty when it has none; PluginError when it is anything but a filled list of them."""
    if not isinstance(module, ModuleType) or LIST not in vars(module):
        return []
    listed = vars(module)[LIST]
    if not isinstance(listed, list | tuple):
        raise PluginError(_wrong(source, f"{LIST} must be a list of Architecture, not {type(listed).__name__}"))
    if not listed:
        raise PluginError(_wrong(source, f"{LIST} is empty"))
    for item in listed:
        if not isinstance(item, Architecture):
            raise PluginError(_wrong(source, f"{LIST} holds {item!r}, which is no maxserve.Architecture"))
    return list(listed)


def _wrong(source: Source, text: str) -> str:
    return f"{CUSTOM} {source.given}: {text}"


@contextmanager
def _search_in(folder: str) -> Iterator[None]:
    """Appends a folder to sys.path, and takes it away again if the import fails."""
    new = bool(folder) and folder not in sys.path
    if new:
        sys.path.append(folder)
    try:
        yield
    except PluginError:
        if new:
            sys.path.remove(folder)
        raise


def _import(source: Source) -> tuple[ModuleType, object]:
    name, _, attribute = source.target.partition(":")
    try:
        module = import_module(name)
        found: Any = module
        for part in filter(None, attribute.split(".")):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:
        raise _import_failure(source, error) from error
    return module, found


def _import_failure(source: Source, error: BaseException) -> PluginError:
    if source.origin == CUSTOM:
        return PluginError(f"{CUSTOM} {source.given}: cannot import {source.module!r}: {explain(error)}")
    return source.error(f"cannot import {source.target!r}: {explain(error)}")


def _root(source: Source, path: str) -> str:
    """The entry of sys.path that a --plugin module came from: a worker may start with another path."""
    if source.origin != PLUGIN or not path:
        return ""
    root = Path(path).resolve().parent
    for _ in range(source.module.count(".") + (1 if Path(path).name == "__init__.py" else 0)):
        root = root.parent
    return str(root) if str(root) in map(os.path.realpath, sys.path) else ""


def explain(error: BaseException) -> str:
    """The cause on one line; what uses names or fields that this version does not know is declared to be too new."""
    if isinstance(error, ImportError) and (missing := _MISSING.match(str(error))):
        return _too_new(f"there is no maxserve.{missing[1]}")
    if isinstance(error, TypeError) and (found := _UNEXPECTED.search(str(error))) and found[1] in _DECLARATIONS:
        return _too_new(f"{found[1]} has no field {found[2]!r}")
    return cause(error)


def _too_new(lack: str) -> str:
    return f"{lack} in this {f'{DISTRIBUTION} {own_version()}'.strip()}: the plugin needs a newer maxserve"
