from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maxserve.core.config.section_values import SectionValues


class One:
    pass


class Two:
    pass


class Elsewhere:
    """One that is not found by its name alone."""


def values(asked: list[type[Any] | None]) -> SectionValues:
    def read(schema: type[Any] | None) -> Mapping[type[Any], Any]:
        asked.append(schema)
        return {kind: kind() for kind in (One, Two, Elsewhere) if schema in (None, kind) and schema is not Elsewhere}

    return SectionValues(read)


def test_a_section_is_read_when_it_is_asked_for_and_once() -> None:
    asked: list[type[Any] | None] = []
    found = values(asked)
    assert asked == []
    assert found[One] is found.get(One)
    assert asked == [One]


def test_all_are_read_for_one_that_its_name_does_not_find() -> None:
    asked: list[type[Any] | None] = []
    found = values(asked)
    one = found[One]
    assert isinstance(found[Elsewhere], Elsewhere)
    assert found.get(str) is None
    assert asked == [One, Elsewhere, None]
    assert (set(found), len(found), found[One]) == ({One, Two, Elsewhere}, 3, one)
