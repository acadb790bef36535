"""Options that an architecture insists on, and those that a scheduler or an engine does not act on.

Which ones these are, the options say themselves: `early` and `used_by` of their markers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from maxserve.core.config.catalog import OptionSpec, catalog, expectation, near
from maxserve.core.config.checks import check, validate_supported
from maxserve.core.config.settings import SECTIONS, PluginSection, Settings
from maxserve.core.config.values import value_text
from maxserve.core.interfaces.engine import EMBEDDINGS, SCORING, TEXT
from maxserve.core.interfaces.errors import PluginError, SettingsError
from maxserve.core.interfaces.scheduler import Scheduler
from maxserve.core.interfaces.speculator import Speculator

if TYPE_CHECKING:
    from maxserve.core.interfaces.architecture import Architecture
    from maxserve.core.registry.entries import Entry, Registry

log = logging.getLogger("maxserve.settings")

_SECTIONS = ("model", "kv_cache", "scheduling", "sampling", "speculative")


def check_required(arguments: Mapping[str, Any], sections: Sequence[PluginSection] | None = None) -> None:
    """SettingsError for a name that is no option of a model's engine, and for a value that the option cannot have.

    `sections` are the settings of plugins; None where they are not known yet, and names may be of their options.
    """
    options, known = _options(sections or ()), catalog().by_name()
    for name, value in arguments.items():
        if name in options:
            read_value(options[name], value, sections or ())
        elif sections is not None or name in known:
            raise SettingsError(f"there is no option {name!r} that an architecture may set{near(name, options)}")


def with_required(
    settings: Settings, architecture: Architecture, sections: Sequence[PluginSection] = (), *, tell: bool = True
) -> Settings:
    """The settings with what the architecture insists on, a warning for each change; as they are with `--force`.

    `sections` are the settings of plugins, whose options it may name, too.
    """
    if settings.model.force or not architecture.required_arguments:
        return settings
    check_required(architecture.required_arguments, sections)
    changing, options = settings, _options(sections)
    for name, value in architecture.required_arguments.items():
        option = options[name]
        before, wanted = option.value(changing), read_value(option, value, sections)
        if before == wanted:
            continue
        if tell:
            overruled = f"{_typed(option, before)} is overruled (--force keeps it)"
            log.warning("architecture %r insists on %s; %s", architecture.name, _typed(option, wanted), overruled)
        changing = changed(changing, option, wanted)
    if changing is settings:
        return settings
    changing = check(changing)
    validate_supported(changing, sections)
    return changing


def _options(sections: Sequence[PluginSection]) -> dict[str, OptionSpec]:
    """The options that an architecture may set: those about its engine, and those that plugins have for themselves."""
    pages = (*_SECTIONS, *(section.name for section in sections if not section.within))
    return {o.name: o for o in catalog(sections) if o.page in pages and not o.marker.early}


def changed(settings: Settings, option: OptionSpec, value: Any) -> Settings:
    """The settings with another value of the option."""
    if not option.plugin:
        section = getattr(settings, option.section).model_copy(update={option.key: value})
        return settings.model_copy(update={option.section: section})
    before = settings.plugins.sections
    named = {**before, option.section: {**before.get(option.section, {}), option.key: value}}
    return settings.model_copy(update={"plugins": settings.plugins.model_copy(update={"sections": named})})


def read_value(option: OptionSpec, value: Any, sections: Sequence[PluginSection]) -> Any:
    """The value as the option's section has it."""
    try:
        read = None if value is None and option.default is None else option.shape.read(value)
        if option.plugin:
            section = next(section for section in sections if section.name == option.section)
            return getattr(section.validate({option.key: read}), option.key)
        return getattr(SECTIONS[option.section].model_validate({option.key: read}), option.key)
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"{option.name}: expected {expectation(option, first)}, not {value!r}") from None
    except ValueError as error:
        raise SettingsError(f"{option.name}: {error}") from None


def _typed(option: OptionSpec, value: Any) -> str:
    """The option as it would be typed."""
    if isinstance(value, bool):
        return option.flag if value else option.off_flag
    return f"no {option.flag}" if value is None else f"{option.flag} {value_text(value)}"


CHUNKS = "enable_chunked_prefill"
MIXING = "enable_in_flight_batching"
FLAGS = {"scheduler": "--scheduler", "speculator": "--speculative-method"}  # which choose a component of a kind


def validate_used(
    settings: Settings,
    schedulers: Registry[Scheduler],
    speculators: Registry[Speculator],
    sections: Sequence[PluginSection] = (),
) -> None:
    """SettingsError naming each chosen option that nothing which was chosen acts on, and who would.

    Nearly all of them are up to the scheduler. A switch that is off where off is the default asks for nothing
    and is no reason to refuse. `sections` are the settings of plugins, which have such options too.
    """
    options = list(catalog(sections))
    method = settings.speculative.speculative_method
    by_name = {option.name: option for option in options}
    beside = [] if method is None else combined(speculators.get(method), by_name, speculators, settings)
    refused = [
        *_unused("scheduler", settings.scheduling.scheduler, schedulers, options, settings),
        *_unused("speculator", method, speculators, options, settings, beside),
    ]
    for name in ("num_speculative_tokens", "adaptive_speculation"):
        if f"speculative.{name}" in settings.chosen and method is None:
            flag = "--" + name.replace("_", "-")
            refused.append(f"{flag}: nothing drafts tokens; name a --speculative-method, too")
    if "scheduling.max_mixed_step_ms" in settings.chosen and not settings.scheduling.enable_in_flight_batching:
        refused.append("--max-mixed-step-ms: no step is mixed with --no-enable-in-flight-batching; leave one out")
    if refused:
        raise SettingsError("; ".join(refused))


