"""Sources of option values: command line, file and environment, one source each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from maxserve.core.config.catalog import Catalog, near
from maxserve.core.config.config_file import EVERYTHING, file_source, read_mapping
from maxserve.core.config.environment import environment_source
from maxserve.core.config.sections import Origin
from maxserve.core.config.source_value import Source, SourceValue
from maxserve.core.config.values import items
from maxserve.core.interfaces.errors import SettingsError

Sources: TypeAlias = list[tuple[Origin, Source]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What settings are made from. With `strict`, unknown names are errors."""

    typed: Mapping[str, Any]
    environ: Mapping[str, str]
    dotenv: Path
    strict: bool = True


def read_sources(options: Catalog, inputs: Inputs) -> Sources:
    """The sources, the strongest first."""
    typed = typed_source(options, inputs.typed, strict=inputs.strict)
    environment = environment_source(options, inputs.environ, inputs.dotenv, strict=inputs.strict)
    chosen = environment | typed
    return [
        ("command line", typed),
        ("file", _own_files(options, chosen, strict=inputs.strict)),
        ("file", _files(options, chosen, strict=inputs.strict)),
        ("environment", environment),
    ]


def typed_source(options: Catalog, typed: Mapping[str, Any], *, strict: bool) -> Source:
    """What was typed, by path. None and empty lists stand for what was not typed."""
    known = options.by_name()
    source: Source = {}
    for name, value in typed.items():
        if value is None or (isinstance(value, (list, tuple)) and not value):
            continue
        option = known.get(name)
        if option is None:
            if strict:
                raise SettingsError(f"there is no option {name}{near(name, known)}; see max serve --help")
            continue
        if option.path in source:
            raise SettingsError(f"{option.alias_flag} and {option.flag} mean the same; give one of them")
        flag = option.flag if name == option.name else option.alias_flag
        source[option.path] = SourceValue(value, option.off_flag if value is False and option.off_flag else flag)
    return source


def _files(options: Catalog, chosen: Source, *, strict: bool) -> Source:
    """What the files of `--config-file` set."""
    if "files.config_file" not in chosen:
        _validate_section_has_file(chosen)
    return _read_files(options, chosen, "", EVERYTHING, strict=strict)


def _own_files(options: Catalog, chosen: Source, *, strict: bool) -> Source:
    """What files say that are about one section only: those of `--PREFIX-config-file`, where a plugin has that."""
    source: Source = {}
    prefixed = {(option.page, option.prefix) for option in options if option.prefix and option.page != "files"}
    for page, prefix in sorted(prefixed):
        source |= _read_files(options, chosen, prefix, page, strict=strict)
    return source


def _read_files(options: Catalog, chosen: Source, prefix: str, scope: str, *, strict: bool) -> Source:
    names = {option.name: option.path for option in options if option.page == "files"}
    paths, sections = (_texts(chosen, names.get(prefix + key, "")) for key in ("config_file", "section_name"))
    flags = prefix.replace("_", "-")
    source: Source = {}
    for path, section in pairs(paths, sections if paths else (), prefix=flags):  # a section alone is refused elsewhere
        content = read_mapping(path, section, prefix=flags)
        source |= file_source(options, content, path, strict=strict, scope=scope, prefix=prefix)
    return source


def pairs(paths: Sequence[str], sections: Sequence[str], *, prefix: str = "") -> list[tuple[str, str | None]]:
    """Which section of which file is read, in the order in which later ones win.

    As many sections as files belong to them one by one; one section is that of every file; several of one file are
    read one after the other. SettingsError where it is not clear which belongs to which.
    """
    if not sections:
        return [(path, None) for path in paths]
    if len(paths) == len(sections):
        return list(zip(paths, sections, strict=True))
    if len(sections) == 1:
        return [(path, sections[0]) for path in paths]
    if len(paths) == 1:
        return [(paths[0], section) for section in sections]
    raise SettingsError(
        f"--{prefix}config-file is given {len(paths)} times and --{prefix}section-name {len(sections)} times; give one "
        "section for each file, one for all, or one file"
    )


def _texts(chosen: Source, path: str) -> tuple[str, ...]:
    """The values of a repeatable option as they were typed; with commas between in the environment."""
    if path not in chosen:
        return ()
    return tuple(map(str, items(chosen[path].value)))


def _validate_section_has_file(chosen: Source) -> None:
    if "files.section_name" in chosen:
        given = chosen["files.section_name"]
        raise SettingsError(f"{given.where}: the section {given.value!r} of which file? Give --config-file too")
