"""The folders in which files lie that weights hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.loading import location
from maxserve.core.loading.location import unpacked


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(location, "_writable", lambda: tmp_path)
    return tmp_path


def test_equal_files_lie_in_one_folder(home: Path) -> None:
    folder = unpacked({"config.json": b"{}", "a.txt": b"x", "in/b.txt": b"y"})
    assert (folder / "config.json").read_bytes() == b"{}"
    assert (folder / "in" / "b.txt").read_bytes() == b"y"
    assert unpacked({"a.txt": b"x", "in/b.txt": b"y", "config.json": b"{}"}) == folder
    assert list(home.iterdir()) == [folder]


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "./x", "a/..", "a/b/c", "/x", "a\0b", "x" * 300])
def test_names_that_are_none_of_a_file_are_refused(name: str, home: Path) -> None:
    with pytest.raises(ModelError, match="is no name of a file of a model"):
        unpacked({"config.json": b"{}", name: b"x"})
    assert list(home.iterdir()) == []


def test_what_cannot_be_written_leaves_nothing_behind(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(ModelError, match="No space left on device"):
        unpacked({"config.json": b"{}"})
    assert list(home.iterdir()) == []
