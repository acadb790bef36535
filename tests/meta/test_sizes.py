"""Functions stay as small as the style asks; files open with what they are."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

MEDIAN_FUNCTION = 10
NINE_OF_TEN_FUNCTIONS = 30
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
