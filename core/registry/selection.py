"""The plugins that take part, and why others do not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from maxserve.core.interfaces.architecture import Architecture
from maxserve.core.interfaces.errors import PluginError
from maxserve.core.registry.complaints import Complaints
from maxserve.core.registry.entries import unknown
from maxserve.core.registry.options import PluginOptions
from maxserve.core.registry.sources import (
    BUILT_IN,
    ENTRY_POINT,
    GROUP,
    Source,
    builtin_sources,
    installed_sources,
    typed_sources,
)

ACTIVE = "active"
BROKEN = "broken"
RESERVED = "builtin."


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A plugin and what became of it: active, broken (`error` says why), or off for the reason in `status`."""

    source: Source
    status: str = ACTIVE
    error: str = ""
    import_ms: float | None = None
    hooks: tuple[str, ...] = ()
    listed: tuple[Architecture, ...] = ()

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def active(self) -> bool:
        return self.status == ACTIVE

    def broken(self, error: PluginError) -> Plugin:
        """The same plugin, left out because of `error`."""
        return replace(self, status=BROKEN, error=self.error or str(error))


def find_plugins(options: PluginOptions, complaints: Complaints) -> list[Plugin]:
    """Every plugin there is, in the order of its source; nothing is imported yet but the tuple of built-ins."""
    sources = [*builtin_sources(), *installed_sources(complaints), *typed_sources(options, complaints)]
    _check_names(options, sources, complaints)
    plugins = [Plugin(source=source, status=_status(source, options)) for source in sources]
    return _without_namesakes(plugins, complaints)


def _status(source: Source, options: PluginOptions) -> str:
    if source.foreign:
        return f"off: is for {source.group}; this is {GROUP.removeprefix('maxserve.')}"
    if source.name in options.no_plugin:
        return "off: --no-plugin"
    if source.origin == ENTRY_POINT and not options.autoload:
        return "off: MAX_SERVE_PLUGIN_AUTOLOAD=0"
    if source.origin == ENTRY_POINT and options.allow is not None and source.name not in options.allow:
        return "off: not in MAX_SERVE_PLUGIN_ALLOW"
    return ACTIVE


def _check_names(options: PluginOptions, sources: list[Source], complaints: Complaints) -> None:
    """Complains of names in options that no plugin has: a typo would otherwise switch nothing off, in silence."""
    installed = [source.name for source in sources if source.origin == ENTRY_POINT and not source.foreign]
    known = [source.name for source in sources]
    _check(options.no_plugin, known, "--no-plugin (or MAX_SERVE_DISABLE_PLUGINS)", complaints)
    _check(options.allow or (), installed, "MAX_SERVE_PLUGIN_ALLOW", complaints)


def _check(names: Iterable[str], known: list[str], option: str, complaints: Complaints) -> None:
    for name in names:
        if name not in known:
            complaints.report(PluginError(f"{option}: {unknown('plugin', name, known)}"))


def _without_namesakes(plugins: list[Plugin], complaints: Complaints) -> list[Plugin]:
    """The same plugins; of several active ones with one name only the first stays active."""
    first: dict[str, Plugin] = {}
    found = []
    for plugin in plugins:
        error = _name_error(plugin, first) if plugin.active else None
        if error is not None:
            complaints.report(error)
            plugin = plugin.broken(error)
        found.append(plugin)
    return found


def _name_error(plugin: Plugin, first: dict[str, Plugin]) -> PluginError | None:
    source = plugin.source
    if source.name.startswith(RESERVED) and source.origin != BUILT_IN:
        return PluginError(f"{source.label}: names that start with {RESERVED!r} belong to maxserve itself")
    other = first.setdefault(source.name, plugin).source
    if other is source:
        return None
    return PluginError(
        f"two plugins are called {source.name!r}: one of {_whence(other)} and one of {_whence(source)}; "
        "uninstall or leave away one of them"
    )


def _whence(source: Source) -> str:
    return f"{source.distribution} {source.version}".strip() or f"{source.origin} {source.given}"
