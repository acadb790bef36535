"""A Prometheus histogram that takes many values at once."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

LABELS = ("model_name",)


class Tally(Collector):
    """One distribution, shown under each of `names`. One thread owns it.

    A request brings the time between all of its tokens: counting them one by one in prometheus_client's own histogram,
    whose every value takes a lock, cost more than making their text.
    """

    def __init__(self, names: Sequence[str], text: str, edges: Sequence[float], model: str) -> None:
        self._names = names
        self._text = text
        self._edges = tuple(map(float, edges))
        self._model = model
        self._counts = [0] * (len(edges) + 1)  # the last is for what is beyond every edge
        self._sum = 0.0

    def observe(self, *values: float) -> None:
        """Counts each value in the first bucket whose edge is not below it."""
        edges, counts = self._edges, self._counts
        for value in values:
            counts[bisect_left(edges, value)] += 1
        self._sum += sum(values)

    def advance(self, counts: Sequence[int], total: float) -> None:
        """Counts values that were put into the buckets elsewhere."""
        self._counts = [own + new for own, new in zip(self._counts, counts, strict=True)]
        self._sum += total

    def collect(self) -> Iterable[HistogramMetricFamily]:
        buckets = list(self._buckets())
        for name in self._names:
            family = HistogramMetricFamily(name, self._text, labels=LABELS)
            family.add_metric([self._model], buckets, self._sum)
            yield family

    def _buckets(self) -> Iterator[tuple[str, float]]:
        """Edge and how many values are not beyond it, as text and number."""
        below = 0
        for edge, count in zip((*self._edges, "+Inf"), self._counts, strict=True):
            below += count
            yield str(edge), below
