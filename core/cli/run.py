"""A run of `max`: plugins first, then the command, and every error on one line."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from maxserve.core.cli.early import read_plugin_options, wants_debug
from maxserve.core.cli.group import build_cli
from maxserve.core.cli.unknown_option import hint, switch_hint
from maxserve.core.interfaces.errors import MaxserveError, RequestError, UsageError, cause
from maxserve.core.registry.host import PluginHost
from maxserve.core.registry.options import PluginOptions
from maxserve.core.registry.protocol import Invocation

if TYPE_CHECKING:
    from maxserve.core.runtime.ahead import Ahead

INTERRUPTED = 130


def run(argv: Sequence[str], environ: Mapping[str, str], ahead: Ahead | None = None) -> int:
    """Runs one command and returns the exit status: 2 for what the operator did wrong, 1 for what failed.

    `ahead` is a worker that has begun, for a command that starts one.
    """
    debug = wants_debug(argv, environ)
    try:
        return _run(list(argv), environ, ahead)
    except click.ClickException as error:
        _show_usage(error, argv)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except MaxserveError as error:
        _show(error, debug=debug)
        return 2 if isinstance(error, UsageError | RequestError) else 1
    except Exception as error:
        _show(error, debug=debug)
        return 1


def _run(argv: list[str], environ: Mapping[str, str], ahead: Ahead | None) -> int:
    options = _plugin_options(argv, environ)
    host = PluginHost.discover(options, strict=False)
    cli = build_cli(host, Invocation(host=host, options=options, environ=environ, ahead=ahead))
    result = cli.main(args=argv, prog_name="max", standalone_mode=False)
    return result if type(result) is int else 0


def _plugin_options(argv: list[str], environ: Mapping[str, str]) -> PluginOptions:
    try:
        return read_plugin_options(argv, environ)
    except UsageError as error:
        if not {"-h", "--help", "--version"} & set(argv):
            raise
        click.echo(f"Warning: {error}", err=True)  # help is shown all the same
        return PluginOptions()


def _show_usage(error: click.ClickException, argv: Sequence[str]) -> None:
    text = error.format_message()
    if isinstance(error, click.BadOptionUsage) and "does not take a value" in text:
        click.echo(f"Error: {text.rstrip('.')}: {switch_hint(error.option_name)}", err=True)  # it has no context
        return
    if isinstance(error, click.NoSuchOption) and (known := hint(error.option_name, argv)):
        text = f"No such option '{error.option_name}'{known}"
    if not isinstance(error, click.UsageError) or error.ctx is None or "\n" in text:
        error.show()  # no command at all: the text is the whole help
        return
    click.echo(f"Error: {text.rstrip('.')}; see {error.ctx.command_path} --help", err=True)


def _show(error: Exception, *, debug: bool) -> None:
    if debug:
        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    expected = isinstance(error, MaxserveError)
    hint = "" if expected or debug else " (--debug shows where)"
    click.echo(f"Error: {cause(error)}{hint}", err=True)
