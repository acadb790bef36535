"""Which folders adapters are loaded from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from maxserve.core.interfaces.errors import RequestError
from maxserve.plugins.lora.folders import folder_named, is_name, real_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("all/one", "all-others", "secret"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "all" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "all" / "same").symlink_to("one")
    return tmp_path / "all"


@pytest.mark.parametrize("source", ["one", "./one/", "same", "one/../one", "{root}/one", "../all/one"])
def test_folders_within_are_found_by_their_real_path(root: Path, source: str) -> None:
    assert real_folder(source.format(root=root), str(root)) == os.path.realpath(root / "one")


@pytest.mark.parametrize(
    "source", ["..", ".", "", "link", "../secret", "../all-others", "../nothing", "/", "/etc", "one/../../secret", "~"]
)
def test_folders_outside_are_refused_whether_they_are_there_or_not(root: Path, source: str) -> None:
    with pytest.raises(RequestError, match="lies outside of the folder of --lora-dir") as raised:
        real_folder(source, str(root))
    assert raised.value.status == 400


@pytest.mark.parametrize("source", ["nothing", "a\0b", "a" * 5000, "a/" * 3000, "~no-such-user/a"])
def test_what_is_not_there_is_404(root: Path, source: str) -> None:
    with pytest.raises(RequestError) as raised:
        real_folder(source, str(root))
    assert raised.value.status == 404


def test_without_a_folder_any_is_taken(root: Path) -> None:
    assert real_folder(str(root / "link")) == os.path.realpath(root.parent / "secret")


@pytest.mark.parametrize("name", ["a", "org/my-adapter:v1.2", "A_b@c+d", "9"])
def test_names(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize("name", ["", "../a", "a/../b", "/a", "a//b", ".a", "a b", "a\n", "ä", "a,b", "a" * 201, "a\0"])
def test_no_names(name: str) -> None:
    assert not is_name(name)


@pytest.mark.parametrize("name", ["one", "same"])
def test_a_name_is_a_folder_within(root: Path, name: str) -> None:
    assert folder_named(name, str(root)) == os.path.realpath(root / "one")


def test_only_the_last_part_of_a_name_may_be_a_link(root: Path) -> None:
    """Any number of names would lead to one folder by way of others."""
    (root / "latest").symlink_to(root / "one")
    (root / "here").symlink_to(root)
    assert folder_named("latest", str(root)) == os.path.realpath(root / "one")
    assert folder_named("here/one", str(root)) is folder_named("here/here/one", str(root)) is None


@pytest.mark.parametrize(
    "name",
    [
        "two",
        "link",
        "..",
        ".",
        "",
        "../secret",
        "one/",
        "one/.",
        "./one",
        "one/../one",
        "/etc",
        "a" * 5000,
        "a\0b",
        "~",
    ],
)
def test_no_other_name_is_one(root: Path, name: str) -> None:
    (root / "a file").write_text("")
    assert folder_named(name, str(root)) is None
    assert folder_named("a file", str(root)) is None
