"""Schedulers: who runs in the next step."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

from maxserve.core.interfaces.cache import pages_of
from maxserve.core.interfaces.component import Component, Context

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from maxserve.core.interfaces.cache import CacheSizes
    from maxserve.core.interfaces.component import Ref


__all__ = ["Limits", "Plan", "Scheduler", "SchedulerContext", "SequenceView", "StepCost", "StepPolicy", "View", "Work"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler(Component):
    """Who runs next. `build(SchedulerContext)` gives a StepPolicy.

    `honours` names the options up to schedulers (`Option(used_by="scheduler")`), of the core or of plugins, that this
    one acts on, by Python name: the others are refused beside it. `max_started` takes a Context with the plugin's
    settings and gives how many sequences may hold pages at once, where those are more than a batch holds; else None.
    `params` is a frozen dataclass as that of a Sampler: its fields become request fields while this scheduler is the
    chosen one, and policies read them with `SequenceView.params`. One that does not `chunks_prompts` runs every prompt
    whole, whatever is chosen. `priorities`: it keeps to the order of `View.waiting`, by priority; else requests that
    have one are refused. With `mixes_prompts` off, no prompt is ever planned beside those who decode, whatever is
    chosen. `cost(Context)` gives the StepCost by which plans know what steps take.
    """

    kind: ClassVar[str] = "scheduler"

    honours: tuple[str, ...] = ()
    max_started: Ref | None = None
    params: Ref | None = None
    chunks_prompts: bool = True
    mixes_prompts: bool = True
    priorities: bool = False
    cost: Ref = "maxserve.scheduling:WorkCost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a step may hold, decided at start from the settings, the model and the memory plan.

    `max_started` sequences may hold pages at once when a scheduler wants more of them than fit into one batch.
    `page_bounds`: the most pages that a sequence holds at once, by group of layers; None where it has no bound.
    `mixed_step_seconds`: how long a step in which sequences decode shall take at most for the prompts beside them; None
    where tokens alone bound it. `Plan.seconds` and `Plan.most` tell what steps take.
    """

    max_batch_size: int
    max_batch_input_tokens: int
    max_batch_total_tokens: int | None
    max_length: int
    page_size: int
    pages: int
    chunked_prefill: bool = True
    in_flight_batching: bool = False
    watermark: float = 0.95
    prompt_regimes: tuple[int, ...] = ()  # see ModelSpec
    max_started: int | None = None
    page_bounds: tuple[int | None, ...] = (None,)
    mixed_step_seconds: float | None = None

    def pages_of(self, tokens: int) -> int:
        """Pages that a sequence of so many tokens holds at most."""
        return pages_of(tokens, self.page_size, self.page_bounds)

    @property
    def rows(self) -> int:
        """Rows of the cache: one for each sequence that holds pages."""
        return max(self.max_batch_size, self.max_started or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerContext(Context):
    limits: Limits


P = TypeVar("P")


class SequenceView(Protocol):
    """A sequence as a policy sees it; read-only."""

    @property
    def id(self) -> str: ...
    @property
    def todo(self) -> int:
        """Tokens to compute before the next one can be drawn; what the prefix cache holds is not counted."""
        ...

    @property
    def length(self) -> int:
        """Prompt and generated tokens so far."""
        ...

    @property
    def prompt_length(self) -> int: ...
    @property
    def cached(self) -> int:
        """Tokens of its beginning that were found in the prefix cache, or would be if it started now."""
        ...

    @property
    def max_tokens(self) -> int | None:
        """The most tokens that it generates; None where only the model's length ends it."""
        ...

    def params(self, cls: type[P]) -> P:
        """What the request gave for the scheduler's own request fields, a `Scheduler.params`; else its defaults."""
        ...

    @property
    def generated(self) -> int:
        """Generated tokens that are known; holds its last value when the sequence is over."""
        ...

    @property
    def started(self) -> bool:
        """Holds pages: part of its prompt is computed."""
        ...

    @property
    def waited(self) -> float:
        """Seconds since it arrived."""
        ...

    @property
    def user(self) -> str: ...
    @property
    def priority(self) -> int: ...


class View(Protocol):
    """What a policy may look at: who decodes, who waits, how full the cache is.

    Those who wait come in this order: started ones, then by `priority`, the lowest number first, then by arrival.

    Each sequence read from `waiting` or `waiting_of` costs a search of the prefix cache; the rest costs nothing.
    """

    @property
    def running(self) -> Sequence[SequenceView]: ...
    @property
    def waiting(self) -> Iterable[SequenceView]: ...
    @property
    def waiting_count(self) -> int: ...
    @property
    def joined(self) -> Sequence[SequenceView]: ...  # who began to wait since the last plan, some of them anew

    @property
    def waiting_users(self) -> Collection[str]: ...
    def waiting_of(self, user: str) -> Iterable[SequenceView]: ...
    @property
    def cache(self) -> CacheSizes: ...
    @property
    def now(self) -> float: ...


class Plan(Protocol):
    """What a policy fills; it checks and clips, so that the worst a policy can do is be unfair."""

    @property
    def tokens_left(self) -> int: ...
    @property
    def rows_left(self) -> int: ...  # sequences that may still join the running ones
    @property
    def size(self) -> int:
        """Sequences planned so far."""
        ...

    @property
    def seconds(self) -> float:
        """About how long what is planned so far will take, by what the steps before took; 0 before there was any."""
        ...

    def most(self, sequence: SequenceView, seconds: float) -> int:
        """How many of its tokens, beside what is planned, fit into a step of so many seconds; `add` may grant fewer.

        An estimate, which is learned from the steps as they are run: it is small at first, and grows.
        """
        ...

    def add(self, sequence: SequenceView, tokens: int, *, whole: bool = False) -> int:
        """Plans up to `tokens` tokens of a sequence; returns how many were granted, 0 if none.

        `whole`: all of its `todo` or nothing, and the first such sequence may exceed the token budget.
        """
        ...

    def add_each(self, sequences: Iterable[SequenceView], tokens: int) -> None:
        """`add` for each of many, in order: the cheap way to give all that decode a token."""

    def preempt(self, sequence: SequenceView) -> None:
        """Takes the pages of a running sequence; it waits again, first in line, and loses no token."""


class StepPolicy(Protocol):
    """Decides who runs in the next step. An optional method is found once, at build:

    `idle_until() -> float | None` is asked after a plan that was left empty though work waits: the time, as `view.now`
    tells it, before which there is nothing to ask; None when it was no intention. The policy is asked again then, and
    whenever requests come or go before. `plan` never sleeps.
    """

    def plan(self, view: View, plan: Plan) -> None: ...


@dataclass(frozen=True, slots=True)
class Work:
    """What a step computes: tokens, the tokens of context that are read, and the pairs that attention looks at."""

    tokens: int = 0
    context: int = 0
    pairs: int = 0

    @classmethod
    def of(cls, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> Work:
        """Sequence i computes its tokens `starts[i]` … `stops[i]` - 1."""
        counts = stops - starts
        pairs = (counts * (starts + stops + 1)).sum() // 2
        return cls(int(counts.sum()), int(stops.sum()), int(pairs))

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.context + other.context, self.pairs + other.pairs)


class StepCost(Protocol):
    """Learns what steps take from those that were run. One thread owns it."""

    def wants(self, number: int, *, draws: bool, decodes: bool) -> bool:
        """Whether to learn from step `number`, in which some draw a token, or all draw and none computes a prompt."""
        ...

    def learn(self, work: Work, seconds: float) -> None:
        """Notes what a step took."""

    def seconds(self, work: Work) -> float:
        """About how long a step takes that computes this; 0 before any was run."""
        ...

    def most(self, beside: Work, start: int, seconds: float) -> int:
        """How many tokens of a sequence, after its first `start`, fit into a step of `seconds` with what is in it."""
        ...
