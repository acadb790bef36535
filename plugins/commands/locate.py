"""File and line of a declaration, found without importing it."""

from __future__ import annotations

import ast
import sys
from importlib import util
from pathlib import Path

from maxserve.interfaces.component import Ref
from maxserve.registry import where


def locate(ref: Ref) -> str:
    """ "file:line" where that is cheap to find out, else "module:attribute" as it was declared."""
    module, _, attribute = where(ref).partition(":")
    file = _file(module)
    if file is None:
        return where(ref)
    line = _line(file, attribute.partition(".")[0])
    return str(file) if line is None else f"{file}:{line}"


def declared(path: str, name: str) -> str:
    """ "file:line" of the call in a plugin's file that has `name="..."`, else the file; empty if there is none."""
    file = Path(path)
    if file.suffix != ".py" or not file.is_file():
        return path
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Call) and any(_says(keyword, name) for keyword in node.keywords):
            return f"{file}:{node.lineno}"
    return path


def _says(keyword: ast.keyword, name: str) -> bool:
    return keyword.arg == "name" and isinstance(keyword.value, ast.Constant) and keyword.value.value == name


def _file(module: str) -> Path | None:
    """The source file of a module; None when finding out would import a package that is not imported yet."""
    if module in sys.modules:
        file: str | None = vars(sys.modules[module]).get("__file__")  # what is part of the interpreter has none
        return Path(file) if file else None
    parent = module.rpartition(".")[0]
    if parent and parent not in sys.modules:
        return None
    spec = util.find_spec(module)
    return Path(spec.origin) if spec is not None and spec.origin and spec.has_location else None


def _line(file: Path, name: str) -> int | None:
    """The line of a class, function or variable at the top of a file."""
    if file.suffix != ".py":
        return None
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return node.lineno
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return node.lineno
    return None
