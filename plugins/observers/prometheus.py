"""Statistics as Prometheus series."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from maxserve.interfaces.observer import ObserverContext, RequestStats, ResponseStats, StepStats
from maxserve.plugins.observers.replicas import ReplicaSeries
from maxserve.plugins.observers.series import (
    AdapterInfo,
    CacheInfo,
    Family,
    RequestSeries,
    ResponseSeries,
    StepCounters,
    StepGauges,
    StepTallies,
)


class Prometheus:
    """Keeps the series of one server, in a registry of its own."""

    def __init__(self, context: ObserverContext) -> None:
        self._registry = CollectorRegistry()
        self._model = context.model
        families = (
            Family(registry=self._registry, prefix="vllm:", model=context.model),
            Family(registry=self._registry, prefix="maxserve_", model=context.model),
        )
        self._gauges = StepGauges(*families)
        self._counters = StepCounters(*families)
        self._requests = RequestSeries(*families)
        self._responses = ResponseSeries(self._registry)
        self._steps = StepTallies(*families)
        self._adapters = AdapterInfo(*families)
        self._cache = CacheInfo(families[0], context.max_length)
        self._replicas = ReplicaSeries(self._registry, context.model)
        self._seen: dict[str, float] = {}
        self._latest: StepStats | None = None  # not in the series yet: who scrapes is rare, and steps are many

    def text(self) -> bytes:
        """Everything, as Prometheus scrapes it."""
        self._settle()
        return generate_latest(self._registry)

    def on_step(self, stats: StepStats) -> None:
        if self._latest is not None and _is_from_another_worker(stats, self._latest):
            self._settle()
        self._latest = stats
        if stats.replicas:
            self._replicas.on_step(stats.replicas)

    def _settle(self) -> None:
        """Brings the series up to the latest step."""
        if self._latest is None:
            return
        stats, self._latest = self._latest, None
        gauges, cache = self._gauges, stats.cache
        for gauge in gauges.running:
            gauge.set(stats.running)
        for gauge in gauges.waiting:
            gauge.set(stats.waiting + stats.deferred)
        gauges.waiting_for_room.set(stats.waiting)
        gauges.deferred.set(stats.deferred)
        for gauge in gauges.usage:
            gauge.set(cache.owned / cache.total if cache.total else 0.0)
        gauges.used.set(cache.owned)
        gauges.total.set(cache.total)
        gauges.host_used.set(cache.host_cached)
        gauges.host_total.set(cache.host_total)
        self._cache.show(stats)
        self._adapters.show(stats)
        self._replicas.settle()
        self._count(stats)

    def on_request(self, stats: RequestStats) -> None:
        series, model = self._requests, self._model
        series.count.labels(model, str(stats.status), stats.route).inc()
        if stats.status >= 400:
            return
        series.success.labels(model, stats.finish).inc()
        if stats.queue_to_first_token is not None:
            series.first_token.observe(stats.queue_to_first_token)
        series.between.observe(*stats.inter_token)
        series.whole.observe(stats.total)
        series.prompt.observe(stats.prompt_tokens)
        series.generated.observe(stats.generated_tokens)
        series.choices.observe(stats.n)
        if stats.max_tokens is not None:
            series.limit.observe(stats.max_tokens)
        if stats.queue is not None and stats.prefill is not None and stats.decode is not None:
            self._phases(stats, stats.queue, stats.prefill, stats.decode)

    def on_response(self, stats: ResponseStats) -> None:
        route, series = stats.route or "none", self._responses
        series.count.labels(stats.method, f"{stats.status // 100}xx", route).inc()
        series.time.labels(stats.method, route).observe(stats.total)

    def _phases(self, stats: RequestStats, queue: float, prefill: float, decode: float) -> None:
        series = self._requests
        series.queue.observe(queue)
        series.prefill.observe(prefill)
        series.decode.observe(decode)
        series.inference.observe(prefill + decode)
        series.preemptions.observe(stats.preemptions)
        if stats.generated_tokens > 1:
            series.per_token.observe(decode / (stats.generated_tokens - 1))

    def _count(self, stats: StepStats) -> None:
        """A worker counts from its own start: a number smaller than the one before means that it is a new one."""
        now: dict[str, float] = {name: getattr(stats, name) for name in self._counters.by_field}
        now["host_hits"] = stats.cache.host_hits
        now |= {f"accepted {depth}": count for depth, count in enumerate(stats.accepted_by_depth)}
        now |= {f"series {name}": value for name, value in stats.series}
        grown = {name: new - self._seen.get(name, 0) for name, new in now.items()}
        restarted = any(amount < 0 for amount in grown.values())
        if restarted:
            grown = now
        self._seen = now
        self._steps.advance(stats, restarted=restarted)
        for name, counters in self._counters.by_field.items():
            for counter in counters:
                counter.inc(grown[name])
        for depth in range(len(stats.accepted_by_depth)):
            self._counters.accepted(depth).inc(grown[f"accepted {depth}"])
        self._counters.host_hits.inc(grown["host_hits"])
        for name, _ in stats.series:
            self._counters.of_plugin(name).inc(grown[f"series {name}"])
        missed = grown["prefix_queries"] - grown["prefix_hits"]
        self._counters.misses.inc(max(missed, 0))


def _is_from_another_worker(now: StepStats, before: StepStats) -> bool:
    """Whether one of the totals is smaller than it was."""
    return any(new < old for new, old in zip(_totals(now), _totals(before), strict=True))


def _totals(stats: StepStats) -> tuple[int, ...]:
    return stats.steps, stats.prompt_tokens, stats.generated_tokens, stats.preemptions, stats.cache.host_hits
