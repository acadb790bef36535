"""The operator's options about plugins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from maxserve.core.interfaces.errors import PluginError, SettingsError
from maxserve.core.registry.entries import unknown

if TYPE_CHECKING:
    from maxserve.core.config.settings import PluginsSettings

ON = ("1", "true", "yes", "on")
OFF = ("0", "false", "no", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginOptions:
    """Which plugins to use; every field may stay at its default.

    `plugin`, `no_plugin`, `prefer` and `custom_architectures` are the options of the same names. `allow` None means
    every installed plugin; `autoload` False means none of them. With `tolerant`, errors are warnings.
    """

    plugin: tuple[str, ...] = ()
    no_plugin: tuple[str, ...] = ()
    prefer: tuple[str, ...] = ()
    custom_architectures: tuple[str, ...] = ()
    autoload: bool = True
    allow: tuple[str, ...] | None = None
    tolerant: bool = False

    @classmethod
    def from_choice(cls, chosen: PluginsSettings) -> PluginOptions:
        """What settings say of plugins; what only the environment can say has its default."""
        return cls(
            plugin=chosen.plugin,
            no_plugin=split_commas(chosen.no_plugin),
            prefer=chosen.prefer,
            custom_architectures=chosen.custom_architectures,
        )

    def with_environment(self, environ: Mapping[str, str]) -> PluginOptions:
        """Returns these options with what only variables can say; SettingsError for one that reads wrongly."""
        allow = environ.get("MAX_SERVE_PLUGIN_ALLOW")
        return replace(
            self,
            no_plugin=(*self.no_plugin, *_names(environ.get("MAX_SERVE_DISABLE_PLUGINS", ""))),
            autoload=_switch(environ, "MAX_SERVE_PLUGIN_AUTOLOAD"),
            allow=None if allow is None else _names(allow),
            tolerant=_tolerant(environ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """Whose declaration of a name is meant when several plugins declare it."""

    kind: str
    name: str
    plugin: str

    def __str__(self) -> str:
        return f"--prefer {self.kind}:{self.name}={self.plugin}"


def parse_preferences(texts: Sequence[str], kinds: Sequence[str]) -> list[Preference]:
    """Preferences from KIND:NAME=PLUGIN; PluginError when one does not read so, or two disagree."""
    found: dict[tuple[str, str], Preference] = {}
    for text in texts:
        preference = _parse(text)
        if preference.kind not in kinds:
            raise PluginError(f"--prefer {text}: {unknown('kind', preference.kind, kinds)}")
        other = found.setdefault((preference.kind, preference.name), preference)
        if other != preference:
            raise PluginError(f"{other} and {preference} contradict each other")
    return list(found.values())


def _parse(text: str) -> Preference:
    thing, equals, plugin = text.partition("=")
    kind, colon, name = thing.partition(":")
    if not (equals and colon and kind and name and plugin):
        raise PluginError(f"--prefer {text}: must read KIND:NAME=PLUGIN, such as scheduler:continuous=acme")
    return Preference(kind=kind.replace("-", "_"), name=name, plugin=plugin)


def split_commas(values: Sequence[str]) -> tuple[str, ...]:
    """The values of a repeatable option that allows commas as well."""
    return tuple(part.strip() for value in values for part in value.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, split_commas([text])))


def _switch(environ: Mapping[str, str], name: str) -> bool:
    text = environ.get(name, "1").strip().lower()
    if text not in (*ON, *OFF, ""):
        raise SettingsError(f"{name}={text}: must be 1 or 0")
    return text not in OFF


def _tolerant(environ: Mapping[str, str]) -> bool:
    text = environ.get("MAX_SERVE_PLUGIN_ERRORS", "").strip().lower()
    if text not in ("", "warn", "strict"):
        raise SettingsError(f"MAX_SERVE_PLUGIN_ERRORS={text}: must be warn or strict")
    return text == "warn"
