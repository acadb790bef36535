from __future__ import annotations

import threading
import time

import pytest

from maxserve.core.text.time_limit import OutOfTime, within


def test_gives_what_the_call_gives() -> None:
    assert within(60, lambda: 7) == 7
    with pytest.raises(KeyError, match="a"):
        within(60, lambda: {}["a"])


def test_a_call_without_end_is_ended() -> None:
    def forever() -> None:
        while True:
            pass

    begun = time.monotonic()
    with pytest.raises(OutOfTime, match=r"it took more than 0\.2 s"):
        within(0.2, forever)
    while any(thread.name == "limited" for thread in threading.enumerate()):
        assert time.monotonic() - begun < 60, "the thread goes on"
        time.sleep(0.05)
