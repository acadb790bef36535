"""Functions stay as small as the style asks; files open with what they are."""

from __future__ import annotations

import statistics
from pathlib import Path

from tests.meta.parsed import parsed

MEDIAN_FUNCTION = 10
NINE_OF_TEN_FUNCTIONS = 30
CORE = 14_000  # lines of code, see docs/decisions/0163
FOR_AN_AFTERNOON = 7_000  # of interfaces, registry and engine: what is read to know how maxserve works
BAD_NAMES = {"utils", "util", "helpers", "helper", "misc", "common", "manager"}


def lines_of_functions(sources: list[Path]) -> list[int]:
    return sorted(lines for file in sources for lines in parsed(file).functions)


def test_most_functions_are_short(sources: list[Path]) -> None:
    lines = lines_of_functions(sources)
    assert statistics.median(lines) <= MEDIAN_FUNCTION
    assert lines[len(lines) * 9 // 10] <= NINE_OF_TEN_FUNCTIONS


def lines_of_code(file: Path) -> int:
    """Without docstrings, comments and blank lines."""
    lines = enumerate((line.strip() for line in file.read_text(encoding="utf-8").splitlines()), start=1)
    said = parsed(file).said
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
    silent = [str(file) for file in sources if file.stat().st_size and not parsed(file).docstring]
    assert silent == []


def test_no_file_is_called_after_nothing(sources: list[Path]) -> None:
    assert [str(file) for file in sources if file.stem in BAD_NAMES] == []


def test_annotations_are_lazy_everywhere(sources: list[Path]) -> None:
    guilty = [
        str(file)
        for file in sources
        if parsed(file).statements > 1 and ("__future__", "annotations") not in parsed(file).imports
    ]
    assert guilty == []
