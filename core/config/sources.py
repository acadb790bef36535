"""Sources of option values: command line, files, environment variables and .env."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from maxserve.core.config.catalog import PREFIX, Catalog, OptionSpec, near
from maxserve.core.config.settings import Origin
from maxserve.core.config.values import items, read_bool
from maxserve.core.interfaces.errors import SettingsError


class SourceValue(msgspec.Struct, frozen=True):
    """A value as it was written; `where` names the spot in messages."""

    value: Any
    where: str


Source: TypeAlias = dict[str, SourceValue]  # by the option's path, "section.field"


log = logging.getLogger("maxserve.settings")

# Read before there are settings, because they decide which plugins may add some: by the command line, not here.
BEFORE_SETTINGS = {
    "MAX_SERVE_PLUGIN_AUTOLOAD": "`0`: leave every installed plugin out, only built-ins and `--plugin` are there",
    "MAX_SERVE_PLUGIN_ALLOW": "of the installed plugins, only these, with commas between",
    "MAX_SERVE_DISABLE_PLUGINS": "plugins to leave out, with commas between",
    "MAX_SERVE_PLUGIN_ERRORS": "`warn`: start although a plugin cannot be loaded; `strict`: do not",
}

ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(.*?)\s*")
QUOTED = re.compile(r"""(["'])(.*?)\1\s*(?:#.*)?""")


def environment_source(options: Catalog, environ: Mapping[str, str], dotenv: Path, *, strict: bool) -> Source:
    """What the variables set; the real environment wins over `.env`, a variable without text sets nothing.

    An empty `environ` stands for no environment at all, `.env` included. With `strict`, variables that begin with
    ours and mean nothing are warned of.
    """
    if not environ:
        return {}
    from_file = read_dotenv(dotenv)
    if strict:
        _warn_of_unknown(options, {**from_file, **environ})
    source: Source = {}
    for variables, where in ((from_file, f" in {dotenv}"), (environ, "")):
        for option in options:
            for name in reversed(option.env):
                if variables.get(name):
                    source[option.path] = SourceValue(variables[name], name + where)
    return source


SECRETS = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")  # how names of variables end that may not go unread


def _warn_of_unknown(options: Catalog, variables: Mapping[str, str]) -> None:
    known = {name for option in options for name in option.env} | set(BEFORE_SETTINGS)
    for name in sorted(variables):
        if name.startswith(PREFIX) and name not in known:
            if name.endswith(SECRETS) and variables[name]:
                raise SettingsError(
                    f"{name} is set, and no plugin that is there reads it, so what it protects would be open; is the "
                    "plugin left out (--no-plugin)? Else unset the variable"
                )
            log.warning("the environment variable %s means nothing to maxserve%s", name, near(name, known, most=1))


def read_dotenv(path: Path) -> dict[str, str]:
    """The KEY=VALUE lines of a file, empty when there is none; quotes and comments are taken off."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}; correct or remove it") from None
    matches = (ASSIGNMENT.fullmatch(line) for line in text.splitlines())
    return {match[1]: _unquoted(match[2]) for match in matches if match}


def _unquoted(text: str) -> str:
    quoted = QUOTED.fullmatch(text)
    return quoted[2] if quoted else re.sub(r"(^|\s+)#.*$", "", text)


EVERYTHING = ""  # a scope in which every option may be named


def read_mapping(path: str, section: str | None, *, prefix: str = "") -> dict[Any, Any]:
    """The mapping in a YAML file, or in its `section`; `prefix` is that of the flags that named them."""
    from maxserve.core.config.yaml_files import read_yaml  # only where there is such a file

    root = read_yaml(path, f"--{prefix}config-file")
    if section is None:
        return root
    present = ", ".join(str(key) for key, value in root.items() if isinstance(value, Mapping)) or "none"
    if section not in root:
        raise SettingsError(f"--{prefix}section-name {section}: {path} has no such section; it has: {present}")
    if not isinstance(root[section], Mapping):
        raise SettingsError(f"--{prefix}section-name {section}: not a section of {path}, which has: {present}")
    return dict(root[section])


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


class _Walk(msgspec.Struct):
    """One way through a file: what it set so far, and which keys are unknown."""

    options: Catalog
    path: str
    scopes: Mapping[str, str]
    source: Source = msgspec.field(default_factory=dict)
    unknown: list[str] = msgspec.field(default_factory=list)
    foreign_sections: list[str] = msgspec.field(default_factory=list)

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


Sources: TypeAlias = list[tuple[Origin, Source]]


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
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
    if prefix and sections and not paths:
        raise SettingsError(
            f"--{flags}section-name {', '.join(sections)}: a section of which file? Give --{flags}config-file too"
        )
    for path, section in pairs(paths, sections if paths else (), prefix=flags):  # without a prefix it was looked at
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
        found = chosen["files.section_name"]
        raise SettingsError(f"{found.where}: the section {found.value!r} of which file? Give --config-file too")
