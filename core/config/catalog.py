"""The list of all options, read off the fields of the sections; everything else is made from it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import annotated_types as at
import msgspec
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from maxserve.core.config.settings import SECTIONS, PluginSection, Settings
from maxserve.core.config.values import Reader, Shape, hints, shape_of
from maxserve.core.interfaces.config import Option, UnsupportedValues
from maxserve.core.interfaces.errors import PluginError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


PREFIX = "MAX_SERVE_"
REQUIRED: Any = PydanticUndefined
SHARED = ("model", "kv_cache", "scheduling", "sampling", "server", "files")
"""The sections of the core in which plugins may have flat options."""

RESERVED = frozenset(SECTIONS) | {name.replace("_", "-") for name in SECTIONS}
OWN = tuple(
    PluginSection(name=name, schema=section, within=name, title=section.title) for name, section in SECTIONS.items()
)
"""The core's sections, as a plugin would declare them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionSpec:
    """One option, in all its spellings.

    `name` is the Python name, `flag` what is typed, `env` its variables with the most specific first, `key` what a
    file says below the `page`: the section that the option is shown with, which is another than the `section` that
    holds its value for flat options of plugins. `marker` is the field's, `limits` are all of its marks, of which some
    are those of its range. `plugin` is empty for the core's own. `unsupported` says why the option is refused,
    `unsupported_values` which of its values are.
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
    marker: Option
    limits: tuple[Any, ...] = ()
    plugin: str = ""
    prefix: str = ""
    unsupported: str = ""
    unsupported_values: UnsupportedValues | None = None

    @property
    def path(self) -> str:
        """The "section.field" by which `Settings.chosen` knows it."""
        return f"{self.section}.{self.key}"

    @property
    def alias(self) -> str:
        """The second Python name, else empty."""
        return self.marker.alias

    @property
    def alias_flag(self) -> str:
        """The second flag that means the same, else empty."""
        return "--" + self.alias.replace("_", "-") if self.alias else ""

    @property
    def metavar(self) -> str:
        """What stands for the value in help."""
        return self.marker.metavar or self.shape.metavar

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
        return f"--no-{self.flag[2:]}" if self.shape.switch and self.marker.negatable else ""

    def value(self, settings: Settings) -> Any:
        """What was chosen for it, else its default."""
        if self.plugin:
            return settings.plugins.sections.get(self.section, {}).get(self.key, self.default)
        return getattr(getattr(settings, self.section), self.key)


class Catalog(msgspec.Struct, frozen=True):
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
    return _catalog(tuple(sections))


def without_secrets(settings: Settings, sections: Sequence[PluginSection]) -> Settings:
    """The settings without what plugins' `secret` options were set to, for processes that need not know it."""
    secret = {option.path for option in catalog(sections) if option.plugin and option.marker.secret}
    left = {
        name: {key: value for key, value in values.items() if f"{name}.{key}" not in secret}
        for name, values in settings.plugins.sections.items()
    }
    return settings.model_copy(update={"plugins": settings.plugins.model_copy(update={"sections": left})})


@lru_cache(maxsize=8)
def _catalog(sections: tuple[PluginSection, ...]) -> Catalog:
    for each in sections:
        _validate_section(each)
    options = tuple(option for section in (*OWN, *sections) for option in _options(section))
    _validate_clashes(options)
    return Catalog(options)


def _validate_section(section: PluginSection) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", section.name) or section.name in RESERVED:
        raise PluginError(
            f"plugin {section.plugin!r} calls its settings {section.name!r}; a section needs a name of its own, of "
            "small letters, digits and single dashes"
        )
    if not dataclasses.is_dataclass(section.schema) and not _is_model(section.schema):
        raise PluginError(f"plugin {section.plugin!r}: the schema of section {section.name!r} must be a dataclass")
    if section.within and section.within not in (*SHARED, section.name):
        raise PluginError(
            f"plugin {section.plugin!r}: its settings {section.name!r} cannot be within {section.within!r}"
            f"{near(section.within, SHARED)}; sections that take a plugin's options are {', '.join(SHARED)}"
        )


