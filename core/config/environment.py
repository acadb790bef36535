"""Options in environment variables and in the file .env."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from maxserve.core.config.catalog import PREFIX, Catalog, near
from maxserve.core.config.source_value import Source, SourceValue
from maxserve.core.interfaces.errors import SettingsError

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


def _warn_of_unknown(options: Catalog, variables: Mapping[str, str]) -> None:
    known = {name for option in options for name in option.env} | set(BEFORE_SETTINGS)
    for name in sorted(variables):
        if name.startswith(PREFIX) and name not in known:
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
