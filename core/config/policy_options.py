"""Options up to the scheduler that the chosen one does not act on; their fields say which these are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve.core.config.catalog import catalog, near
from maxserve.core.interfaces.errors import PluginError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maxserve.core.config.catalog import OptionSpec
    from maxserve.core.config.sections import PluginSection, Settings
    from maxserve.core.interfaces.scheduler import Scheduler
    from maxserve.core.registry.entries import Entry, Registry

CHUNKS = "enable_chunked_prefill"


def validate_used(settings: Settings, schedulers: Registry[Scheduler], sections: Sequence[PluginSection] = ()) -> None:
    """SettingsError naming each chosen option that the chosen scheduler does not act on, and who would.

    A switch that is turned off where off is the default asks for nothing and is no reason to refuse. `sections` are
    the settings of plugins, which have such options too.
    """
    options = {option.name: option for option in catalog(sections) if option.marker.policy}
    entry = schedulers.get(settings.scheduling.scheduler)
    _check_names(entry, options)
    refused = [
        _refusal(option, entry, schedulers)
        for option in options.values()
        if option.path in settings.chosen and _asks(option, settings) and not _knows(entry, option.name)
    ]
    if refused:
        raise SettingsError("; ".join(refused))


def _check_names(entry: Entry[Scheduler], options: dict[str, OptionSpec]) -> None:
    for name in entry.component.honours:
        if name not in options:
            raise PluginError(
                f"{entry.title} honours {name!r}, which is no option that is up to schedulers{near(name, options)}"
            )


def _asks(option: OptionSpec, settings: Settings) -> bool:
    return option.default is not False or option.value(settings) is not False


def _knows(entry: Entry[Scheduler], name: str) -> bool:
    """One that never cuts prompts says so at start instead; see `unused_chunking`."""
    return name in entry.component.honours or (name == CHUNKS and not entry.component.chunks_prompts)


def _refusal(option: OptionSpec, entry: Entry[Scheduler], schedulers: Registry[Scheduler]) -> str:
    others = [other.name for other in schedulers if option.name in other.component.honours]
    fix = f"choose {' or '.join(others)} instead, or leave the option out" if others else "leave the option out"
    return f"{option.flag} means nothing with --scheduler {entry.name}, which does not use it; {fix}"


def unused_chunking(settings: Settings, scheduler: Scheduler) -> str | None:
    """What to tell an operator who asked for chunks of a scheduler that runs every prompt whole."""
    asked = f"scheduling.{CHUNKS}" in settings.chosen and settings.scheduling.enable_chunked_prefill
    if scheduler.chunks_prompts or not asked:
        return None
    return f"--enable-chunked-prefill has no effect: scheduler {scheduler.name!r} runs every prompt whole"
