"""Sources of option values: command line, file and environment, one layer each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from maxserve.core.config.catalog import Catalog, near
from maxserve.core.config.config_file import file_layer, read_mapping
from maxserve.core.config.environment import environment_layer
from maxserve.core.config.given import Given, Layer
from maxserve.core.config.sections import Origin
from maxserve.core.config.values import items
from maxserve.core.interfaces.errors import SettingsError

Layers: TypeAlias = list[tuple[Origin, Layer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What settings are made from. With `strict`, unknown names are errors."""

    typed: Mapping[str, Any]
    environ: Mapping[str, str]
    dotenv: Path
    strict: bool = True


def read_layers(options: Catalog, inputs: Inputs) -> Layers:
    """The layers, the strongest first."""
    typed = typed_layer(options, inputs.typed, strict=inputs.strict)
    environment = environment_layer(options, inputs.environ, inputs.dotenv, strict=inputs.strict)
    chosen = environment | typed
    return [
        ("command line", typed),
        ("file", _draft_file(options, chosen, strict=inputs.strict)),
        ("file", _file(options, chosen, strict=inputs.strict)),
        ("environment", environment),
    ]


def typed_layer(options: Catalog, typed: Mapping[str, Any], *, strict: bool) -> Layer:
    """What was typed, by path. None and empty lists stand for what was not typed."""
    known = options.by_name()
    layer: Layer = {}
    for name, value in typed.items():
        if value is None or (isinstance(value, (list, tuple)) and not value):
            continue
        option = known.get(name)
        if option is None:
            if strict:
                raise SettingsError(f"there is no option {name}{near(name, known)}; see max serve --help")
            continue
        if option.path in layer:
            raise SettingsError(f"{option.alias_flag} and {option.flag} mean the same; give one of them")
        flag = option.flag if name == option.name else option.alias_flag
        layer[option.path] = Given(value, option.off_flag if value is False and option.off_flag else flag)
    return layer


def _file(options: Catalog, chosen: Layer, *, strict: bool) -> Layer:
    paths, sections = _texts(chosen, "files.config_file"), _texts(chosen, "files.section_name")
    if not paths:
        _validate_section_has_file(chosen)
    layer: Layer = {}
    for path, section in pairs(paths, sections):
        layer |= file_layer(options, read_mapping(path, section), path, strict=strict)
    return layer


def _draft_file(options: Catalog, chosen: Layer, *, strict: bool) -> Layer:
    paths, sections = _texts(chosen, "files.draft_config_file"), _texts(chosen, "files.draft_section_name")
    layer: Layer = {}
    for path, section in pairs(paths, sections if paths else (), prefix="draft-"):  # a section alone is refused later
        layer |= file_layer(options, read_mapping(path, section, prefix="draft-"), path, strict=strict, draft=True)
    return layer


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


def _texts(chosen: Layer, path: str) -> tuple[str, ...]:
    """The values of a repeatable option as they were typed; with commas between in the environment."""
    if path not in chosen:
        return ()
    return tuple(map(str, items(chosen[path].value)))


def _validate_section_has_file(chosen: Layer) -> None:
    if "files.section_name" in chosen:
        given = chosen["files.section_name"]
        raise SettingsError(f"{given.where}: the section {given.value!r} of which file? Give --config-file too")
