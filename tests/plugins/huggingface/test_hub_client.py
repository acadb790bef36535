"""The real client of huggingface_hub against a hub that this test serves on 127.0.0.1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from maxserve.core.interfaces.errors import ModelError
from maxserve.plugins.huggingface.hub import HuggingFaceHub, patiently
from tests.local_hub import local_hub

FILES = {"config.json": b'{"architectures": []}', "model.safetensors": b"w" * 5000, "README.md": b"no"}


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub of these tests is on this machine, also where HF_HUB_OFFLINE is set."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HuggingFaceHub]:
    with local_hub("org/m", lambda: FILES) as address:
        yield HuggingFaceHub(endpoint=address, cache=str(tmp_path / "cache"))


def test_lists_and_fetches(hub: HuggingFaceHub) -> None:
    assert sorted(hub.files("org/m", "main")) == sorted(FILES)
    fractions: list[float] = []
    patterns = ["config.json", "*.safetensors"]
    folder = Path(hub.fetch("org/m", "main", patterns, force=False, cached=False, done=fractions.append))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        name: data for name, data in FILES.items() if name != "README.md"
    }
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert Path(hub.fetch("org/m", "main", ["config.json"], force=False, cached=True, done=fractions.append)) == folder


def test_failures_are_one_clear_line(hub: HuggingFaceHub) -> None:
    for repo, reason in (("org/gated", "is gated: accept its licence"), ("org/gone", "no model of this name")):
        with pytest.raises(ModelError, match=reason):
            patiently(lambda repo=repo: hub.files(repo, "main"), repo, "main", offline=False)

        def fetch(repo: str = repo) -> str:
            return hub.fetch(repo, "main", ["*"], force=False, cached=False, done=lambda fraction: None)

        with pytest.raises(ModelError, match=reason):
            patiently(fetch, repo, "main", offline=False)
