"""What a scheduler is given and fills: who runs in the next step?"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from maxserve.core.interfaces import Context
from maxserve.core.nouns import CacheSizes, Limits, Turns


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerContext(Context):
    limits: Limits
    turns: Turns = field(default_factory=Turns)


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

    def add(self, sequence: SequenceView, tokens: int, *, whole: bool = False) -> int:
        """Plans up to `tokens` tokens of a sequence; returns how many were granted, 0 if none.

        `whole`: all of its `todo` or nothing, and the first such sequence may exceed the token budget.
        """
        ...

    def add_each(self, sequences: Iterable[SequenceView], tokens: int) -> None:
        """`add` for each of many, in order: the cheap way to give everyone who decodes a token."""
        ...

    def preempt(self, sequence: SequenceView) -> None:
        """Takes the pages of a running sequence; it waits again, first in line, and loses no token."""
        ...


class StepPolicy(Protocol):
    """Decides who runs in the next step. An optional method is found once, at build:

    `idle_until() -> float | None` is asked after a plan that was left empty though work waits: the time, as `view.now`
    tells it, before which there is nothing to ask; None when it was no intention. The policy is asked again then, and
    whenever requests come or go before. Nobody sleeps inside `plan`.
    """

    def plan(self, view: View, plan: Plan) -> None: ...
