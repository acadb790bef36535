"""Which plugins does the command line want? Read before there are any options, because plugins add some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maxserve.core.discovery.options import PluginOptions, split_commas
from maxserve.core.errors import SettingsError

if TYPE_CHECKING:
    import click

REPEATABLE = {
    "--plugin": "plugin",
    "--no-plugin": "no_plugin",
    "--prefer": "prefer",
    "--custom-architectures": "custom_architectures",
}
SINGLE = {"--config-file": "config_file", "--section-name": "section_name"}  # a file may choose plugins, too
PREFIX = "MAX_SERVE_"
ON = ("1", "true", "yes", "on")
OFF = ("0", "false", "no", "off")


def read_plugin_options(argv: Sequence[str], environ: Mapping[str, str]) -> PluginOptions:
    """What was typed, else said in the settings file, else in the environment; SettingsError for what reads wrongly."""
    typed = typed_options(argv)
    chosen = PluginOptions()
    if typed or any(name.startswith(PREFIX) for name in environ) or Path(".env").is_file():
        from maxserve.core.settings import resolve_plugins  # takes longer than all of the rest, mostly for nothing

        chosen = PluginOptions.from_choice(resolve_plugins(typed, environ=environ))
    allow = environ.get("MAX_SERVE_PLUGIN_ALLOW")
    disabled = _names(environ.get("MAX_SERVE_DISABLE_PLUGINS", ""))
    return PluginOptions(
        plugin=chosen.plugin,
        no_plugin=(*chosen.no_plugin, *disabled),
        prefer=chosen.prefer,
        custom_architectures=chosen.custom_architectures,
        autoload=_switch(environ, "MAX_SERVE_PLUGIN_AUTOLOAD"),
        allow=None if allow is None else _names(allow),
        tolerant=_tolerant(environ),
    )


def typed_options(argv: Sequence[str]) -> dict[str, str | tuple[str, ...]]:
    """The values of the options that matter here, wherever on the command line they stand."""
    many: dict[str, tuple[str, ...]] = {}
    single: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        if word == "--":
            break
        flag, equals, value = word.partition("=")
        if flag not in REPEATABLE and flag not in SINGLE:
            continue
        value = value if equals else next(words, "")
        if flag in SINGLE:
            single[SINGLE[flag]] = value
        else:
            many[REPEATABLE[flag]] = (*many.get(REPEATABLE[flag], ()), value)
    return {**many, **single}


def plugin_options() -> list[click.Parameter]:
    """The same options for click, which shows them in help and otherwise finds them read already."""
    import click

    return [
        _option("--plugin", "MODULE[:ATTRIBUTE]", "Plugin to load besides the installed ones. Repeatable."),
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


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, split_commas([text])))


def _switch(environ: Mapping[str, str], name: str) -> bool:
    text = environ.get(name, "1").strip().lower()
    if text not in (*ON, *OFF, ""):
        raise SettingsError(f"{name}={text}: must be 1 or 0")
    return text not in OFF


def _tolerant(environ: Mapping[str, str]) -> bool:
    text = environ.get("MAX_SERVE_PLUGIN_ERRORS", "").strip().lower()
    if text not in ("", "warn", "strict"):
        raise SettingsError(f"MAX_SERVE_PLUGIN_ERRORS={text}: must be warn or strict")
    return text == "warn"


def wants_debug(argv: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether errors are to be shown with their traceback."""
    return "--debug" in argv or environ.get("MAX_SERVE_DEBUG", "").strip().lower() in ON
