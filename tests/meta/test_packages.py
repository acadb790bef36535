"""What ships: every package is listed, every public name is there."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path

import maxserve


def test_every_folder_with_code_is_a_package(sources: list[Path]) -> None:
    assert [str(file) for file in sources if not (file.parent / "__init__.py").is_file()] == []


def test_public_names_are_complete_and_there() -> None:
    assert len(maxserve.__all__) == len(set(maxserve.__all__))
    for name in maxserve.__all__:
        assert getattr(maxserve, name) is not None
    public = {name for name in vars(maxserve) if not name.startswith("_")}
    own = {name for name in public if not isinstance(vars(maxserve)[name], type(importlib))}
    assert own - {"annotations", "TYPE_CHECKING", "Any"} <= set(maxserve.__all__)


def test_everything_that_can_be_declared_is_public() -> None:
    from maxserve.core.registry.kinds import KINDS

    assert {kind.component.__name__ for kind in KINDS} <= set(maxserve.__all__)


def test_both_commands_lead_to_one_function(root: Path) -> None:
    with (root / "pyproject.toml").open("rb") as file:
        scripts = tomllib.load(file)["project"]["scripts"]
    assert scripts["max"] == scripts["maxserve"]
    module, _, function = scripts["max"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
