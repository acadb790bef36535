from __future__ import annotations

import pytest

from maxserve.core.interfaces.process import ProcessInfo


def test_callbacks_run_once_the_last_first() -> None:
    process, calls = ProcessInfo(kind="worker", rank=1), []
    process.on_exit(lambda: calls.append("first"))
    process.on_exit(lambda: calls.append("second"))
    process.exit()
    process.exit()
    assert calls == ["second", "first"]


def test_a_failing_callback_does_not_keep_others_from_running() -> None:
    process, calls = ProcessInfo(kind="server"), []
    process.on_exit(lambda: calls.append("ran"))
    process.on_exit(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        process.exit()
    assert calls == ["ran"]
