"""The settings file. YAML: flat, one section of it, or nested by section."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from maxserve.core.config.catalog import Catalog, OptionSpec, near
from maxserve.core.config.source_value import Source, SourceValue
from maxserve.core.config.values import read_bool
from maxserve.core.interfaces.errors import SettingsError

EVERYTHING = ""  # a scope in which every option may be named


class _Loader(yaml.SafeLoader):
    """YAML in which a key must not come twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"the key {key} comes twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_mapping(path: str, section: str | None, *, prefix: str = "") -> dict[Any, Any]:
    """The mapping in a YAML file, or in its `section`; `prefix` is that of the flags that named them."""
    root = _read_yaml(path, f"--{prefix}config-file")
    if section is None:
        return root
    present = ", ".join(str(key) for key, value in root.items() if isinstance(value, Mapping)) or "none"
    if section not in root:
        raise SettingsError(f"--{prefix}section-name {section}: {path} has no such section; it has: {present}")
    if not isinstance(root[section], Mapping):
        raise SettingsError(f"--{prefix}section-name {section}: not a section of {path}, which has: {present}")
    return dict(root[section])


def _read_yaml(path: str, flag: str) -> dict[Any, Any]:
    try:
        root = yaml.load(Path(path).expanduser().read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise SettingsError(f"{flag} {path}: there is no such file below {Path.cwd()}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{flag} {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{flag} {path} is not YAML: {_one_line(error)}") from None
    if root is None:
        return {}
    if not isinstance(root, Mapping):
        found = "a list" if isinstance(root, list) else "one plain value"
        raise SettingsError(f"{flag} {path}: expected keys with values, such as max_length: 2048, not {found}")
    return dict(root)


def _one_line(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem or error.context} in line {error.problem_mark.line + 1}"
    return " ".join(str(error).split())


def file_source(
    options: Catalog,
    content: Mapping[Any, Any],
    path: str,
    *,
    strict: bool = True,
    scope: str = EVERYTHING,
    prefix: str = "",
) -> Source:
    """What the content of a file sets; SettingsError lists every unknown key, unless not `strict`.

    A file with a `scope` is about that section only, and its keys need no `prefix`.
    """
    walk = _Walk(options, path, _scopes(options) if scope == EVERYTHING else _one_scope(scope, prefix))
    walk.read(content, scope, "")
    if strict and walk.unknown:
        raise SettingsError(f"{path}: unknown key{'s' * (len(walk.unknown) > 1)} {', '.join(walk.unknown)}{walk.hint}")
    return walk.source


def _scopes(options: Catalog) -> dict[str, str]:
    """Which keys open a section, and which."""
    names = {option.page for option in options} - {"files"}
    scopes = {_snake(name): name for name in names}
    return {"pipeline_config": EVERYTHING} | {f"{key}_config": name for key, name in scopes.items()} | scopes


def _one_scope(scope: str, prefix: str) -> dict[str, str]:
    bare = scope.removeprefix(prefix)
    return dict.fromkeys((scope, f"{scope}_config", bare, f"{bare}_config"), scope)


@dataclass(slots=True)
class _Walk:
    """One way through a file: what it set so far, and which keys are unknown."""

    options: Catalog
    path: str
    scopes: Mapping[str, str]
    source: Source = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    foreign_sections: list[str] = field(default_factory=list)

    def read(self, content: Mapping[Any, Any], scope: str, above: str) -> None:
        known = self._known(scope)
        for key, value in content.items():
            name, spot = _snake(str(key)), f"{above}{key}"
            if name in self.scopes and isinstance(value, Mapping):
                self.read(value, self.scopes[name], f"{spot}.")
            elif name in self.scopes and value is None:
                continue  # a section without a key below it
            elif name in known:
                self._set(known[name], value, spot)
            elif (positive := known.get(name.removeprefix("no_"))) and positive.off_flag and name.startswith("no_"):
                self._set(positive, _opposite(value), spot)
            else:
                self._unknown(name, spot, value, known)

    def _known(self, scope: str) -> dict[str, OptionSpec]:
        named = {name: each for name, each in self.options.by_name().items() if each.page != "files"}
        if scope == EVERYTHING:
            return named
        inside = {name: each for name, each in named.items() if each.page == scope}
        return inside | {each.key: each for each in inside.values()}

    def _set(self, option: OptionSpec, value: Any, spot: str) -> None:
        where = f"{spot} in {self.path}"
        if option.path in self.source:
            raise SettingsError(f"{self.source[option.path].where} and {spot} mean the same; keep one of them")
        self.source[option.path] = SourceValue(value, where)

    def _unknown(self, name: str, spot: str, value: Any, known: Mapping[str, OptionSpec]) -> None:
        if isinstance(value, Mapping) and spot == name:
            self.foreign_sections.append(spot)
        below = " (it takes keys with values below it)" if name in self.scopes else near(name, [*known, *self.scopes])
        self.unknown.append(spot + below)

    @property
    def hint(self) -> str:
        if not self.foreign_sections:
            return ""
        return f"; if one is a section to read, name it with --section-name ({' or '.join(self.foreign_sections)})"


def _opposite(value: Any) -> Any:
    """What a key like `no-enable-echo` says of the option; what is no boolean is left to be refused."""
    try:
        return not read_bool(value)
    except ValueError:
        return value


def _snake(key: str) -> str:
    return key.replace("-", "_")
