"""docs/write_a_plugin.md, done as it says: its files written, its commands run, in this order, in an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from maxserve.testing.live import READY

PAGE = Path(__file__).resolve().parents[1] / "docs" / "write_a_plugin.md"
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>write|file): (?P<path>\S+) -->\n\n)?```(?P<language>\w*)\n(?P<text>.*?)```\n", re.DOTALL
)
PORT = "8000"


@dataclass(frozen=True, slots=True)
class Block:
    mark: str
    path: str
    language: str
    text: str


def blocks() -> list[Block]:
    return [
        Block(found["mark"] or "", found["path"] or "", found["language"], found["text"])
        for found in BLOCK.finditer(PAGE.read_text())
    ]


def test_every_block_is_one_that_is_run() -> None:
    """Of files of the repository test_docs.py sees to it that they are shown as they are; other tests run them."""
    assert PAGE.read_text().count("```") == 2 * len(blocks())
    for block in blocks():
        assert block.mark or block.language in ("sh", "python"), f"this is not run:\n{block.text}"
        assert block.language in ("sh", "python", "toml")


@pytest.mark.timeout(600)
def test_the_page_can_be_followed(tmp_path: Path, forked_pytest: Any) -> None:
    """Runs of pytest come last, all in forks of one process: nothing that follows on the page needs what they leave."""
    folder = tmp_path / "empty"
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    done, runs = 0, []
    with ExitStack() as servers:
        for block in blocks():
            text = block.text.replace(f"--port {PORT}", f"--port {port}").replace(f":{PORT}/", f":{port}/")
            if block.mark == "write":
                (folder / block.path).write_text(text)
            elif not block.mark and block.language == "python":
                run([sys.executable, "-c", text], folder)
            elif not block.mark:
                for line in text.splitlines():
                    if line.endswith(" &"):
                        servers.enter_context(serving(line.removesuffix(" &"), folder))
                    elif line.startswith("pytest "):
                        args = ["-p", "no:cacheprovider", *shlex.split(line, comments=True)[1:]]
                        runs.append({"cwd": str(folder), "path": [], "args": args})
                    else:
                        run(["bash", "-euc", line], folder)
                    done += 1
    assert done > 8
    assert len(runs) > 2
    for ran in forked_pytest(runs):
        assert ran["status"] == 0, ran["output"]


def environment(folder: Path) -> dict[str, str]:
    """`max` and `python` are those of this run, whatever else is on the path."""
    tools = folder.parent / "tools"
    tools.mkdir(exist_ok=True)
    for name, words in (("max", "-P -m maxserve"), ("python", "")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        (tools / name).chmod(0o700)
    path = os.pathsep.join([str(tools), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"


@contextmanager
def serving(line: str, folder: Path) -> Iterator[None]:
    """What is started with & on the page, until the page is at its end; goes on once the server is ready."""
    process = subprocess.Popen(
        ["bash", "-euc", f"exec {line}"],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = []
        for output in process.stdout:
            said.append(output)
            if READY.search(output):
                break
        else:
            raise AssertionError(f"{line}\n{''.join(said)}")
        yield
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0
