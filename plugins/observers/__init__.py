"""Sinks of statistics: Prometheus series with their route, and a line in the log."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.observer import Observer
from maxserve.interfaces.routes import Routes


@hookimpl
def maxserve_observers() -> Iterable[Observer]:
    yield Observer(
        name="prometheus",
        build="maxserve.plugins.observers.prometheus:Prometheus",
        summary="series for dashboards, named like vLLM's and MAX's",
    )
    yield Observer(
        name="log",
        build="maxserve.plugins.observers.log:LogLine",
        summary="a line every few seconds while there is work",
    )


@hookimpl
def maxserve_routes() -> Iterable[Routes]:
    yield Routes(
        name="metrics",
        build="maxserve.plugins.observers.metrics:router",
        prefix="/",
        default=True,
        summary="/metrics for Prometheus",
    )
