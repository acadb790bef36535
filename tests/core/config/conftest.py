"""Plugin sections, files and a quiet environment for the tests of settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from maxserve.core.config.settings import PluginSection


@dataclass(frozen=True, slots=True)
class Aging:
    aging: float = 50.0
    rounds: int = 3
    strict: bool = False
    mode: Literal["soft", "hard"] = "soft"
    label: str | None = None
    names: tuple[str, ...] = ()
    weights: list[int] | None = None

    def __post_init__(self) -> None:
        if self.rounds == 13:
            raise ValueError("rounds must not be 13; take 12 or 14")


@pytest.fixture
def schema() -> type[Aging]:
    return Aging


@pytest.fixture
def section() -> PluginSection:
    """What a scheduler plugin of a stranger might declare."""
    return PluginSection(name="shortest-first", schema=Aging, plugin="acme")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that no .env of the developer is read."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def yaml_file(here: Path) -> Callable[..., str]:
    """Writes a settings file and gives its name."""

    def write(text: str, name: str = "serve.yaml") -> str:
        (here / name).write_text(text, encoding="utf-8")
        return name

    return write
