"""What did the operator say about plugins, before anything is imported?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maxserve.core.errors import PluginError
from maxserve.core.registry import unknown

if TYPE_CHECKING:
    from maxserve.core.settings import Settings
    from maxserve.core.settings.serving import PluginsSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginOptions:
    """Which plugins to use; every field may stay at its default.

    `plugin`, `no_plugin`, `prefer` and `custom_architectures` are the options of the same names. `allow` None means
    every installed plugin; `autoload` False means none of them. `tolerant` turns errors into warnings.
    """

    plugin: tuple[str, ...] = ()
    no_plugin: tuple[str, ...] = ()
    prefer: tuple[str, ...] = ()
    custom_architectures: tuple[str, ...] = ()
    autoload: bool = True
    allow: tuple[str, ...] | None = None
    tolerant: bool = False

    @classmethod
    def from_settings(cls, settings: Settings) -> PluginOptions:
        """What settings say of plugins; what only the environment can say keeps its default."""
        return cls.from_choice(settings.plugins)

    @classmethod
    def from_choice(cls, chosen: PluginsSettings) -> PluginOptions:
        """The same, from the one section that is about plugins."""
        return cls(
            plugin=chosen.plugin,
            no_plugin=split_commas(chosen.no_plugin),
            prefer=chosen.prefer,
            custom_architectures=chosen.custom_architectures,
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
