"""One `Settings` from command line, file, environment and defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError

from maxserve.core.config.catalog import Catalog, OptionSpec, catalog, expectation
from maxserve.core.config.checks import check
from maxserve.core.config.settings import Origin, PluginSection, PluginsSettings, Settings
from maxserve.core.config.sources import Inputs, Sources, read_sources
from maxserve.core.interfaces.errors import SettingsError

DOTENV = Path(".env")


def resolve(
    typed: Mapping[str, Any],
    *,
    environ: Mapping[str, str],
    sections: Sequence[PluginSection] = (),
    dotenv: Path = DOTENV,
    complete: Callable[[Settings], Settings] | None = None,
) -> Settings:
    """The settings: per field, what was typed, else the file's, else the environment's, else the default.

    `typed` holds values by Python name; None and empty lists mean that nothing was typed. An empty `environ` stands
    for no environment at all, `.env` included. `complete` fills in what was left to others, before plugins check their
    sections. SettingsError says in one line what is wrong and where.
    """
    options = catalog(sections)
    reading = _Reading(options, read_sources(options, Inputs(typed=typed, environ=environ, dotenv=dotenv)))
    settings = check(reading.settings(sections))
    settings = settings if complete is None else complete(settings)
    check_sections(settings, sections)
    return settings


def check_sections(settings: Settings, sections: Sequence[PluginSection]) -> None:
    """SettingsError where a plugin finds its settings, together with all others, to be wrong.

    Settings that were made without a plugin have none of it.
    """
    for each in sections:
        if each.check is not None and each.name in settings.plugins.sections:
            each.check(settings, each.load(settings.plugins.sections[each.name]))


def resolve_plugins(typed: Mapping[str, Any], *, environ: Mapping[str, str], dotenv: Path = DOTENV) -> PluginsSettings:
    """Only the choice of plugins, from the same sources, before plugins' own options are known.

    What other options are called, or are set to, is not looked at.
    """
    options = Catalog(tuple(option for option in catalog() if option.section in ("plugins", "files")))
    reading = _Reading(
        options, read_sources(options, Inputs(typed=typed, environ=environ, dotenv=dotenv, strict=False))
    )
    return reading.settings(()).plugins


class _Reading(msgspec.Struct):
    """The sources on their way into one value."""

    options: Catalog
    sources: Sources
    origins: dict[str, Origin] = msgspec.field(default_factory=dict)
    where: dict[str, str] = msgspec.field(default_factory=dict)
    errors: list[str] = msgspec.field(default_factory=list)

    def settings(self, sections: Sequence[PluginSection]) -> Settings:
        values = self._values()
        plugins = {each.name: self._plugin_values(each, values.pop(each.name, {})) for each in sections}
        self._raise_errors()
        for each in sections:
            self._check(each, plugins[each.name])
        values.setdefault("plugins", {})["sections"] = plugins
        try:
            return Settings.model_validate({**values, "origins": self.origins})
        except ValidationError as error:
            self.errors.extend(self._explain(error))
        self._raise_errors()
        raise AssertionError("settings that are not valid have errors")

    def _values(self) -> dict[str, dict[str, Any]]:
        values: dict[str, dict[str, Any]] = {}
        for option in self.options:
            for origin, source in self.sources:
                if option.path in source:
                    self.origins[option.path] = origin
                    self.where[option.path] = source[option.path].where
                    self._read(option, source[option.path].value, values.setdefault(option.section, {}))
                    break
        return values

    def _read(self, option: OptionSpec, value: object, into: dict[str, Any]) -> None:
        try:
            into[option.key] = option.shape.read(value)
        except ValueError as error:
            self.errors.append(f"{self.where[option.path]}: {error}")

    def _plugin_values(self, section: PluginSection, read: Mapping[str, Any]) -> dict[str, Any]:
        """Every field's value, in types that JSON has."""
        values: dict[str, Any] = {}
        for option in self.options:
            if option.section == section.name:
                if option.required and option.path not in self.where:
                    self.errors.append(f"plugin {option.plugin!r} needs {option.flag}; give it, or {option.env[0]}")
                values[option.key] = read.get(option.key, option.default)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    def _check(self, section: PluginSection, values: Mapping[str, Any]) -> None:
        """Flat options read as the core's own do where they are wrong."""
        try:
            section.validate(values)
        except ValidationError as error:
            if not section.within or not all(each["loc"] for each in error.errors()):
                section.load(values)
            self.errors.extend(self._explain(error, section.name))

    def _explain(self, error: ValidationError, *above: str) -> list[str]:
        by_path = self.options.by_path()
        lines = []
        for each in error.errors():
            path = ".".join(map(str, (*above, *each["loc"])[:2]))
            expected = expectation(by_path[path], each)
            lines.append(f"{self.where.get(path, path)}: expected {expected}, not {each['input']!r}")
        return lines

    def _raise_errors(self) -> None:
        if self.errors:
            raise SettingsError("; ".join(self.errors))
