"""The list of all options, read off the fields of the sections; everything else is made from it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from maxserve.core.config.section import Section
from maxserve.core.config.sections import SECTIONS, PluginSection, Settings
from maxserve.core.config.values import Reader, Shape, hints, shape_of
from maxserve.core.interfaces.config import Option
from maxserve.core.interfaces.errors import PluginError

PREFIX = "MAX_SERVE_"
REQUIRED: Any = PydanticUndefined


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionSpec:
    """One option, in all its spellings.

    `name` is the Python name, `flag` what is typed, `env` its variables with the most specific first, `key` what a
    file says below the `page`: the section that the option is shown with, which is another than the `section` that
    holds its value for flat options of plugins. `limits` are the marks of its range. `plugin` is empty for the core's
    own.
    """

    section: str
    page: str
    key: str
    name: str
    flag: str
    shape: Shape
    default: Any
    help: str
    title: str
    env: tuple[str, ...]
    alias: str = ""
    metavar: str = ""
    registry: str = ""
    server: bool = False
    policy: bool = False
    negatable: bool = True
    secret: bool = False
    limits: tuple[Any, ...] = ()
    plugin: str = ""

    @property
    def path(self) -> str:
        """The "section.field" by which `Settings.chosen` knows it."""
        return f"{self.section}.{self.key}"

    @property
    def alias_flag(self) -> str:
        """The second flag that means the same, else empty."""
        return "--" + self.alias.replace("_", "-") if self.alias else ""

    @property
    def spellings(self) -> frozenset[str]:
        """Every name that means this option and may mean no other."""
        return frozenset({self.name, self.flag, self.off_flag, self.alias_flag, *self.env} - {""})

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @property
    def off_flag(self) -> str:
        """--no-x of a switch that has it, else empty."""
        return f"--no-{self.flag[2:]}" if self.shape.switch and self.negatable else ""

    def value(self, settings: Settings) -> Any:
        """What was chosen for it, else its default."""
        if self.plugin:
            return settings.plugins.sections.get(self.section, {}).get(self.key, self.default)
        return getattr(getattr(settings, self.section), self.key)


@dataclass(frozen=True, slots=True)
class Catalog:
    """Every option, by name and by path."""

    options: tuple[OptionSpec, ...]

    def __iter__(self) -> Iterator[OptionSpec]:
        return iter(self.options)

    def by_name(self) -> dict[str, OptionSpec]:
        """Options by Python name, aliases included."""
        found = {option.name: option for option in self.options}
        return found | {option.alias: option for option in self.options if option.alias}

    def by_path(self) -> dict[str, OptionSpec]:
        return {option.path: option for option in self.options}


def catalog(sections: Sequence[PluginSection] = ()) -> Catalog:
    """The core's options, then those of the given plugin sections; PluginError when two share a spelling."""
    options = [option for name, section in SECTIONS.items() for option in _core_options(name, section)]
    for each in sections:
        options.extend(_plugin_options(each))
    _validate_clashes(options)
    return Catalog(tuple(options))


def _core_options(section: str, model: type[Section]) -> Iterator[OptionSpec]:
    for key, field in model.model_fields.items():
        marker = next((item for item in field.metadata if isinstance(item, Option)), Option())
        if not marker.hidden:
            yield _core_option(section, model, key, field, marker)


def _core_option(section: str, model: type[Section], key: str, field: FieldInfo, marker: Option) -> OptionSpec:
    name = f"draft_{key}" if section == "draft_model" else key
    reader = next((item for item in field.metadata if isinstance(item, Reader)), None)
    return OptionSpec(
        section=section,
        page=section,
        key=key,
        name=name,
        flag="--" + name.replace("_", "-"),
        shape=shape_of(field.annotation, reader),
        default=field.get_default(call_default_factory=True, validated_data={}),
        help=_twin_help(field.description) if section == "draft_model" else str(field.description),
        title=model.title,
        env=tuple(PREFIX + each.upper() for each in (name, marker.alias) if each) + marker.env,
        alias=marker.alias,
        metavar=marker.metavar,
        registry=marker.registry,
        server=marker.server,
        policy=marker.policy,
        negatable=marker.negatable,
        secret=marker.secret,
        limits=tuple(field.metadata),
    )


