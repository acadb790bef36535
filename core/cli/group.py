"""The commands of `max`, which plugins add, made when they are needed."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping

import click

from maxserve.core.cli.early import plugin_options
from maxserve.core.interfaces.commands import LazyCommand
from maxserve.core.interfaces.errors import UsageError
from maxserve.core.registry.entries import nearest
from maxserve.core.registry.host import PluginHost
from maxserve.core.registry.protocol import Host, Invocation

LEVELS = ("debug", "info", "warning", "error")


class MaxGroup(click.Group):
    """`max`: makes the commands it finds, and lets those that need the plugins in order start only then."""

    def __init__(self, invocation: Invocation) -> None:
        super().__init__(
            "max",
            help="Serves language models over HTTP; every part of it is a plugin.",
            context_settings={"help_option_names": ["-h", "--help"]},
            params=[_version(), _log_level(), *plugin_options()],
        )
        self.invocation = invocation

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command named first; UsageError listing what there is when there is none."""
        command = self.commands.get(args[0])
        if command is None:
            raise UsageError(_unknown(args[0], self.commands))
        if isinstance(command, LazyCommand):
            if command.strict and not {"-h", "--help"} & set(args):
                self.invocation.host.insist()
                _log_notes(self.invocation.host)
            command = command.make()
        gc.enable()  # off since `main`
        return args[0], command, args[1:]


def build_cli(host: PluginHost, invocation: Invocation) -> click.Group:
    """The group with all commands; nothing is imported for those that will not run."""
    group = MaxGroup(invocation)
    host.add_commands(group, invocation)
    return group


def _unknown(name: str, commands: Mapping[str, click.Command]) -> str:
    if name.startswith("-"):
        return f"there is no option {name}; see max --help"
    return f"there is no command {name!r}{nearest(name, commands)}; the commands are: {', '.join(sorted(commands))}"


def _log_notes(host: Host) -> None:
    """Tells the operator what a start should not pass over."""
    log = logging.getLogger("maxserve.host")
    for text in (*host.warnings, *map(str, host.problems)):
        log.warning("%s", text)


def _version() -> click.Option:
    def show(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
        if wanted:
            from maxserve.core.registry.sources import own_version

            click.echo(f"maxserve {own_version()}")
            ctx.exit()

    return click.Option(
        ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=show, help="Show the version and exit."
    )


def _log_level() -> click.Option:
    def configure(ctx: click.Context, param: click.Parameter, level: str) -> None:
        from maxserve.core.runtime import logs

        logs.configure(logging.getLevelNamesMapping()[level.upper()])

    return click.Option(
        ["--log-level"],
        type=click.Choice(LEVELS, case_sensitive=False),
        default="info",
        show_default=True,
        expose_value=False,
        callback=configure,
        help="Least severe messages to log.",
    )
