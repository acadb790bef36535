"""Click options made from the catalog, and help in pages: the common ones first, then section by section."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from maxserve.options import Choice, OptionSpec, PluginSection, catalog, value_text
from maxserve.registry import nearest

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # not generic before click 8.4

HELP_WIDTH = 110  # columns that help takes at most
COMMON_PAGE, ALL = "common", "all"
LATER = "Not supported yet"
COMMON = (
    "model.model_path",
    "model.served_model_name",
    "server.host",
    "server.port",
    "model.devices",
    "model.max_length",
    "scheduling.max_batch_size",
    "kv_cache.device_memory_utilization",
    "model.quantization_encoding",
    "model.trust_remote_code",
    "files.config_file",
    "plugins.plugin",
    "plugins.custom_architectures",
)
"""The options of the first page, in its order; those follow that plugins mark as `common`."""


class SettingType(_ParamType):
    """Reads values with the option's own rules; what they refuse is a usage error."""

    def __init__(self, option: OptionSpec) -> None:
        self.option = option
        self.name = option.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.option.shape.read_one(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The names of a closed set, those that plugins register, files, or folders of models."""
        if self.name in ("FILE", "PATH", "FOLDER"):
            return [CompletionItem(incomplete, type="dir" if self.name == "FOLDER" else "file")]
        if self.option.path == "model.model_path":
            return [CompletionItem(incomplete, type="dir")]
        reader = self.option.shape.reader
        names = set(reader.names) if isinstance(reader, Choice) else set()
        registry = self.option.marker.registry
        names.update(getattr(ctx.obj, registry).names() if registry and ctx.obj is not None else ())
        return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


class SettingOption(click.Option):
    """An option that stays unset when it is not typed; `title` names the section it belongs to."""

    def __init__(self, declarations: Sequence[str], *, title: str, option: OptionSpec, **attributes: Any) -> None:
        super().__init__(declarations, **attributes)
        self.title = title
        self.option = option

    @property
    def page(self) -> str:
        """What to type after --help for the page that this option is on."""
        return page_of(self.option)


class GroupedCommand(click.Command):
    """A command with more settings than fit on a screen: help shows the common ones, `--help SECTION` the others."""

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        def show(ctx: click.Context, param: click.Parameter, page: str | None) -> None:
            if page is None or ctx.resilient_parsing:
                return
            ctx.meta[PAGE] = self._known_page(ctx, page)
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()

        return click.Option(
            ["-h", "--help"],
            is_flag=False,
            flag_value=COMMON_PAGE,
            metavar="[SECTION]",
            is_eager=True,
            expose_value=False,
            callback=show,
            shell_complete=lambda ctx, param, word: [
                page for page in sorted(self._pages(ctx)) if page.startswith(word)
            ],
            help=f"Show this page, that of a section, {ALL} of them, or the options with that word.",
        )

    def _pages(self, ctx: click.Context) -> set[str]:
        """What may be typed after --help."""
        return {each.page for each in self.get_params(ctx) if isinstance(each, SettingOption)} | {COMMON_PAGE, ALL}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        page = ctx.meta.get(PAGE, COMMON_PAGE)
        settings = [param for param in self.get_params(ctx) if isinstance(param, SettingOption)]
        for title, rows in self._blocks(ctx, page, settings).items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows, col_max=34)
        if page == COMMON_PAGE:
            self._write_pages(formatter, settings)

    def _blocks(
        self, ctx: click.Context, page: str, settings: Sequence[SettingOption]
    ) -> dict[str, list[tuple[str, str]]]:
        """The rows of each block of a page; what is not there yet comes last."""
        own = [param for param in self.get_params(ctx) if not isinstance(param, SettingOption | click.Argument)]
        blocks: dict[str, list[tuple[str, str]]] = {}
        for each in _on_page(settings, page):
            title = LATER if each.option.unsupported else "Common options" if page == COMMON_PAGE else each.title
            blocks.setdefault(title, []).extend(_records(ctx, [each]))
        if page in (COMMON_PAGE, ALL):
            blocks["Options"] = _records(ctx, own)
        return blocks

    def _write_pages(self, formatter: click.HelpFormatter, settings: Sequence[SettingOption]) -> None:
        counts: dict[str, tuple[str, int]] = {}
        for each in settings:
            title, count = counts.get(each.page, (each.title, 0))
            counts[each.page] = title, count + 1
        with formatter.section(f"Further options, by --help SECTION (or --help {ALL})"):
            formatter.write_dl([(page, f"{title}: {count}") for page, (title, count) in counts.items()], col_max=34)

    def _known_page(self, ctx: click.Context, page: str) -> str:
        """The page that is meant; the name of an option stands for its section, a part of names for each with it."""
        settings = [param for param in self.get_params(ctx) if isinstance(param, SettingOption)]
        pages = self._pages(ctx)
        by_flag = {name: each.page for each in settings for flag in each.opts for name in (flag, flag.lstrip("-"))}
        wanted = page.lower().replace("_", "-")
        if wanted in pages:
            return wanted
        if wanted in by_flag:
            return by_flag[wanted]
        if any(wanted in flag for flag in by_flag):
            return wanted
        raise click.UsageError(
            f"--help {page}: no section or option has that name{nearest(wanted, pages)}; the sections are: "
            f"{', '.join(sorted(pages))}",
            ctx,
        )


PAGE = "maxserve.help_page"  # key of a context's meta for the page that was asked for


def page_of(option: OptionSpec) -> str:
    """The word that stands for the section of an option in `--help SECTION`."""
    return option.page.replace("_", "-")


def _on_page(settings: Sequence[SettingOption], page: str) -> list[SettingOption]:
    if page == COMMON_PAGE:  # without aliases, which say "Same as"
        own = {each.option.path: each for each in settings if each.name == each.option.name}
        return [*(own[path] for path in COMMON if path in own), *(e for e in own.values() if e.option.marker.common)]
    shown = [each for each in settings if page in (ALL, each.page)]
    shown = shown or [each for each in settings if any(page in flag for flag in each.opts)]
    return sorted(shown, key=lambda each: bool(each.option.unsupported))


def _records(ctx: click.Context, params: Iterable[click.Parameter]) -> list[tuple[str, str]]:
    return [record for param in params if (record := param.get_help_record(ctx)) is not None]


def serve_options(sections: Sequence[PluginSection] = ()) -> list[click.Option]:
    """Options for every setting, those of plugin sections last."""
    return [made for option in catalog(sections) for made in _options(option)]


def engine_options(sections: Sequence[PluginSection] = ()) -> list[click.Option]:
    """The options that mean something without an HTTP server."""
    return [made for option in catalog(sections) if not option.marker.server for made in _options(option)]


def _options(option: OptionSpec) -> list[click.Option]:
    made: list[click.Option] = [_option(option, option.name, option.flag, help_text(option))]
    if option.alias:
        made.append(_option(option, option.alias, option.alias_flag, f"Same as {option.flag}."))
    return made


def _option(option: OptionSpec, name: str, flag: str, text: str) -> SettingOption:
    if option.shape.switch:
        declaration = f"{flag}/{option.off_flag}" if option.off_flag else flag
        return SettingOption(
            [name, declaration], title=option.title, option=option, is_flag=True, default=None, help=text
        )
    return SettingOption(
        [name, flag],
        title=option.title,
        option=option,
        type=SettingType(option),
        metavar=option.metavar,
        multiple=option.shape.many,
        default=None,
        help=text,
    )


def help_text(option: OptionSpec) -> str:
    """The help of an option, with the default it really has, and whether it is repeatable or refused."""
    repeatable = "repeatable" if option.shape.many else ""
    refused = "not supported yet" if option.unsupported else ""
    notes = "; ".join(note for note in (default_text(option), repeatable, refused) if note)
    return f"{option.help}  [{notes}]" if notes else option.help


def default_text(option: OptionSpec) -> str:
    """`default: x` or `required`; empty where unset is the default."""
    if option.required:
        return "required"
    if option.default is None or option.default in ("", (), [], {}):
        return ""
    return f"default: {value_text(option.default)}"
