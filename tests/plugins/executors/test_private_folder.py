from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from pathlib import Path

import pytest

from maxserve.core.interfaces.errors import SettingsError
from maxserve.plugins.executors.private_folder import private_folder, remove_abandoned


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("maxserve.plugins.executors.private_folder.LONGEST", len(str(tmp_path)) + 40)
    monkeypatch.setattr("maxserve.plugins.executors.private_folder.SHORT", str(tmp_path))
    return tmp_path


def test_a_folder_is_private_and_goes_with_its_server(temporary: Path) -> None:
    with private_folder() as folder:
        assert folder.parent == temporary
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert list(temporary.iterdir()) == []


def test_folders_in_use_are_left_alone() -> None:
    with private_folder() as first, private_folder() as second:
        assert first.exists()
        assert second.exists()


def test_folders_of_the_dead_go_with_the_next_start(temporary: Path) -> None:
    abandoned = temporary / "maxserve-abandoned"
    abandoned.mkdir()
    (abandoned / "lock").touch()
    (abandoned / "worker-requests").touch()
    with private_folder() as mine:
        assert list(temporary.iterdir()) == [mine]


def test_a_lock_that_is_held_elsewhere_protects(temporary: Path) -> None:
    folder = temporary / "maxserve-held"
    folder.mkdir()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_abandoned()
        assert folder.exists()


def test_folders_of_others_and_links_are_left_alone(temporary: Path) -> None:
    (temporary / "maxserve-notes").mkdir()
    (temporary / "maxserve-link").mkdir()
    (temporary / "precious").touch()
    (temporary / "maxserve-link" / "lock").symlink_to(temporary / "precious")
    remove_abandoned()
    assert len(list(temporary.iterdir())) == 3


def test_no_place_for_a_folder_ends_in_a_sentence(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (temporary / "none", None):
        monkeypatch.setattr(tempfile, "tempdir", None if place is None else str(place))
        monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(temporary / "none")])
        with (
            pytest.raises(SettingsError, match=r"no temporary folder that can be written .*: set TMPDIR"),
            private_folder(),
        ):
            pass


def test_a_temporary_folder_too_long_for_sockets_is_passed_over(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = temporary / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.setattr("maxserve.plugins.executors.private_folder.SHORT", "/tmp")
    with private_folder() as folder:
        assert folder.parent == Path("/tmp")
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert not folder.exists()
    assert list(long.iterdir()) == []
