"""What the replicas of a model say of their state, added up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from itertools import chain, zip_longest
from typing import Any

from maxserve.interfaces.cache import CacheSizes
from maxserve.interfaces.observer import Distribution, StepStats

AS_LATEST = frozenset({"time", "page_size", "replicas"})
BY_NAME = frozenset({"series"})
AS_MOST = frozenset({"adapter_slots", "adapters_loaded"})  # each replica has the same ones; all other fields are sums


class ReplicaStats:
    """Adds up what replicas say. Totals go on over workers that died, as if they were those of one that did not."""

    def __init__(self, replicas: int) -> None:
        self._latest: list[StepStats | None] = [None] * replicas
        self._gone: list[StepStats] = []  # the last ones of workers that are no more

    def add(self, number: int, stats: StepStats) -> StepStats:
        """The sum over all replicas, now that this one says something new, with what each said last."""
        before = self._latest[number]
        if before is not None and before.steps > stats.steps:
            self._gone = [_sum([*self._gone, _without_state(before)])]
        self._latest[number] = stats
        others = [each for i, each in enumerate(self._latest) if each is not None and i != number]
        return replace(_sum([stats, *others, *self._gone]), replicas=tuple(self._latest))


def _without_state(stats: StepStats) -> StepStats:
    """The totals of a worker that is no more."""
    cache = CacheSizes(total=0, free=0, cached=0, owned=0, host_hits=stats.cache.host_hits)
    return replace(
        stats, running=0, waiting=0, deferred=0, adapters=(), adapter_slots=0, adapters_loaded=0, cache=cache
    )


def _sum(parts: list[StepStats]) -> StepStats:
    """Sums of all fields; what is the same for all, and the time, are those of the first."""
    names = [field.name for field in fields(StepStats) if field.name not in AS_LATEST | BY_NAME]
    values = {name: [getattr(part, name) for part in parts] for name in names}
    sums = {name: max(all_) if name in AS_MOST else _add(all_) for name, all_ in values.items()}
    return replace(parts[0], **sums, series=_by_name(part.series for part in parts))


def _by_name(parts: Iterable[tuple[tuple[str, float], ...]]) -> tuple[tuple[str, float], ...]:
    found: dict[str, float] = {}
    for name, value in chain.from_iterable(parts):
        found[name] = found.get(name, 0) + value
    return tuple(found.items())


def _add(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, CacheSizes):
        return CacheSizes(**{f.name: sum(getattr(v, f.name) for v in values) for f in fields(CacheSizes)})
    if isinstance(first, Distribution):
        return Distribution(_add([v.counts for v in values]), sum(v.total for v in values))
    if not isinstance(first, tuple):
        return sum(values)
    if any(each and isinstance(each[0], tuple) for each in values):  # adapters: name, running, waiting
        found: dict[str, tuple[str, int, int]] = {}
        for name, running, waiting in (entry for value in values for entry in value):
            _, ran, waited = found.get(name, (name, 0, 0))
            found[name] = name, ran + running, waited + waiting
        return tuple(found.values())
    return tuple(map(sum, zip_longest(*values, fillvalue=0)))
