from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from maxserve.core.runtime import logs


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    quiet = {name: logging.getLogger(name).level for name in logs.QUIET}
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    for name, before in quiet.items():
        logging.getLogger(name).setLevel(before)


def test_prefix_stands_before_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(logging.INFO, "node-1")
    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("maxserve.x").exception("two\nlines")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 4
    assert all(line.startswith("node-1 ") for line in lines)


def test_no_prefix_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(logging.INFO)
    logging.getLogger("maxserve.x").info("hello")
    assert capsys.readouterr().err.endswith("INFO    hello\n")


def test_libraries_are_quiet_unless_debugging(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    library = logging.getLogger("httpx")
    for name, value in {"propagate": True, "disabled": False, "handlers": []}.items():
        monkeypatch.setattr(library, name, value)  # whatever a server in this process made of it
    logs.configure(logging.INFO)
    library.info("GET /secret")
    assert capsys.readouterr().err == ""
    logs.configure(logging.DEBUG)
    library.info("GET /secret")
    assert "GET /secret" in capsys.readouterr().err


def test_level_is_kept_when_only_the_prefix_changes(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(logging.WARNING)
    logs.configure(prefix="p")
    logging.getLogger("maxserve.x").info("unheard")
    logging.getLogger("maxserve.x").warning("heard")
    assert [line[-5:] for line in capsys.readouterr().err.splitlines()] == ["heard"]
