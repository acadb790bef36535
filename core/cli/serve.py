"""`max serve`: from what was typed to a running server."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from maxserve.core.config import PluginSection, Settings, resolve
from maxserve.core.config.catalog import catalog
from maxserve.core.config.checks import validate_supported
from maxserve.core.config.components import validate_used
from maxserve.core.config.options import HELP_WIDTH, GroupedCommand, serve_options
from maxserve.core.config.values import FALSE, TRUE
from maxserve.core.interfaces.errors import SettingsError

MODEL = "positional_model"

if TYPE_CHECKING:
    from maxserve.core.registry.protocol import Host, Invocation


def serve_command(invocation: Invocation) -> click.Command:
    """The command with an option for every setting, those of plugins included."""

    sections = invocation.host.plugin_sections()

    @click.pass_context
    def serve(ctx: click.Context, /, **_: Any) -> int:
        settings = settle(invocation, with_model(typed(ctx), _commands(ctx)))

        from maxserve.core.runtime import launch

        return launch.serve(settings, invocation.host)

    return GroupedCommand(
        "serve",
        callback=serve,
        params=[click.Argument([MODEL], metavar="[MODEL]", required=False), *serve_options(sections)],
        context_settings={"obj": invocation.host, "max_content_width": HELP_WIDTH},
        help="Serve a model over HTTP, by the APIs of the plugins.",
        epilog="--plugin and --custom-architectures run the code that they name.",
    )


def with_model(given: dict[str, Any], commands: Collection[str] = ()) -> dict[str, Any]:
    """What was typed, with the model that may stand without an option before it; UsageError for two models."""
    named = given.pop(MODEL, None)
    if named is None:
        return given
    if named in commands and not Path(named).exists():
        raise SettingsError(f"{named} is a command of max, not a model: type it once, and then the model's name")
    if named.lower() in TRUE | FALSE and not Path(named).exists():
        raise SettingsError(
            f"{named} stands where a model may be named; options that are on or off take no value: write --NAME or "
            "--no-NAME"
        )
    for flag in ("model_path", "model"):
        if flag in given:
            raise SettingsError(
                f"{named} and --{flag.replace('_', '-')} {given[flag]} both name a model; give one of them"
            )
    return {**given, "model_path": named}


def _commands(ctx: click.Context) -> Collection[str]:
    group = ctx.parent.command if ctx.parent is not None else None
    return group.commands if isinstance(group, click.Group) else ()


def typed(ctx: click.Context) -> dict[str, Any]:
    """What was typed, by Python name; neither defaults nor what came from elsewhere."""
    return {
        name: value
        for name, value in ctx.params.items()
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }


def settle(invocation: Invocation, given: dict[str, Any]) -> Settings:
    """The settings of a command; raises when they ask for something that is not there, before a model is read."""
    from maxserve.core.loading.companions import with_companions

    sections = invocation.host.plugin_sections()
    complete = partial(with_companions, host=invocation.host)
    settings = resolve(given, environ=invocation.environ, sections=sections, complete=complete)
    validate_supported(settings, sections)
    validate_used(settings, invocation.host.schedulers, invocation.host.speculators, sections)
    _look_up(settings, invocation.host, sections)
    return settings


def _look_up(settings: Settings, host: Host, sections: Sequence[PluginSection]) -> None:
    """Raises PluginError for a component that was named and is not there."""
    for option in catalog(sections):
        marker, name = option.marker, option.value(settings)
        if marker.registry and marker.checked and name is not None and name not in marker.no_names:
            getattr(host, marker.registry).get(name)
