from __future__ import annotations

from maxserve.testing import SchedulerChecks


class TestShortestFirst(SchedulerChecks):
    scheduler = "shortest-first"
