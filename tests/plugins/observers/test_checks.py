"""Every observer that comes with maxserve passes the checks of observers."""

from __future__ import annotations

from maxserve.testing import ObserverChecks


class TestLog(ObserverChecks):
    observer = "log"


class TestPrometheus(ObserverChecks):
    observer = "prometheus"
