"""What the sources say of themselves. A file is parsed once by each process of the tests, and its tree is not kept."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, slots=True)
class Parsed:
    """`imports`: pairs of a module and the name that is imported of it, which is empty for `import module`.

    `functions`: lines of each. `said`: the numbers of the lines of docstrings, and `docstring` that of the module.
    """

    imports: tuple[tuple[str, str], ...]
    functions: tuple[int, ...]
    said: frozenset[int]
    docstring: str | None
    statements: int  # of the module itself


@cache
def parsed(file: Path) -> Parsed:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imports: list[tuple[str, str]] = []
    functions: list[int] = []
    said: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            imports += ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, DOCUMENTED):
            said.update(line for each in node.body for line in _said(each))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions.append(_lines(node))
    return Parsed(tuple(imports), tuple(functions), frozenset(said), ast.get_docstring(tree), len(tree.body))


def _lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _said(node: ast.stmt) -> range:
    """The lines of a string that is a statement."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return range(node.lineno, node.lineno + _lines(node))
    return range(0)
