"""A plugin section and an empty folder for the tests of options."""

from __future__ import annotations

from pathlib import Path

import pytest

from maxserve.options import PluginSection
from tests.core.config.conftest import Aging


@pytest.fixture
def section() -> PluginSection:
    """What a scheduler plugin of a stranger might declare."""
    return PluginSection(name="shortest-first", schema=Aging, plugin="acme")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that no .env of the developer is read."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
