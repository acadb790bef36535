"""The checks of adapter sources take what is right and find what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from maxserve.core.interfaces.adapter_source import AdapterSource
from maxserve.testing.adapter_source import AdapterSourceChecks

ADAPTERS = {"sql": "/adapters/sql-7"}


def declared(find: Callable[[str], str | None]) -> AdapterSource:
    return AdapterSource(name="acme", build=lambda context: SimpleNamespace(find=find))


class TestShelf(AdapterSourceChecks):
    component = declared(ADAPTERS.get)

    def adapters(self, folder: Path) -> Mapping[str, str]:
        return ADAPTERS


def checks_of(find: Callable[[str], str | None]) -> AdapterSourceChecks:
    checks = TestShelf()
    checks.component = declared(find)  # type: ignore[misc]
    return checks


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        checks_of(lambda name: None).test_adapters_are_found_where_they_are(tmp_path)
    with pytest.raises(AssertionError, match="'' is none of its adapters"):
        checks_of(lambda name: f"/adapters/{name}").test_other_names_are_left_to_others(tmp_path)
    once = iter([ADAPTERS["sql"]])
    with pytest.raises(AssertionError):
        checks_of(lambda name: next(once, None)).test_threads_may_ask_at_once(tmp_path)
