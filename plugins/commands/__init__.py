"""Commands of `max`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve import hookimpl

if TYPE_CHECKING:
    import click

    from maxserve.registry import Invocation

COMPLETING = "_MAX_COMPLETE"  # the variable by which a shell asks for completions


@hookimpl
def maxserve_commands(cli: click.Group, invocation: Invocation) -> None:
    from maxserve.interfaces.commands import LazyCommand  # click, which workers do without

    def serve() -> click.Command:
        from maxserve.plugins.commands.serve import serve_command

        return serve_command(invocation)

    def generate() -> click.Command:
        from maxserve.plugins.commands.generate import generate_command

        return generate_command(invocation)

    def listing() -> click.Command:
        from maxserve.plugins.commands.listing import list_command

        return list_command(invocation)

    def plugins() -> click.Command:
        from maxserve.plugins.commands.plugins import plugins_command

        return plugins_command(invocation)

    def quantize() -> click.Command:
        from maxserve.plugins.commands.quantize import quantize_command

        return quantize_command(invocation)

    cli.add_command(LazyCommand("serve", serve, summary="Serve a model over HTTP.", strict=True))
    summary = "Continue one prompt, without a server."
    cli.add_command(LazyCommand("generate", generate, summary=summary, strict=True))
    cli.add_command(LazyCommand("list", listing, summary="List what the plugins offer."))
    cli.add_command(LazyCommand("plugins", plugins, summary="List the plugins, and what is wrong with them."))
    summary = "Write a checkpoint with its weights rounded."
    cli.add_command(LazyCommand("quantize", quantize, summary=summary, strict=True))
    if COMPLETING in invocation.environ:
        from maxserve.plugins.commands.completion import register_completion

        register_completion()
