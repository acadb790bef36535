from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from maxserve.core.interfaces.executor import Endpoints
from maxserve.core.runtime.lifeline import encode_start, read_start
from maxserve.core.runtime.messages import Start

STUB = Path(__file__).parent / "stub"
ADDRESSES = Endpoints(requests="ipc:///r", outputs="ipc:///o")


@pytest.fixture
def start_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Start]:
    monkeypatch.syspath_prepend(str(STUB))
    import starts  # type: ignore[import-not-found]

    return starts.start_of  # type: ignore[no-any-return]


def test_start_arrives_as_it_was_and_the_pipe_stays_open(start_of: Callable[..., Start]) -> None:
    start = start_of(ADDRESSES, settings="{}" * 10_000)
    pipe = io.BytesIO()
    pipe.write(encode_start(start))
    pipe.write(b"later")
    pipe.seek(0)
    assert read_start(pipe) == start
    assert pipe.read() == b"later"


def test_an_empty_pipe_says_who_starts_workers() -> None:
    with pytest.raises(EOFError, match="max serve"):
        read_start(io.BytesIO(b"\0\0"))
