"""Options that go with a model: what speculative methods draft with for it, as its source says."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

from maxserve.core.config.catalog import catalog, near
from maxserve.core.config.components import changed, combined, read_value
from maxserve.core.interfaces.errors import PluginError, SettingsError
from maxserve.core.loading.resolve import companions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from maxserve.core.config import Settings
    from maxserve.core.config.catalog import OptionSpec
    from maxserve.core.interfaces.speculator import Speculator
    from maxserve.core.registry.entries import Entry
    from maxserve.core.registry.protocol import Host


def with_companions(settings: Settings, host: Host) -> Settings:
    """The settings with what the speculative method needs and the operator left to the source of the model.

    SettingsError where that has nothing for the method, either, or where two methods would have to share it.
    """
    method = settings.speculative.speculative_method
    if method is None:
        return settings
    options, entry = catalog(host.plugin_sections()).by_name(), host.speculators.get(method)
    settings = _complete(settings, host, entry, options)
    others = combined(entry, options, host.speculators, settings)
    for one, other in combinations({other.name: other for other in others}.values(), 2):
        _validate_apart(one, other, options)
    for other in others:
        settings = _complete(settings, host, other, options)
    return settings


def _complete(settings: Settings, host: Host, entry: Entry[Speculator], options: Mapping[str, OptionSpec]) -> Settings:
    """The settings with all that the method requires."""
    missing = [name for name in entry.component.required if not _option(options, name, entry).value(settings)]
    return _filled(settings, host, entry, options, missing) if missing else settings


def _validate_apart(one: Entry[Speculator], other: Entry[Speculator], options: Mapping[str, OptionSpec]) -> None:
    """SettingsError where one of the methods requires what the other reads as its own: an option has one value."""
    first, second = one.component, other.component
    for name in sorted({*first.required, *second.required} & {*first.honours} & {*second.honours}):
        flag = _option(options, name, one).flag
        raise SettingsError(
            f"{one.name} and {other.name} cannot draft together: both read {flag}, which has one value, for one of "
            "them; choose another method in place of one"
        )


def _filled(
    settings: Settings, host: Host, entry: Entry[Speculator], options: Mapping[str, OptionSpec], missing: list[str]
) -> Settings:
    found = companions(settings.model, host).get(entry.name, {})
    for name in missing:
        if name not in found:
            raise SettingsError(_refusal(settings, entry, options[name]))
    for name, value in found.items():
        option = options.get(name)
        if option is None:
            ref = settings.model.model_path
            raise PluginError(f"the source of {ref} names {name!r} for {entry.name}, no option{near(name, options)}")
        if option.path not in settings.chosen:
            settings = changed(settings, option, read_value(option, value, host.plugin_sections()))
    return settings


def _option(options: Mapping[str, OptionSpec], name: str, entry: Entry[Any]) -> OptionSpec:
    if name not in options:
        raise PluginError(f"{entry.title} requires {name!r}, which is no option{near(name, options)}")
    return options[name]


def _refusal(settings: Settings, entry: Entry[Speculator], option: OptionSpec) -> str:
    ref, name = settings.model.model_path or "the model", entry.name
    return (
        f"--speculative-method {name} needs {option.flag}, and {ref} brings none; give it ({name}: "
        f"{entry.component.summary}), or choose another method"
    )
