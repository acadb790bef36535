"""Words that the core must not know: names of what plugins bring."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CORE = Path(__file__).parents[2] / "core"
SAMPLERS = ("temperature", "min_tokens", "bad_words")
SCHEDULERS = ("tts",)
APIS = ("openai", "anthropic", "kserve", "sagemaker")
FAMILIES = ("deepseek",)


@pytest.mark.parametrize("word", [*SAMPLERS, *SCHEDULERS, *APIS, *FAMILIES])
def test_the_core_has_no_word_of_it(word: str) -> None:
    named = re.compile(rf"(?<![a-z]){word}(?![a-z])", re.IGNORECASE)
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(CORE.rglob("*.py"))}
    found = [
        f"{path.relative_to(CORE)}:{number}: {line.strip()}"
        for path, text in texts.items()
        if named.search(text)
        for number, line in enumerate(text.splitlines(), 1)
        if named.search(line)
    ]
    assert not found, "\n".join(found)
