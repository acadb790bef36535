"""Observers: sinks of statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from maxserve.core.interfaces.cache import CacheSizes
from maxserve.core.interfaces.component import Component, Context

__all__ = ["BATCH_SIZE_EDGES", "Distribution", "ITERATION_TOKENS_EDGES", "Observer", "ObserverContext"]
__all__ += ["RequestStats", "ResponseStats", "StatsObserver", "StepStats", "SupportsResponses"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observer(Component):
    """A sink of statistics in the API process. `build(ObserverContext)` gives a StatsObserver."""

    kind: ClassVar[str] = "observer"


# Upper edges of the buckets in which a worker counts its steps; a last bucket holds what is beyond them.
ITERATION_TOKENS_EDGES = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


BATCH_SIZE_EDGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class Distribution:
    """How many values were in each bucket, and their sum."""

    counts: tuple[int, ...] = ()
    total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """What the worker says of its state, at most once per step; counters are totals since it started.

    `waiting` wait for their first step, and `deferred` for their grammar before that. `iteration_tokens` are the tokens
    of prompts that steps computed and the tokens they generated, `batch_sizes` the sequences in them. `draft_tokens`
    were verified, in `drafts` groups of a sequence each, and of these `accepted_tokens` stood, `accepted_by_depth[j]`
    with j others before them. `adapters` are those with requests: name, how many run, how many wait; `adapter_slots` is
    how many can be in use at once, `adapters_loaded` how many there are. Where this is of several `replicas` together,
    these are what each of them said last, in order; None: nothing yet. `series` are totals of plugins, each with the
    name of its series.
    """

    time: float
    running: int
    waiting: int
    cache: CacheSizes
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_by_depth: tuple[int, ...] = ()
    steps: int = 0
    deferred: int = 0
    page_size: int = 0
    iteration_tokens: Distribution = Distribution()
    batch_sizes: Distribution = Distribution()
    adapters: tuple[tuple[str, int, int], ...] = ()
    adapter_slots: int = 0
    adapters_loaded: int = 0
    replicas: tuple[StepStats | None, ...] = ()
    series: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStats:
    """One finished request, as the API process measured it; times in seconds.

    `id` is that of the answer and of its header, `model` the name by which it asked for the model, empty where it did
    not say. `started`, `first_token` and `finished` are points in time (time.time()), of which traces can be made;
    `first_token` is None where nothing was generated. `queue` is how long it waited in the worker, `prefill` the time
    from there to its first token, `decode` from that to the last one; None where nothing was generated. `preemptions`
    is how often it lost its pages.
    """

    route: str
    status: int
    prompt_tokens: int
    generated_tokens: int
    cached_tokens: int
    finish: str
    queue_to_first_token: float | None
    total: float
    inter_token: tuple[float, ...] = ()
    n: int = 1
    max_tokens: int | None = None
    queue: float | None = None
    prefill: float | None = None
    decode: float | None = None
    preemptions: int = 0
    id: str = ""
    model: str = ""
    started: float = 0.0
    first_token: float | None = None
    finished: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseStats:
    """One HTTP request that was answered, of whatever route; `total` in seconds, `finished` a time.time().

    `route` is the template of its path, such as `/v1/models/{name:path}`, and empty where no route has the path.
    `status` is the one that was sent, 499 where the client was gone before the end, or 500 where the answer broke off.
    `id` is that of the answer's header.
    """

    id: str
    method: str
    route: str
    status: int
    total: float
    finished: float


class StatsObserver(Protocol):
    """Receives statistics of steps and of requests for text or vectors, in the API process. Must return at once."""

    def on_step(self, stats: StepStats) -> None: ...
    def on_request(self, stats: RequestStats) -> None: ...


@runtime_checkable
class SupportsResponses(Protocol):
    """A StatsObserver that also receives statistics of every HTTP request, of all routes. Must return at once."""

    def on_response(self, stats: ResponseStats) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserverContext(Context):
    """`model` is its name, `max_length` the tokens of its longest sequence."""

    model: str
    max_length: int | None = None
