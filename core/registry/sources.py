"""The sources of plugins, in their order.

Built-ins, installed entry points, --plugin, --custom-architectures. The order is shown and decides nothing else.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from maxserve.core.interfaces.errors import PluginError
from maxserve.core.registry.builtins import shipped
from maxserve.core.registry.complaints import Complaints
from maxserve.core.registry.entries import provider
from maxserve.core.registry.options import PluginOptions, split_commas

GROUP = "maxserve.v1"
DISTRIBUTION = "maxserve"
BUILT_IN = "built-in"
ENTRY_POINT = "entry point"
PLUGIN = "--plugin"
CUSTOM = "--custom-architectures"

_GROUPS = re.compile(r"maxserve\.v\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One plugin to import: plain text, so that it can travel to a worker.

    `target` is "module" or "module:attribute". `folder`, absolute, is appended to sys.path before the import;
    `path` is the file the module was found in, once it was imported. `given` is the option's value as it was typed,
    `group` that of an entry point: one for another version of the plugin interface is listed, and never imported.
    """

    name: str
    target: str
    origin: str
    distribution: str = ""
    version: str = ""
    folder: str = ""
    path: str = ""
    given: str = ""
    group: str = ""

    @property
    def label(self) -> str:
        """The plugin as error messages name it."""
        return provider(self.name, self.distribution, self.version, self.path or f"{self.origin} {self.given}".strip())

    @property
    def module(self) -> str:
        return self.target.partition(":")[0]

    @property
    def is_custom(self) -> bool:
        return self.origin == CUSTOM

    @property
    def foreign(self) -> bool:
        """Whether it is for another version of the plugin interface."""
        return self.group not in ("", GROUP)

    def error(self, text: str) -> PluginError:
        """What is wrong with this plugin, and how to start without it."""
        return PluginError(f"{self.label}: {text}{self.way_out}")

    @property
    def way_out(self) -> str:
        """How to start without this plugin."""
        if self.origin in (BUILT_IN, ENTRY_POINT):
            return f"; leave it out with --no-plugin {self.name}"
        return ""


def builtin_sources() -> list[Source]:
    """The plugins that ship with maxserve."""
    version = own_version()
    return [
        Source(name=name, target=target, origin=BUILT_IN, distribution=DISTRIBUTION, version=version)
        for name, target in shipped()
    ]


def own_version() -> str:
    """The version of the installed maxserve, empty when it runs from files that were never installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return ""


def installed_sources(complaints: Complaints) -> list[Source]:
    """Entry points sorted by (distribution, name), those for other versions of the interface last."""
    points = [(dist, point) for dist in _distributions(complaints) for point in dist.entry_points]
    sources = [_installed(dist, point) for dist, point in points if _GROUPS.fullmatch(point.group)]
    return sorted(sources, key=lambda source: (source.foreign, source.distribution, source.name))


def _distributions(complaints: Complaints) -> list[metadata.Distribution]:
    """Distributions with entry points for us; of two copies of one, the first on sys.path, with a warning."""
    first: dict[str, metadata.Distribution] = {}
    for dist in metadata.distributions():
        if not any(_GROUPS.fullmatch(point.group) for point in dist.entry_points):
            continue  # reading metadata is slow, so only of those that matter
        other = first.setdefault(re.sub(r"[-_.]+", "-", dist.name).lower(), dist)
        if other is not dist and other.locate_file("") != dist.locate_file(""):
            complaints.warn(
                f"{dist.name} is installed twice: {other.version} in {other.locate_file('')} is used, "
                f"{dist.version} in {dist.locate_file('')} is not; uninstall one"
            )
    return list(first.values())


def _installed(dist: metadata.Distribution, point: metadata.EntryPoint) -> Source:
    target = point.value.partition("[")[0].strip()
    return Source(
        name=point.name,
        target=target,
        origin=ENTRY_POINT,
        distribution=dist.name,
        version=dist.version or "",
        group=point.group,
    )


def typed_sources(options: PluginOptions, complaints: Complaints) -> list[Source]:
    """What --plugin and --custom-architectures name; folders come back absolute."""
    sources = []
    for read, typed in ((_named, options.plugin), (_custom, options.custom_architectures)):
        for given in split_commas(typed):
            try:
                sources.append(read(given))
            except PluginError as error:
                complaints.report(error)
    return sources


def _named(given: str) -> Source:
    """A module is called what was typed, a file or folder by its module's name."""
    module, colon, attribute = given.partition(":")
    if not module or (colon and not attribute) or ":" in attribute:
        raise PluginError(f"--plugin {given}: must read MODULE, FILE.py or one of them with :ATTRIBUTE")
    if os.sep not in module and not module.endswith(".py"):
        return Source(name=given, target=given, origin=PLUGIN, given=given)
    path = Path(module).expanduser()
    if not (path.is_file() and path.suffix == ".py") and not (path / "__init__.py").is_file():
        raise PluginError(f"--plugin {given}: there is no Python file and no package folder {module!r}")
    path = path.resolve()
    if not path.stem.isidentifier():
        raise PluginError(f"--plugin {given}: {path.stem!r} is no name of a module; rename the file")
    return Source(
        name=path.stem, target=path.stem + colon + attribute, origin=PLUGIN, folder=str(path.parent), given=given
    )


def _custom(given: str) -> Source:
    """A MODULE, DIR/MODULE or DIR:MODULE."""
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
