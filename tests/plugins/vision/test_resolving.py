"""Names that the system's resolver takes its time for."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from maxserve.plugins.vision import resolving
from maxserve.plugins.vision.resolving import addresses_of


def lookups() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "maxserve-resolver"]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The resolver says nothing before the event is set."""
    let = threading.Event()

    def resolve(host: str, port: int, **_: object) -> list[object]:
        let.wait(20)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(resolving.socket, "getaddrinfo", resolve)
    yield let
    let.set()
    for thread in lookups():
        thread.join(5)


def test_addresses() -> None:
    assert (socket.AF_INET, ("127.0.0.1", 80)) in addresses_of("127.0.0.1", 80, 5.0)


def test_an_unknown_name(answering: threading.Event) -> None:
    answering.set()
    with pytest.raises(OSError, match="not known"):
        addresses_of("nowhere.invalid", 80, 5.0)


def test_a_resolver_that_does_not_answer(answering: threading.Event) -> None:
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        addresses_of("slow.example", 80, 0.1)
    assert time.monotonic() - begun < 5


def test_a_name_may_not_take_all_the_time_of_an_image(
    answering: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolving, "LONGEST", 0.1)
    with pytest.raises(TimeoutError):
        addresses_of("slow.example", 80, 600.0)


def test_waiting_lookups_are_bounded(answering: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "_lookups", threading.BoundedSemaphore(2))
    for _ in range(5):
        with pytest.raises(TimeoutError):
            addresses_of("slow.example", 80, 0.05)
    waiting = lookups()
    assert len(waiting) <= 2
    answering.set()
    for thread in waiting:
        thread.join(5)
    with pytest.raises(OSError, match="not known"):
        addresses_of("slow.example", 80, 5.0)
