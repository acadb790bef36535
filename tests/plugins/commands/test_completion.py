"""What a shell is told when it asks for the rest of a word."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

WORDS = [
    (("max", "serve", "--task", "emb"), ["embeddings_generation"]),
    (("max", "serve", "--task", "=", "emb"), ["embeddings_generation"]),
    (("max", "serve", "--scheduler", "=", "fair", "--cache-strategy", "=", "p"), ["paged"]),
    (("max", "serve", "--help", "specu"), ["speculative"]),
    (("max", "list", "grammar"), ["grammar-backends"]),
    (("max", "plugins", "new", "sched"), ["scheduler"]),
    (("max", "serve", "--max-leng"), ["--max-length"]),
]


def asked(words: tuple[str, ...]) -> list[str]:
    """What is said of the last word, as bash asks."""
    env = {**os.environ, "_MAX_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words)}
    env["COMP_CWORD"] = str(len(words) - 1)
    done = subprocess.run([sys.executable, "-m", "maxserve"], env=env, capture_output=True, text=True, check=True)
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("words", "found"), WORDS, ids=lambda value: " ".join(value))
def test_the_last_word_is_completed(words: tuple[str, ...], found: list[str]) -> None:
    assert asked(words) == found


def test_models_and_files_are_completed_by_the_shell() -> None:
    env = {**os.environ, "_MAX_COMPLETE": "bash_complete", "COMP_CWORD": "3"}
    for option, kind in (("--model", "dir"), ("--config-file", "file")):
        env["COMP_WORDS"] = f"max serve {option} ./x"
        done = subprocess.run([sys.executable, "-m", "maxserve"], env=env, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == f"{kind},./x"


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_behind_an_equals_sign(tmp_path: Path) -> None:
    """The line of the README, in a real shell, which takes words apart at = before it asks."""
    (tmp_path / "max").write_text(f'#!/bin/sh\nexec {sys.executable} -m maxserve "$@"\n')
    (tmp_path / "max").chmod(0o755)
    script = """
    eval "$(_MAX_COMPLETE=bash_source max)"
    COMP_WORDS=(max serve --task = emb); COMP_CWORD=4; COMPREPLY=()
    _max_completion max
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["embeddings_generation"]
