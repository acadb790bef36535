"""`max plugins`: the plugins, where they are from, what is wrong with them, and how to begin one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from maxserve.config import plugin_options
from maxserve.plugins.commands.new_plugin import new_command
from maxserve.plugins.commands.table import table
from maxserve.registry import Host, Plugin, PluginHost

if TYPE_CHECKING:
    from maxserve.registry import Invocation

HEAD = ("name", "origin", "from", "import ms", "status", "hooks")


def plugins_command(invocation: Invocation) -> click.Group:
    """The command; what is broken is part of its answer, never in its way."""

    def plugins(as_json: bool, trace: bool) -> None:
        if trace:
            _show_notes(PluginHost.discover(invocation.options, strict=False, trace=click.echo))
        elif as_json:
            click.echo(json.dumps(report(invocation.host), indent=2))
        else:
            click.echo(table(HEAD, [_row(plugin) for plugin in invocation.host.plugins]))
            _show_notes(invocation.host)

    @click.pass_context
    def command(ctx: click.Context, /, as_json: bool, trace: bool) -> None:
        if ctx.invoked_subcommand is None:
            plugins(as_json, trace)
        elif as_json or trace:
            raise click.UsageError(f"--json and --trace are not for plugins {ctx.invoked_subcommand}", ctx)

    group = click.Group(
        "plugins",
        callback=command,
        invoke_without_command=True,
        params=[
            click.Option(["as_json", "--json"], is_flag=True, help="Print everything as JSON."),
            click.Option(["--trace"], is_flag=True, help="Print every hook call and what it gave instead."),
            *plugin_options(),
        ],
        help="List the plugins: built in, installed, and named on the command line; or begin a new one.",
    )
    group.add_command(new_command())
    return group


def report(host: Host) -> dict[str, Any]:
    """Everything there is to know of a host's plugins, as JSON has it."""
    return {
        "plugins": [_facts(plugin) for plugin in host.plugins],
        "problems": [str(error) for error in host.problems],
        "warnings": list(host.warnings),
        "fingerprint": host.fingerprint,
    }


def _facts(plugin: Plugin) -> dict[str, Any]:
    source = plugin.source
    return {
        "name": source.name,
        "origin": source.origin,
        "distribution": source.distribution or None,
        "version": source.version or None,
        "target": source.target,
        "path": source.path or None,
        "import_ms": plugin.import_ms,
        "status": plugin.status,
        "error": plugin.error or None,
        "hooks": list(plugin.hooks),
    }


def _row(plugin: Plugin) -> tuple[str, ...]:
    source = plugin.source
    return (
        source.name,
        source.origin,
        f"{source.distribution} {source.version}".strip() or source.path or source.folder or "-",
        "-" if plugin.import_ms is None else f"{plugin.import_ms:.1f}",
        plugin.status,
        " ".join(hook.removeprefix("maxserve_") for hook in plugin.hooks)
        or ("ARCHITECTURES" if plugin.listed else "-"),
    )


def _show_notes(host: Host) -> None:
    for error in host.problems:
        click.echo(f"\nproblem: {error}")
    for text in host.warnings:
        click.echo(f"\nwarning: {text}")