def _twin_help(text: str | None) -> str:
    return f"For the draft model. {text}".replace("--", "--draft-")


def _plugin_options(section: PluginSection) -> Iterator[OptionSpec]:
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", section.name) or section.name in RESERVED:
        raise PluginError(
            f"plugin {section.plugin!r} calls its settings {section.name!r}; a section needs a name of its own, of "
            "small letters, digits and single dashes"
        )
    if not dataclasses.is_dataclass(section.schema):
        raise PluginError(f"plugin {section.plugin!r}: the schema of section {section.name!r} must be a dataclass")
    if section.within and section.within not in SHARED:
        raise PluginError(
            f"plugin {section.plugin!r}: its settings {section.name!r} cannot be within {section.within!r}"
            f"{near(section.within, SHARED)}; sections that take a plugin's options are {', '.join(SHARED)}"
        )
    for field in dataclasses.fields(section.schema):
        if field.init:
            yield _plugin_option(section, field)


def _plugin_option(section: PluginSection, field: dataclasses.Field[Any]) -> OptionSpec:
    try:
        hint = hints(section.schema)[field.name]
        shape, info = shape_of(hint), FieldInfo.from_annotation(hint)
    except (TypeError, NameError) as error:
        raise PluginError(f"plugin {section.plugin!r}, setting {section.name}.{field.name}: {error}") from None
    marker = next((item for item in info.metadata if isinstance(item, Option)), Option())
    return OptionSpec(
        section=section.name,
        key=field.name,
        shape=shape,
        default=_default(field),
        help=info.description or str(field.metadata.get("help", f"A setting of plugin {section.plugin}.")),
        metavar=marker.metavar,
        registry=marker.registry,
        server=marker.server,
        policy=marker.policy,
        negatable=marker.negatable,
        secret=marker.secret,
        limits=tuple(info.metadata),
        plugin=section.plugin or section.name,
        **_spelled(section, field.name, marker.env),
    )


def _spelled(section: PluginSection, key: str, env: tuple[str, ...]) -> dict[str, Any]:
    """The names of a plugin's option and where it is shown: with its plugin, or flat in a section of the core."""
    prefix, under, page, title = f"{section.name}.", section.name.replace("-", "_"), section.name, ""
    if section.within:
        prefix, page, title = "", section.within, SECTIONS[section.within].title
    return {
        "page": page,
        "name": f"{under}__{key}" if prefix else key,
        "flag": f"--{prefix}{key.replace('_', '-')}",
        "title": title or f"Plugin {section.plugin}",
        "env": (PREFIX + (f"{under}_{key}" if prefix else key).upper(), *env),
    }


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return REQUIRED if field.default is dataclasses.MISSING else field.default


SHARED = ("model", "kv_cache", "scheduling", "sampling", "server")
"""The sections of the core in which plugins may have flat options."""

RESERVED = frozenset(SECTIONS) | {name.replace("_", "-") for name in SECTIONS}


def _validate_clashes(options: Iterable[OptionSpec]) -> None:
    owners: dict[str, OptionSpec] = {}
    for option in options:
        for spelling in option.spellings:
            other = owners.setdefault(spelling, option)
            if other is not option:
                raise PluginError(
                    f"{spelling} would mean both {_owned(other)} and {_owned(option)}; one plugin must rename its "
                    "settings section, or leave one out with --no-plugin"
                )


def _owned(option: OptionSpec) -> str:
    return f"{option.path} of plugin {option.plugin!r}" if option.plugin else f"maxserve's own {option.path}"


def near(name: str, known: Iterable[str], *, most: int = 2) -> str:
    """` (did you mean x?)` when something known looks like `name`, else nothing."""
    import difflib

    found = difflib.get_close_matches(name, list(known), n=most, cutoff=0.7)
    return f" (did you mean {' or '.join(found)}?)" if found else ""
