"""What `maxserve.v1` promised: the packages and the public names of that release, against the core of today.

A frozen file is never changed to please a new core. Until 1.0 is released `python tools/public_names.py --freeze` and a
copy of examples/ renew both.
"""

from __future__ import annotations

import json
import shutil
from importlib import import_module, util
from pathlib import Path
from typing import Any

import pytest

from tests.examples.test_examples import EXAMPLES

V1 = Path(__file__).parent / "v1"
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "architecture": "acme_llm",
    "cache_policy": "dear_prefixes",
    "grammar_backend": "choice_tree",
    "quantization_format": "three_levels",
    "routes": "next_token",
    "sampler": "sigma_sampler",
    "scheduler": "shortest_first",
    "speculator": "pair_lookup",
}
FROZEN = json.loads((V1 / "names.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def names() -> Any:
    """tools/public_names.py."""
    spec = util.spec_from_file_location("public_names", ROOT / "tools" / "public_names.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_package_is_tried() -> None:
    assert {folder.name for folder in V1.iterdir() if folder.is_dir()} == set(PACKAGES)


def _files(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*.py")}


# What is still as the example of today is tried with that, where it is installed: tests/examples/test_examples.py.
TRIED_THERE = {name for name in PACKAGES if _files(V1 / name) == _files(ROOT / "examples" / name)} & {*EXAMPLES}


@pytest.fixture(scope="module")
def tried(forked_pytest: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Each package as if it were installed, by itself: its tests ask the registries for what it declares."""
    names = [name for name in PACKAGES if name not in TRIED_THERE]
    runs = [_run_of(name, tmp_path_factory.mktemp(name)) for name in names]
    return dict(zip(names, forked_pytest(runs), strict=True))


def _run_of(name: str, folder: Path) -> dict[str, Any]:
    module = PACKAGES[name]
    info = folder / "site" / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[maxserve.v1]\n{module} = {module}\n")
    package = shutil.copytree(V1 / name, folder / name)  # away from the conftest of our own tests
    options = ["-q", "--import-mode=importlib", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    args = [*options, str(package / "tests")]
    return {"cwd": str(folder), "path": [str(package), str(info.parent)], "args": args}


@pytest.mark.timeout(900)  # the first waits for all
@pytest.mark.parametrize("name", sorted({*PACKAGES} - TRIED_THERE))
def test_a_package_of_v1_loads_builds_and_passes(name: str, tried: dict[str, Any]) -> None:
    assert tried[name]["status"] == 0, tried[name]["output"]
    assert " passed" in tried[name]["output"]


def test_no_hook_disappears_or_loses_an_argument(names: Any) -> None:
    today = names.hooks()
    assert {
        hook: [a for a in today.get(hook, ()) if a in arguments] for hook, arguments in FROZEN["hooks"].items()
    } == (FROZEN["hooks"])


@pytest.mark.parametrize("module", FROZEN["names"])
def test_no_name_disappears_or_changes(names: Any, module: str) -> None:
    """Fields and methods stay as they were; a new field has a default, and a Protocol gets nothing new to implement."""
    loaded = import_module(module)
    for name, frozen in FROZEN["names"][module].items():
        assert hasattr(loaded, name), f"{module}.{name} is gone"
        found = getattr(loaded, name)
        today = list(names.parts(found))
        assert [line for line in frozen if line not in today] == [], f"{module}.{name} changed"
        new = [line for line in today if line not in frozen]
        if getattr(found, "_is_protocol", False):
            assert new == [], f"{module}.{name} asks for more"
        assert [line for line in new if ": " in line.partition("(")[0] and " = " not in line] == [], f"{module}.{name}"


def test_the_page_of_public_names_is_current(names: Any) -> None:
    assert names.PAGE.read_text(encoding="utf-8") == names.page(), "run python tools/public_names.py"


@pytest.mark.parametrize(
    ("module", "name", "part"),
    [
        ("maxserve.testing", "SpeculatorChecks", "speculator: ClassVar[str]"),
        ("maxserve.testing", "DraftHeadQuirkChecks", "reference(folder: Path) -> HeadReference"),
        ("maxserve.interfaces.config", "UsedBy", "'scheduler'"),
    ],
)
def test_what_bases_without_an_entry_give_is_promised_too(names: Any, module: str, name: str, part: str) -> None:
    """A plugin's author sets it, wherever it is written; and values of a Literal are what may be given."""
    assert part in FROZEN["names"][module][name]
    assert part in names.parts(getattr(import_module(module), name))
