"""Puts the files that docs/*.md name into the docs: `<!-- file: PATH -->` is followed by that file's code block.

`python tools/docs.py` rewrites; with `--check` it only says what is out of date (exit status 1).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"<!-- file: (?P<path>\S+) -->\n(\n?```.*?\n```\n)?", re.DOTALL)
LANGUAGES = {".py": "python", ".toml": "toml", ".sh": "sh"}


def render(text: str) -> str:
    """The page with every named file's present content."""

    def block(match: re.Match[str]) -> str:
        path = ROOT / match["path"]
        return f"<!-- file: {match['path']} -->\n\n```{LANGUAGES[path.suffix]}\n{path.read_text()}```\n"

    return BLOCK.sub(block, text)


def main() -> int:
    stale = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        before = page.read_text()
        after = render(before)
        if after != before:
            stale.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(after)
    if stale:
        print("out of date:" if "--check" in sys.argv else "rewritten:", ", ".join(stale))
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
