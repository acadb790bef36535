"""The log lines about a cache that is too small."""

from __future__ import annotations

import logging
import time

log = logging.getLogger("maxserve.engine")

INTERVAL = 1.0  # seconds between two lines


class CachePressureLog:
    """Logs, once a second at most, that requests lose their pages and are computed twice."""

    def __init__(self) -> None:
        self._logged = float("-inf")

    def preempted(self, count: int, total: int) -> None:
        """`count` requests have just lost theirs, `total` since the start."""
        now = time.monotonic()
        if now - self._logged < INTERVAL:
            return
        self._logged = now
        log.warning(
            "the cache is full: %d requests gave up their pages and will be computed again (%d since the start); give "
            "it more memory with --device-memory-utilization, or lower --max-batch-size or --kvcache-ce-watermark",
            count,
            total,
        )