def _is_model(schema: type[Any]) -> bool:
    return isinstance(schema, type) and issubclass(schema, BaseModel)


def _options(section: PluginSection) -> Iterator[OptionSpec]:
    for key, field, default in _fields(section):
        marker = next((item for item in field.metadata if isinstance(item, Option)), Option())
        if not marker.hidden:
            yield _option(section, key, field, default, marker)


def _fields(section: PluginSection) -> Iterator[tuple[str, FieldInfo, Any]]:
    """The fields of a schema by name, and their defaults."""
    if _is_model(section.schema):
        for key, info in section.schema.model_fields.items():
            yield key, info, info.get_default(call_default_factory=True, validated_data={})
        return
    fields = [field for field in dataclasses.fields(section.schema) if field.init]
    try:
        annotations = hints(section.schema)
    except (TypeError, NameError) as error:
        raise PluginError(_no_option(section, fields[0].name, error)) from None
    for field in fields:
        info = FieldInfo.from_annotation(annotations[field.name])
        info.description = info.description or field.metadata.get("help")
        yield field.name, info, _default(field)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return REQUIRED if field.default is dataclasses.MISSING else field.default


def _option(section: PluginSection, key: str, field: FieldInfo, default: Any, marker: Option) -> OptionSpec:
    reader = next((item for item in field.metadata if isinstance(item, Reader)), None)
    try:
        shape = shape_of(field.annotation, reader)
    except TypeError as error:
        raise PluginError(_no_option(section, key, error)) from None
    name, flag, variable = _spelled(section, key)
    return OptionSpec(
        section=section.name,
        page=section.within or section.name,
        key=key,
        name=name,
        flag=flag,
        shape=shape,
        default=default,
        help=str(field.description or f"A setting of plugin {section.plugin}."),
        title=_title(section),
        env=tuple(PREFIX + each.upper() for each in (variable, marker.alias) if each) + marker.env,
        marker=marker,
        limits=tuple(field.metadata),
        plugin="" if section in OWN else section.plugin or section.name,
        prefix=section.prefix,
        unsupported=section.unsupported,
        unsupported_values=next((each for each in field.metadata if isinstance(each, UnsupportedValues)), None),
    )


def _spelled(section: PluginSection, key: str) -> tuple[str, str, str]:
    """The Python name, the flag and the variable of an option, which is flat or below its plugin's section."""
    if section.within:
        name = section.prefix + key
        return name, "--" + name.replace("_", "-"), name
    under = section.name.replace("-", "_")
    return f"{under}__{key}", f"--{section.name}.{key.replace('_', '-')}", f"{under}_{key}"


def _title(section: PluginSection) -> str:
    if section.within in SECTIONS:
        return SECTIONS[section.within].title
    return section.title or f"Plugin {section.plugin}"


def _no_option(section: PluginSection, key: str, error: Exception) -> str:
    return f"plugin {section.plugin!r}, setting {section.name}.{key}: {error}"


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


def expectation(option: OptionSpec, error: ErrorDetails) -> str:
    """What the option takes instead of the value that pydantic refused."""
    if error["type"] == "string_too_short":
        return "some text"
    return limits(option) or error["msg"].removeprefix("Value error, ")


def limits(option: OptionSpec) -> str:
    """The range of the option's values, such as `from 0 to 65535`; empty when every value of its type will do."""
    multiples = [f"a multiple of {mark.multiple_of}" for mark in option.limits if isinstance(mark, at.MultipleOf)]
    return " and ".join([*_range(option.limits), *multiples])


def _range(marks: tuple[Any, ...]) -> list[str]:
    low: Any = next((mark.ge for mark in marks if isinstance(mark, at.Ge)), None)
    above: Any = next((mark.gt for mark in marks if isinstance(mark, at.Gt)), None)
    high: Any = next((mark.le for mark in marks if isinstance(mark, at.Le)), None)
    if low is not None and high is not None:
        return [f"from {low} to {high}"]
    words = [f"at least {low}"] if low is not None else [f"above {above}"] if above is not None else []
    return words if high is None else [*words, f"at most {high}"]
