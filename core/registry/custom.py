"""Modules of --custom-architectures and the architectures they list."""

from __future__ import annotations

import os
from importlib import util
from pathlib import Path
from types import ModuleType

from maxserve.core.interfaces.architecture import Architecture
from maxserve.core.interfaces.errors import PluginError
from maxserve.core.registry.complaints import Complaints
from maxserve.core.registry.options import PluginOptions, split_commas
from maxserve.core.registry.sources import CUSTOM, Source

LIST = "ARCHITECTURES"


def custom_sources(options: PluginOptions, complaints: Complaints) -> list[Source]:
    """One source per MODULE, DIR/MODULE or DIR:MODULE; directories come back absolute."""
    sources = []
    for given in split_commas(options.custom_architectures):
        try:
            sources.append(_source(given))
        except PluginError as error:
            complaints.report(error)
    return sources


def _source(given: str) -> Source:
    directory, module = _split(given)
    folder = ""
    if directory:
        folder = os.path.realpath(os.path.expanduser(directory))
        if not os.path.isdir(folder):
            raise PluginError(f"{CUSTOM} {given}: there is no directory {directory!r}")
    elif not _importable(module):
        folder = os.getcwd()  # as MAX does: a module beside the operator, after everything installed
    return Source(name=module, target=module, origin=CUSTOM, folder=folder, given=given)


def _split(given: str) -> tuple[str, str]:
    """Directory (may be empty) and module of one value."""
    if given.count(":") > 1:
        raise PluginError(f"{CUSTOM} {given}: more than one colon; must read MODULE, DIR/MODULE or DIR:MODULE")
    if ":" in given:
        directory, module = given.split(":")
        directory = directory or "."
    else:
        directory, module = os.path.split(given.rstrip(os.sep))
    module = module.removesuffix(".py")
    if not module or os.sep in module:
        raise PluginError(f"{CUSTOM} {given!r}: no module is named; must read MODULE, DIR/MODULE or DIR:MODULE")
    return directory, module


def _importable(module: str) -> bool:
    try:
        return util.find_spec(module.partition(".")[0]) is not None
    except ValueError:  # already imported by hand, without a spec
        return True


def check_place(source: Source, module: ModuleType) -> None:
    """Raises when a module was imported from somewhere else than the directory that was typed.

    The directory comes last on sys.path so that a stray file in it cannot replace an installed module; hence an
    installed module of the same name would win, and must be refused.
    """
    if not source.folder:
        return
    folder = Path(source.folder)
    places = [Path(os.path.realpath(place)) for place in _places(module)]
    if not any(place.is_relative_to(folder) for place in places):
        found = f"found in {places[0]}" if places else "built into Python"
        raise PluginError(
            f"{source.origin} {source.given}: {source.module!r} was {found}, not under {source.folder}; "
            "call the module something else"
        )


def _places(module: ModuleType) -> list[str]:
    """Where a module lies; nowhere when it is part of the interpreter, in several places as a namespace package."""
    file: str | None = vars(module).get("__file__")
    return [file] if file is not None else list(vars(module).get("__path__", ()))


def listed_architectures(source: Source, module: object) -> list[Architecture]:
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
