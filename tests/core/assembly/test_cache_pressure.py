from __future__ import annotations

import logging

import pytest

from maxserve.core.assembly.cache_pressure import INTERVAL, CachePressureLog


def test_lost_pages_are_told_once_a_second(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    told = CachePressureLog()
    with caplog.at_level(logging.WARNING, logger="maxserve.engine"):
        told.preempted(2, 2)
        told.preempted(1, 3)
        now += INTERVAL
        told.preempted(4, 7)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(" requests")[0] for line in lines] == ["the cache is full: 2", "the cache is full: 4"]
    assert "(7 since the start)" in lines[1]
