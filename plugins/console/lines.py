"""The start of a server in lines of its log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import IO

from maxserve.interfaces.engine import ModelInfo

log = logging.getLogger("maxserve.server")


class LinesDisplay:
    """A line per phase, and one every `interval` seconds while it takes long."""

    relay: Callable[[IO[bytes]], None] | None = None

    def __init__(self, *, interval: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._clock = clock
        self._text = ""
        self._last = clock()

    def phase(self, text: str) -> None:
        self._text = text
        self._last = self._clock()
        log.info("%s", text)

    def advance(self, fraction: float) -> None:
        if fraction < 1 and self._clock() - self._last >= self._interval:
            self._last = self._clock()
            log.info("%s: %.0f %%", self._text, 100 * fraction)

    def clear(self) -> None:
        """Lines stay."""

    def ready(self, info: ModelInfo, url: str, *, local: bool) -> None:
        announce(info, url, local=local)


def announce(info: ModelInfo, url: str, *, local: bool) -> None:
    """Logs what is served and where."""
    rows = {
        "model": info.name,
        "architecture": info.architecture,
        "parameters": f"{info.parameters / 1e6:,.1f} million",
        "weights": info.dtype,
        "device": info.device,
        "max length": f"{info.max_length:,} tokens",
    }
    log.info("serving\n%s", "\n".join(f"  {name:<13} {value}" for name, value in rows.items()))
    log.info("Server ready on %s (Press CTRL+C to quit)", url)
    if local:
        log.info("only this machine can reach it; --host 0.0.0.0 opens it to the network")