def _unused(
    used_by: str,
    name: str | None,
    registry: Registry[Scheduler] | Registry[Speculator],
    options: Sequence[OptionSpec],
    settings: Settings,
    beside: Sequence[Entry[Speculator]] = (),
) -> list[str]:
    """Why options that are up to the components of a registry mean nothing with the one of that name, or with none.

    `beside` are others of it that run, too.
    """
    theirs = {option.name: option for option in options if option.marker.used_by == used_by}
    entry = None if name is None else registry.get(name)
    acting = [] if entry is None else [entry, *beside]
    for each in acting:
        _check_names(each, theirs, used_by)
    return [
        _refusal(option, entry, registry)
        for option in theirs.values()
        if option.path in settings.chosen
        and _asks(option, settings, entry)
        and not any(_knows(each, option.name) for each in acting)
    ]


def combined(
    entry: Entry[Speculator], options: Mapping[str, OptionSpec], registry: Registry[Speculator], settings: Settings
) -> list[Entry[Speculator]]:
    """The speculative methods that one puts together, by what its options say."""
    values = [str(options[name].value(settings)) for name in entry.component.combines if name in options]
    return [registry.get(value) for value in values if value in registry]


def _check_names(entry: Entry[Scheduler] | Entry[Speculator], options: dict[str, OptionSpec], used_by: str) -> None:
    for name in entry.component.honours:
        if name not in options:
            raise PluginError(
                f"{entry.title} honours {name!r}, which is no option that is up to {used_by}s{near(name, options)}"
            )


def _asks(option: OptionSpec, settings: Settings, entry: Entry[Scheduler] | Entry[Speculator] | None) -> bool:
    """Whether a chosen option asks for something: switched off, it mostly does not."""
    mixes = entry is not None and isinstance(entry.component, Scheduler) and entry.component.mixes_prompts
    asks_when_off = option.default is not False and (option.name != MIXING or mixes)
    return asks_when_off or option.value(settings) is not False


def _knows(entry: Entry[Scheduler] | Entry[Speculator], name: str) -> bool:
    """Whether a component acts on an option.

    A scheduler that never cuts prompts says so at start instead; see `unused_chunking`.
    """
    never = isinstance(entry.component, Scheduler) and not entry.component.chunks_prompts
    return name in entry.component.honours or (name == CHUNKS and never)


def _refusal(
    option: OptionSpec,
    entry: Entry[Scheduler] | Entry[Speculator] | None,
    registry: Registry[Scheduler] | Registry[Speculator],
) -> str:
    others = " or ".join(other.name for other in registry if option.name in other.component.honours)
    kind = FLAGS[registry.kind]
    why = f"without a {kind}" if entry is None else f"with {kind} {entry.name}, which does not use it"
    fix = "" if not others else f"choose {others}, or " if entry is None else f"choose {others} instead, or "
    return f"{option.flag} means nothing {why}; {fix}leave the option out"


def unused_chunking(settings: Settings, scheduler: Scheduler) -> str | None:
    """What to tell an operator who asked for chunks of a scheduler that runs every prompt whole."""
    asked = f"scheduling.{CHUNKS}" in settings.chosen and settings.scheduling.enable_chunked_prefill
    if scheduler.chunks_prompts or not asked:
        return None
    return f"--enable-chunked-prefill has no effect: scheduler {scheduler.name!r} runs every prompt whole"


def asked_task(settings: Settings) -> str | None:
    """The task that was chosen, None where the model is to be asked."""
    return settings.model.task if "model.task" in settings.chosen else None


def check_for_task(settings: Settings, task: str, sections: Sequence[PluginSection] = ()) -> None:
    """Says which chosen options mean nothing for `task`; SettingsError for one that would change what is answered.

    `sections` are the settings of plugins.
    """
    chosen = [option for option in catalog(sections) if option.path in settings.chosen]
    for option in chosen:
        if option.marker.used_by == "embeddings" and task != EMBEDDINGS:
            what = "gives scores" if task == SCORING else "generates text"
            raise SettingsError(f"{option.flag} is for embedding models, and this one {what}; leave it out")
    if task == TEXT:
        return
    idle = [option.flag for option in chosen if _of_text(option)]
    if idle:
        log.warning("the model encodes texts and generates none, so these options have no effect: %s", ", ".join(idle))


def _of_text(option: OptionSpec) -> bool:
    """Whether only generation acts on it, as on all that schedulers and samplers are given, from any plugin."""
    return option.marker.used_by in ("scheduler", "generation") or option.page == "sampling"
