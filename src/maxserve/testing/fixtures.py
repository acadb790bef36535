"""Fixtures for tests of plugins: hosts without global state, pretended installations, fresh processes."""

from __future__ import annotations

import importlib
import itertools
import json
import logging
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from maxserve.core.registry.protocol import Host

PARKED = "maxserve_plugins_under_test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a run of `max` ended and what it printed."""

    status: int
    out: str
    err: str


@pytest.fixture
def plugin_host(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Host]:
    """Makes a host of the built-ins and the given plugins: module names, modules, or any object with hooks.

    What is installed besides stays out. Keyword arguments are those of PluginOptions, and `strict`.
    """
    monkeypatch.setattr(sys, "path", list(sys.path))
    parked, numbers = ModuleType(PARKED), itertools.count(1)
    monkeypatch.setitem(sys.modules, PARKED, parked)

    def name(plugin: object) -> str:
        if isinstance(plugin, str):
            return plugin
        if isinstance(plugin, ModuleType) and sys.modules.get(plugin.__name__) is plugin:
            return plugin.__name__
        attribute = f"plugin{next(numbers)}"
        setattr(parked, attribute, plugin)
        return f"{PARKED}:{attribute}"

    def make(*plugins: object, strict: bool = True, **options: Any) -> Host:
        from maxserve.core.registry.host import PluginHost, PluginOptions

        given = {"autoload": False, **options, "plugin": tuple(map(name, plugins))}
        return PluginHost.discover(PluginOptions(**given), strict=strict)

    return make


class PluginFolder:
    """A folder on sys.path that holds modules, and distributions that are installed as far as Python can tell."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def module(self, name: str, text: str) -> Path:
        """Writes a module; dots in its name make packages."""
        *packages, last = name.split(".")
        folder = self.path
        for package in packages:
            folder /= package
            folder.mkdir(exist_ok=True)
            (folder / "__init__.py").touch()
        file = folder / f"{last}.py"
        file.write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        return file

    def distribution(
        self, name: str, version: str, plugins: Mapping[str, str], *, group: str = "maxserve.v1", folder: str = "."
    ) -> None:
        """Pretends that a distribution with these plugins is installed: entry point names and their targets."""
        info = self.path / folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        points = "\n".join(f"{point} = {target}" for point, target in plugins.items())
        (info / "entry_points.txt").write_text(f"[{group}]\n{points}\n")
        importlib.invalidate_caches()


@pytest.fixture
def plugin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PluginFolder]:
    """A folder to put plugins into; what was imported from it is forgotten after the test."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    before = set(sys.modules)
    yield PluginFolder(folder)
    for name in set(sys.modules) - before:
        origin = getattr(sys.modules[name], "__file__", None)
        if origin is not None and Path(origin).is_relative_to(tmp_path):
            del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def max_cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Ran]]:
    """Runs `max` in this process with the given words and environment (none by default)."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def run(*argv: str, environ: Mapping[str, str] | None = None) -> Ran:
        from maxserve.core.cli.run import run

        root.handlers[:] = []  # the command configures logging; pytest's own handlers must not be closed by that
        status = run(argv, environ or {})
        captured = capsys.readouterr()
        return Ran(status=status, out=captured.out, err=captured.err)

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def light_import() -> Callable[..., frozenset[str]]:
    """Runs a statement in a fresh interpreter and returns the names of all modules that are imported then."""

    def run(statement: str, *argv: str) -> frozenset[str]:
        script = f"import json, sys\ntry:\n    {statement}\nexcept SystemExit:\n    pass\n"
        script += "sys.stderr.write('\\n' + json.dumps(sorted(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", script, *argv], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return frozenset(json.loads(done.stderr.rpartition("\n")[2]))

    return run


REBUILD = """
import sys, msgspec
from maxserve.core.interfaces.errors import PluginError
from maxserve.core.registry.protocol import Host
from maxserve.core.registry.host import Manifest, PluginHost
try:
    print(PluginHost.from_manifest(msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Manifest)).fingerprint)
except PluginError as error:
    print("PluginError:", error)
"""


@pytest.fixture
def spawned() -> Callable[[Host], str]:
    """Rebuilds a host in a fresh process from its manifest; returns the fingerprint there, or the error."""

    def rebuild(host: Host) -> str:
        import msgspec

        done = subprocess.run(
            [sys.executable, "-c", REBUILD],
            input=msgspec.msgpack.encode(host.manifest()),
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    return rebuild
