"""Code in docs is the content of files that other tests run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_named_files_are_shown_as_they_are() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "docs.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_every_file_named_in_the_docs_exists() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for line in page.read_text().splitlines():
            if line.startswith("<!-- file: "):
                assert (ROOT / line.split()[2]).is_file(), f"{page.name} names {line.split()[2]}"


def test_every_decision_is_a_page_with_a_title_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    pages = sorted(page.name for page in folder.glob("*.md") if page.name != "README.md")
    index = (folder / "README.md").read_text()
    assert [page[:4] for page in pages] == [f"{number:04}" for number in range(1, len(pages) + 1)]
    for page in pages:
        title = (folder / page).read_text().partition("\n")[0].removeprefix("# ")
        assert f"[{page[:4]}]({page}): {title}\n" in index


ELSEWHERE = ("foreign_suites.md", "write_a_plugin.md")  # name files of other projects and of a plugin to be


def test_every_path_named_in_the_docs_exists() -> None:
    named = re.compile(r"`((?:core|plugins|architectures|samplers|src|tests|tools|examples|docs|benchmarks)/[\w/.]*)`")
    pages = [page.relative_to(ROOT) for page in (ROOT / "docs").glob("*.md") if page.name not in ELSEWHERE]
    for page in ("CONTRIBUTING.md", "README.md", *pages):
        missing = [path for path in named.findall((ROOT / page).read_text()) if not (ROOT / path).exists()]
        assert missing == [], str(page)


def test_the_path_of_a_chat_is_as_short_as_it_is_said_to_be() -> None:
    """At most 15 files in, 10 in the step and 7 out, each of them there, with a sentence."""
    page = (ROOT / "docs" / "structure.md").read_text()
    section = page.partition("## The files of a chat, counted\n")[2].partition("\n## ")[0]
    entry = re.compile(r"^(\d+)\. `([\w/.]+)`: .+[.]$", re.MULTILINE)
    ways = re.split(r"^(?:In|The step|Out), .+:$", section, flags=re.MULTILINE)[1:]
    found = [entry.findall(way) for way in ways]
    for entries, most in zip(found, (15, 10, 7), strict=True):
        assert [int(number) for number, _ in entries] == list(range(1, len(entries) + 1))
        assert 3 <= len(entries) <= most
        assert [path for _, path in entries if not (ROOT / path).is_file()] == []
