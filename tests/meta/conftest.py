from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def packages(root: Path) -> dict[str, Path]:
    """The folders that setuptools maps, by the package they become."""
    return {
        "maxserve.core": root / "core",
        "maxserve.plugins": root / "plugins",
        "maxserve.architectures": root / "architectures",
        "maxserve.samplers": root / "samplers",
        "maxserve": root / "src" / "maxserve",
    }


@pytest.fixture(scope="session")
def sources(packages: dict[str, Path]) -> list[Path]:
    """Every Python file that ships."""
    return sorted(file for folder in packages.values() for file in folder.rglob("*.py"))
