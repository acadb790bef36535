"""Functions stay as small as the style asks; files open with what they are."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

MEDIAN_FUNCTION = 10
NINE_OF_TEN_FUNCTIONS = 30
CORE = 14_000  # lines of code, see docs/decisions/0163
FOR_AN_AFTERNOON = 7_000  # of interfaces, registry and engine: what is read to know how maxserve works
BAD_NAMES = {"utils", "util", "helpers", "helper", "misc", "common", "manager"}


def lines_of_functions(sources: list[Path]) -> list[int]:
    return sorted(
        (node.end_lineno or node.lineno) - node.lineno + 1
        for file in sources
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def test_most_functions_are_short(sources: list[Path]) -> None:
    lines = lines_of_functions(sources)
    assert statistics.median(lines) <= MEDIAN_FUNCTION
    assert lines[len(lines) * 9 // 10] <= NINE_OF_TEN_FUNCTIONS


def lines_of_code(file: Path) -> int:
    """Without docstrings, comments and blank lines."""
    text = file.read_text(encoding="utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    said = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, documented)
        for each in node.body
        if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant) and isinstance(each.value.value, str)
        for line in range(each.lineno, (each.end_lineno or each.lineno) + 1)
    }
    lines = enumerate((line.strip() for line in text.splitlines()), start=1)
    return sum(number not in said and bool(line) and not line.startswith("#") for number, line in lines)


def test_lines_are_counted_without_what_is_said_of_them(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text(
        '"""A module.\n\nOf two lines."""\n\nx = 1  # one\n# two\n\n\ndef f():\n    """Does."""\n    return "a"\n'
    )
    assert lines_of_code(file) == 3


def test_the_core_is_small(packages: dict[str, Path]) -> None:
    core = packages["maxserve.core"]
    by_folder = {
        folder.name: sum(map(lines_of_code, folder.rglob("*.py"))) for folder in core.iterdir() if folder.is_dir()
    }
    assert sum(map(lines_of_code, core.rglob("*.py"))) <= CORE, by_folder
    assert sum(by_folder[name] for name in ("interfaces", "registry", "engine")) <= FOR_AN_AFTERNOON, by_folder


def test_every_module_says_what_it_is(sources: list[Path]) -> None:
    silent = [str(file) for file in sources if file.stat().st_size and not _docstring(file)]
    assert silent == []


def _docstring(file: Path) -> str | None:
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))


def test_no_file_is_called_after_nothing(sources: list[Path]) -> None:
    assert [str(file) for file in sources if file.stem in BAD_NAMES] == []


def test_annotations_are_lazy_everywhere(sources: list[Path]) -> None:
    guilty = []
    for file in sources:
        text = file.read_text(encoding="utf-8")
        only_docstring = len(ast.parse(text).body) <= 1
        if not only_docstring and "from __future__ import annotations" not in text:
            guilty.append(str(file))
    assert guilty == []
