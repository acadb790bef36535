"""Adapters of the hub, which this test plays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from huggingface_hub import errors

from maxserve.core.interfaces.errors import RequestError, SettingsError
from maxserve.interfaces.adapter_source import AdapterSourceContext, FindsAdapters
from maxserve.plugins.huggingface.adapters import FILES, HubAdapters
from maxserve.plugins.lora.options import LoRAOptions
from maxserve.testing import AdapterSourceChecks
from tests.plugins.huggingface.test_hub import http_error


class Hub:
    """A HubClient whose repositories are folders below one."""

    def __init__(self, folder: Path, *, offline: bool = False) -> None:
        self.folder, self.offline = folder, offline
        self.asked: list[tuple[str, str, bool]] = []

    def files(self, repo: str, revision: str) -> list[str]:
        raise AssertionError("which files an adapter has is known")

    def pipeline_tag(self, repo: str, revision: str) -> str | None:
        raise AssertionError("what it is for, too")

    def fetch(self, repo: str, revision: str, patterns: Sequence[str], *, cached: bool, **_: Any) -> str:
        assert tuple(patterns) == FILES
        self.asked.append((repo, revision, cached))
        if not (self.folder / repo).is_dir():
            raise http_error(errors.RepositoryNotFoundError, 404)
        return str(self.folder / repo)


def options(*patterns: str, enabled: bool = True) -> dict[type[Any], Any]:
    return {LoRAOptions: LoRAOptions(enable_lora=enabled, lora_hub=patterns)}


class TestHub(AdapterSourceChecks):
    adapter_source = "huggingface"
    sections: ClassVar[dict[type[Any], Any]] = options("acme/sql-*", "team/law")
    others = (*AdapterSourceChecks.others, "acme/law", "team/law/2", "other/sql-1", "acme/sql-1:Q4", "sql-1")

    def source(self, folder: Path) -> FindsAdapters:
        return HubAdapters(AdapterSourceContext(sections=self.sections), Hub(folder))

    def adapters(self, folder: Path) -> Mapping[str, str]:
        for name in ("acme/sql-1", "acme/sql-2", "team/law", "acme/law", "other/sql-1"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        return {name: str(folder / name) for name in ("acme/sql-1", "acme/sql-2", "team/law")}


def test_the_hub_is_asked_for_nothing_that_is_not_wanted(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    for sections in (options(), options("acme/*", enabled=False), {}):
        source = HubAdapters(AdapterSourceContext(sections=sections), hub)
        assert source.find("acme/sql") is None
    assert hub.asked == []


def test_the_operator_may_name_any_repository(tmp_path: Path) -> None:
    (tmp_path / "acme" / "sql").mkdir(parents=True)
    hub = Hub(tmp_path, offline=True)
    source = HubAdapters(AdapterSourceContext(sections=options(), of_operator=True), hub)
    assert source.find("acme/sql") == str(tmp_path / "acme" / "sql")
    assert source.find("sql") is None
    assert hub.asked == [("acme/sql", "main", True)]


def test_a_repository_that_is_not_there_is_named(tmp_path: Path) -> None:
    source = HubAdapters(AdapterSourceContext(sections=options("acme/*")), Hub(tmp_path))
    with pytest.raises(RequestError, match=r"the adapter 'acme/sql' cannot be had: there is .* no model of this name"):
        source.find("acme/sql")


@pytest.mark.parametrize("pattern", ["*/*", "a*/sql", "sql", "", "acme/", "/sql", "acme/a/b", "../acme/sql"])
def test_whose_repositories_are_loaded_is_said_in_full(model_folder: Any, pattern: str) -> None:
    import maxserve

    with pytest.raises(SettingsError, match=r"--lora-hub .*: give ORG/NAME"):
        maxserve.LLM(str(model_folder()), enable_lora=True, lora_hub=(pattern,))
