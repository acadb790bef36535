"""How is an option typed? Click options made from the catalog, and help grouped by section."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from maxserve.core.settings.catalog import Choosable, catalog
from maxserve.core.settings.sections import PluginSection
from maxserve.core.settings.unsupported import UNSUPPORTED_PATHS

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # not generic before click 8.4


class SettingType(_ParamType):
    """Reads values with the option's own rules; what they refuse is a usage error."""

    def __init__(self, option: Choosable) -> None:
        self.option = option
        self.name = option.metavar or option.shape.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.option.shape.read_one(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class SettingOption(click.Option):
    """An option that stays unset when it is not typed; `title` names the section it belongs to."""

    def __init__(self, declarations: Sequence[str], *, title: str, **attributes: Any) -> None:
        super().__init__(declarations, **attributes)
        self.title = title


class GroupedCommand(click.Command):
    """A command whose help lists its settings section by section, and its own options last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        own: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                rows = groups.setdefault(param.title, []) if isinstance(param, SettingOption) else own
                rows.append(record)
        for title, rows in [*groups.items(), ("Options", own)]:
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows, col_max=34)


def serve_options(sections: Sequence[PluginSection] = ()) -> list[click.Option]:
    """Options for every setting, those of plugin sections last."""
    return [made for option in catalog(sections) for made in _options(option)]


def engine_options(sections: Sequence[PluginSection] = ()) -> list[click.Option]:
    """The options that mean something without an HTTP server."""
    return [made for option in catalog(sections) if not option.server for made in _options(option)]


def _options(option: Choosable) -> list[click.Option]:
    made: list[click.Option] = [_option(option, option.name, option.flag, help_text(option))]
    if option.alias:
        made.append(_option(option, option.alias, option.alias_flag, f"Same as {option.flag}."))
    return made


def _option(option: Choosable, name: str, flag: str, text: str) -> SettingOption:
    if option.shape.switch:
        declaration = f"{flag}/{option.off_flag}" if option.off_flag else flag
        return SettingOption([name, declaration], title=option.title, is_flag=True, default=None, help=text)
    return SettingOption(
        [name, flag],
        title=option.title,
        type=SettingType(option),
        metavar=option.metavar or option.shape.metavar,
        multiple=option.shape.many,
        default=None,
        help=text,
    )


def help_text(option: Choosable) -> str:
    """The help of an option, with the default it really has, and whether it is repeatable or refused."""
    repeatable = "repeatable" if option.shape.many else ""
    refused = "not supported yet" if option.path in UNSUPPORTED_PATHS else ""
    notes = "; ".join(note for note in (default_text(option), repeatable, refused) if note)
    return f"{option.help}  [{notes}]" if notes else option.help


def default_text(option: Choosable) -> str:
    """`default: x` or `required`; empty where unset is the default."""
    if option.required:
        return "required"
    if option.default is None or option.default in ("", (), [], {}):
        return ""
    return f"default: {value_text(option.default)}"


def value_text(value: object) -> str:
    """A value as it would be written in a settings file, on one line."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(value_text, value))
    return str(value)
