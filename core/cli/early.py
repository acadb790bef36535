"""The plugin options of the command line, read before the others, because plugins add some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maxserve.core.registry.options import ON, PluginOptions

if TYPE_CHECKING:
    import click

REPEATABLE = {
    "--plugin": "plugin",
    "--no-plugin": "no_plugin",
    "--prefer": "prefer",
    "--custom-architectures": "custom_architectures",
    "--config-file": "config_file",  # a file may choose plugins, too
    "--section-name": "section_name",
}
PREFIX = "MAX_SERVE_"


def read_plugin_options(argv: Sequence[str], environ: Mapping[str, str]) -> PluginOptions:
    """What was typed, else in the settings file, else in the environment; SettingsError for what reads wrongly."""
    typed = typed_options(argv)
    chosen = PluginOptions()
    if typed or any(name.startswith(PREFIX) for name in environ) or Path(".env").is_file():
        from maxserve.core.config import resolve_plugins  # takes longer than all of the rest, mostly for nothing

        chosen = PluginOptions.from_choice(resolve_plugins(typed, environ=environ))
    return chosen.with_environment(environ)


def typed_options(argv: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The values of the options that matter here, wherever on the command line they stand."""
    many: dict[str, tuple[str, ...]] = {}
    words = iter(argv)
    for word in words:
        if word == "--":
            break
        flag, equals, value = word.partition("=")
        if flag in REPEATABLE:
            value = value if equals else next(words, "")
            many[REPEATABLE[flag]] = (*many.get(REPEATABLE[flag], ()), value)
    return many


def plugin_options() -> list[click.Parameter]:
    """The same options for click, which shows them in help and otherwise finds them read already."""
    import click

    return [
        _option("--plugin", "MODULE|FILE.py[:ATTRIBUTE]", "Plugin to load besides the installed ones. Repeatable."),
        _option("--no-plugin", "NAME", "Plugin to leave out, built in or installed. Repeatable."),
        _option("--prefer", "KIND:NAME=PLUGIN", "Whose component to take when two plugins offer one name. Repeatable."),
        _option(
            "--custom-architectures",
            "MODULE|DIR/MODULE|DIR:MODULE",
            "Python module with a list ARCHITECTURES of further model families; runs its code. Repeatable.",
        ),
        click.Option(["--debug"], is_flag=True, expose_value=False, help="Show the Python traceback of errors."),
    ]


def _option(flag: str, metavar: str, text: str) -> click.Option:
    import click

    return click.Option([flag], metavar=metavar, multiple=True, expose_value=False, help=text)


def wants_debug(argv: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether errors are to be shown with their traceback."""
    return "--debug" in argv or environ.get("MAX_SERVE_DEBUG", "").strip().lower() in ON
