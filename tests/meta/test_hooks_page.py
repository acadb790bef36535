"""docs/hooks.md tells the truth, and every hook has a test called after it."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from maxserve.core import hookspecs
from maxserve.core.registry.contracts import _members
from maxserve.core.registry.kinds import KINDS, Kind

HOOKS: dict[str, FunctionType] = {
    name: value for name, value in vars(hookspecs).items() if name.startswith("maxserve_")
}


@pytest.fixture(scope="module")
def parts(root: Path) -> dict[str, str]:
    """The page, one text per hook, by the line that heads it."""
    page = (root / "docs" / "hooks.md").read_text(encoding="utf-8")
    return {text.partition("\n")[0].strip("`"): text for text in re.split(r"^### ", page, flags=re.MULTILINE)[1:]}


def head(name: str) -> str:
    """A hook with its true signature."""
    return f"{name}{inspect.signature(HOOKS[name])}".replace("'", "")


def test_every_hook_is_on_the_page_in_its_order(parts: dict[str, str]) -> None:
    assert [text.partition("(")[0] for text in parts] == list(HOOKS)


@pytest.mark.parametrize("name", HOOKS)
def test_signature_and_sentence_are_the_true_ones(parts: dict[str, str], name: str) -> None:
    assert head(name) in parts
    sentence = (HOOKS[name].__doc__ or "").partition("\n")[0]
    assert sentence
    assert sentence in parts[head(name)]


@pytest.mark.parametrize("name", HOOKS)
def test_it_says_when_and_where(parts: dict[str, str], name: str) -> None:
    assert "*When*: " in parts[head(name)]
    assert "*Where*: " in parts[head(name)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_it_says_what_to_build(parts: dict[str, str], kind: Kind) -> None:
    """Each method and attribute of what a build gives, by its true signature."""
    part = parts[head(kind.hook)]
    assert "*Build*: " in part
    for name, member in ({} if kind.builds is None else _members(kind.builds)).items():
        arguments = list(inspect.signature(member).parameters)[1:] if inspect.isfunction(member) else None
        shown = name if arguments is None else f"{name}({', '.join(arguments)})"
        assert f"`{shown}`" in part, f"{kind.hook}: {shown} is not explained"


@pytest.mark.parametrize("name", HOOKS)
def test_example_is_a_plugin(parts: dict[str, str], name: str, plugin_folder: Any, plugin_host: Any) -> None:
    blocks = re.findall(r"```python\n(.*?)```", parts[head(name)], re.DOTALL)
    assert len(blocks) == 1
    plugin_folder.module("example_of_the_page", blocks[0])
    host = plugin_host("example_of_the_page")
    (plugin,) = [plugin for plugin in host.plugins if plugin.name == "example_of_the_page"]
    assert plugin.hooks == (name,)


@pytest.mark.parametrize("name", HOOKS)
def test_hookspec_has_a_docstring_with_an_example(name: str) -> None:
    assert "Example: ``" in (HOOKS[name].__doc__ or "")


def test_every_hook_has_a_test(root: Path) -> None:
    tree = ast.parse((root / "tests" / "core" / "test_hooks.py").read_text(encoding="utf-8"))
    tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {f"test_{name}" for name in HOOKS} <= tests
