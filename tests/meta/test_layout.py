"""The layout on disk: every way to install it and every reader of its types finds all of it."""

from __future__ import annotations

import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

AUTHORS_FILE = """
from maxserve import Sampler, hookimpl
from maxserve.core.registry.host import PluginHost

wrong: int = Sampler(name="a", build="b:c").name
host: PluginHost = PluginHost.nothing_of_this_name
"""
LINKS = ("core", "plugins", "architectures", "samplers")


def test_links_lead_to_the_folders_of_the_top(root: Path) -> None:
    for name in LINKS:
        link = root / "src" / "maxserve" / name
        assert link.is_symlink()
        assert not link.readlink().is_absolute()
        assert link.resolve() == root / name


def test_tests_that_are_named_are_there(root: Path) -> None:
    """A path that is not there ends a run before its first test."""
    named = re.findall(r"tests/[\w/.*-]+", (root / ".ci" / "run").read_text(encoding="utf-8"))
    assert named
    assert [path for path in named if not any(root.glob(path))] == []


def shipped(root: Path) -> set[str]:
    """Every file that belongs in a wheel, as it is called there."""
    files = {f"maxserve/{file.relative_to(root)}" for name in LINKS for file in (root / name).rglob("*")}
    source = root / "src"
    own = {str(file.relative_to(source)) for file in (source / "maxserve").rglob("*") if not _behind_link(file, source)}
    return {name for name in files | own if "__pycache__" not in name and Path(name).suffix}


def _behind_link(file: Path, source: Path) -> bool:
    return any(part.is_symlink() for part in (file, *file.parents) if part.is_relative_to(source))


@pytest.mark.install
@pytest.mark.parametrize("sdist", [False, True])
def test_wheels_hold_every_file(sdist: bool, root: Path, build_wheel: Callable[..., Path]) -> None:
    with zipfile.ZipFile(build_wheel(sdist=sdist)) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == {name for name in shipped(root) if not (root / name.partition("/")[2]).is_dir()}


@pytest.fixture(scope="module")
def editable(fresh_environment: Callable[[], Any], clean_copy: Callable[..., Path]) -> Any:
    """An environment with an editable install of `checkout`."""
    environment = fresh_environment()
    environment.checkout = clean_copy()
    environment.install("--editable", str(environment.checkout))
    return environment


@pytest.mark.install
class TestEditable:
    def test_it_is_a_path_and_no_finder(self, editable: Any, tmp_path: Path) -> None:
        assert [file.suffix for file in editable.packages.glob("__editable__*maxserve*")] == [".pth"]
        where = editable.run("-c", "import maxserve.core.registry.host as h; print(h.__file__)", cwd=tmp_path).strip()
        assert where == str(editable.checkout / "src" / "maxserve" / "core" / "registry" / "host.py")
        assert "scheduler" in editable.run("-m", "maxserve", "list", cwd=tmp_path)

    @pytest.mark.parametrize("checker", ["mypy", "pyright"])
    def test_types_reach_the_file_of_an_author(self, editable: Any, checker: str, tmp_path: Path) -> None:
        program = shutil.which(checker, path=str(Path(sys.executable).parent))
        if program is None:
            pytest.skip(f"{checker} is not installed: it comes with the extra dev")
        (tmp_path / "mine.py").write_text(AUTHORS_FILE)
        option = {"mypy": "--python-executable", "pyright": "--pythonpath"}[checker]
        check = "import subprocess, sys; print(subprocess.run(sys.argv[1:], capture_output=True, text=True).stdout)"
        told = editable.run("-c", check, program, option, editable.python, "mine.py", cwd=tmp_path)
        assert "mine.py:5" in told
        assert "nothing_of_this_name" in told
        assert "2 errors" in told


@pytest.mark.install
def test_pytest_runs_in_a_bare_checkout(fresh_environment: Callable[[], Any], clean_copy: Callable[..., Path]) -> None:
    checkout = clean_copy()
    tests = ["tests/core/registry/test_entries.py", "tests/end_to_end/test_readme.py"]  # the second starts processes
    told = fresh_environment().run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:maxserve", *tests, cwd=checkout
    )
    assert "passed" in told
