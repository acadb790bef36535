"""Request fields and the samplers they belong to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from maxserve.core.interfaces.errors import PluginError, cause
from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.interfaces.sampler import Sampler
from maxserve.core.registry.entries import Entry

# What the core itself reads from a request, and what every route calls the rest of it.
RESERVED = frozenset(
    {field.name for noun in (Request, SamplingParams) for field in dataclasses.fields(noun)}
    | {"model", "messages", "stop", "stream", "n"}
)


def field_owners(params: Iterable[tuple[Entry[Sampler], object]]) -> Mapping[str, Entry[Sampler]]:
    """Samplers by the request fields of their params classes; PluginError when two declare one field.

    A field that requests have anyway may not be declared either.
    """
    owners: dict[str, Entry[Sampler]] = {}
    for entry, cls in params:
        if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
            raise PluginError(f"{entry}: params must be a dataclass, not {cls!r}")
        _check_defaults(entry, cls)
        for field in dataclasses.fields(cls):
            if field.name in RESERVED:
                raise PluginError(
                    f"{entry}: its request field {field.name!r} has a meaning in every request; call it something "
                    f"else, or leave the plugin out with --no-plugin {entry.plugin}"
                )
            other = owners.setdefault(field.name, entry)
            if other is not entry:
                raise PluginError(_clash(field.name, other, entry))
    return owners


def _check_defaults(entry: Entry[Sampler], cls: type[Any]) -> None:
    """Raises PluginError unless `cls()` means that a request asks for nothing: that is what requests are compared with.

    Found at start, because otherwise the first request that leaves out a field without a default would fail.
    """
    lacking = [
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if lacking:
        raise PluginError(
            f"{entry}: its request field {lacking[0]!r} has no default; give every field of {cls.__name__} the value "
            "that means it was not asked for"
        )
    try:
        alike = bool(cls() == cls())
    except Exception as error:
        raise PluginError(f"{entry}: {cls.__name__}() cannot be made: {cause(error)}") from error
    if not alike:
        raise PluginError(
            f"{entry}: two objects {cls.__name__}() are not equal, so that every request would seem to ask for it; "
            "leave dataclass(eq=...) as it is"
        )


def _clash(field: str, one: Entry[Sampler], other: Entry[Sampler]) -> str:
    ways = " or ".join(dict.fromkeys(f"--no-plugin {entry.plugin}" for entry in (one, other)))
    return f"request field {field!r} is declared by {one} and by {other}; leave out one of them with {ways}"
