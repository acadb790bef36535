"""`max serve`: from what was typed to a running server."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from maxserve.config import read_bool, settle, typed
from maxserve.interfaces.errors import SettingsError
from maxserve.plugins.commands.options import HELP_WIDTH, GroupedCommand, serve_options
from maxserve.plugins.commands.show import describe

if TYPE_CHECKING:
    from maxserve.registry import Invocation

MODEL = "positional_model"


def serve_command(invocation: Invocation) -> click.Command:
    """The command with an option for every setting, those of plugins included."""

    sections = invocation.host.plugin_sections()

    @click.pass_context
    def serve(ctx: click.Context, /, **_: Any) -> int:
        settings = settle(invocation, with_model(typed(ctx), _commands(ctx)))
        shown = describe(settings, sections=sections) if settings.server.pretty_print_config else ()

        from maxserve.runtime import serve as run  # takes most of a second to import

        notes = [f"settings\n{block}" for block in shown]
        return run(settings, invocation.host, notes=notes, ahead=invocation.ahead)

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
    if _is_switch(named) and not Path(named).exists():
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


def _is_switch(text: str) -> bool:
    """Whether it says on or off."""
    try:
        read_bool(text)
    except ValueError:
        return False
    return True
