"""The settings of plugins, as builds are given them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any


class SectionValues(Mapping[type[Any], Any]):
    """One object per section, by its schema. `read` gives those that may have a schema, None for all of them.

    A section is read when it is asked for: a worker needs few of them, and would import the schemas of all plugins.
    """

    def __init__(self, read: Callable[[type[Any] | None], Mapping[type[Any], Any]]) -> None:
        self._read = read
        self._found: dict[type[Any], Any] = {}
        self._complete = False

    def __getitem__(self, schema: type[Any]) -> Any:
        if schema not in self._found and not self._complete:
            self._found |= self._read(schema)
        return self._found[schema] if schema in self._found else self._all()[schema]

    def __iter__(self) -> Iterator[type[Any]]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> Mapping[type[Any], Any]:
        if not self._complete:
            self._found = {**self._read(None), **self._found}
            self._complete = True
        return self._found
