"""Series of each replica, where a server has several."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from maxserve.interfaces.observer import StepStats

PREFIX = "maxserve_replica_"
STATES = {
    "requests_running": "Requests that run in a replica",
    "requests_waiting": "Requests that wait in a replica",
    "kv_cache_usage": "Share of a replica's pages in use",
}
TOTALS = {
    "prompt_tokens": "Prompt tokens that a replica computed or found in its cache",
    "generated_tokens": "Tokens that a replica generated",
    "prefix_hits": "Prompt tokens that a replica found in its cache",
    "preemptions": "Requests of a replica that gave their pages up for others",
}


class ReplicaSeries:
    """What each replica says, brought up to date by `settle`."""

    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        names = ("model_name", "replica")
        self._model = model
        self._running, self._waiting, self._usage = (
            Gauge(PREFIX + name, help, names, registry=registry) for name, help in STATES.items()
        )
        self._totals = {name: Counter(PREFIX + name, help, names, registry=registry) for name, help in TOTALS.items()}
        self._latest: dict[int, StepStats] = {}
        self._settled: dict[int, StepStats] = {}  # what the counters have of the worker that the replica has now

    def on_step(self, replicas: Sequence[StepStats | None]) -> None:
        """What each replica said last, if it has said something."""
        for replica, stats in enumerate(replicas):
            if stats is None:
                continue
            latest = self._latest.get(replica)
            if latest is not None and stats.steps < latest.steps:  # another worker
                self._settle(replica, latest)
                del self._settled[replica]
            self._latest[replica] = stats

    def settle(self) -> None:
        for replica, stats in self._latest.items():
            self._settle(replica, stats)

    def _settle(self, replica: int, stats: StepStats) -> None:
        labels = (self._model, str(replica))
        self._running.labels(*labels).set(stats.running)
        self._waiting.labels(*labels).set(stats.waiting + stats.deferred)
        self._usage.labels(*labels).set(stats.cache.owned / stats.cache.total if stats.cache.total else 0.0)
        before = self._settled.get(replica)
        for name, counter in self._totals.items():
            counter.labels(*labels).inc(getattr(stats, name) - (0 if before is None else getattr(before, name)))
        self._settled[replica] = stats
