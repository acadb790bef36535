"""The page about parsers is made from the parsers."""

from __future__ import annotations

from pathlib import Path

from maxserve.plugins.parsers.document import document

PAGE = Path(__file__).parents[3] / "docs" / "parsers.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == document(), (
        "run python -m maxserve.plugins.parsers.document > docs/parsers.md"
    )
