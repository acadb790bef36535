"""Settings as readable blocks, for --pretty-print-config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maxserve.options import OptionSpec, PluginSection, Settings, catalog, value_text

MOST_PATHS = 5


def describe(settings: Settings, *, sections: Sequence[PluginSection] = ()) -> list[str]:
    """One block of lines per section, each value with where it came from unless it is the default."""
    groups: dict[str, dict[str, str]] = {}
    for option in catalog(sections):
        rows = groups.setdefault(option.title, {})
        rows[option.path if "." in option.flag else option.name] = _row(option, settings)
    return [_block(title, rows) for title, rows in groups.items()]


def _block(title: str, rows: Mapping[str, str]) -> str:
    width = max(map(len, rows), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {text}" for name, text in rows.items())])


def _row(option: OptionSpec, settings: Settings) -> str:
    value = option.value(settings)
    if option.marker.secret and value:
        value = "(not shown)"
    text = "-" if value is None or value in ("", (), [], {}) else value_text(abbreviated(value))
    origin = settings.origins.get(option.path)
    return f"{text}  ({origin})" if origin else text


def abbreviated(value: Any) -> Any:
    """A long list by its first three and its last; anything else as it is."""
    if isinstance(value, (list, tuple)) and len(value) > MOST_PATHS:
        return [*value[:3], "…", value[-1]]
    return value
