"""Bounds on what one rendering of a chat template may do: templates come with the model, and some never end.

Steps of loops and calls are counted, and texts may not grow without end: jinja2's sandbox bounds neither.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jinja2

MOST_STEPS = 20_000_000
MOST_SECONDS = 60.0
LONGEST_TEXT = 1 << 27  # characters
LONGEST_LIST = 1 << 22
LONGEST_GROWN = 1 << 18  # items of a list that grows by one at a time, as one does that is looped over meanwhile
WIDEST = 1 << 20  # to which a text may be filled up
_CHECK_EVERY = 1 << 14


class TemplateOverrun(jinja2.TemplateError):
    """A template did more than one rendering may."""


@dataclass(slots=True)
class _Budget:
    steps: int
    deadline: float
    check_at: int

    def spend(self, count: int) -> None:
        self.steps -= count
        if self.steps > self.check_at:
            return
        self.check_at = self.steps - _CHECK_EVERY
        if self.steps < 0:
            raise TemplateOverrun("it takes too many steps; it may loop without end")
        if time.monotonic() > self.deadline:
            raise TemplateOverrun("it takes too long; it may loop without end")


_current: ContextVar[_Budget | None] = ContextVar("template_budget", default=None)


@contextmanager
def budget(steps: int | None = None, seconds: float = MOST_SECONDS) -> Iterator[None]:
    """Bounds what templates do inside of it, on this thread."""
    most = MOST_STEPS if steps is None else steps
    token = _current.set(_Budget(most, time.monotonic() + seconds, most - _CHECK_EVERY))
    try:
        yield
    finally:
        _current.reset(token)


def spend(count: int = 1) -> None:
    """Counts steps; TemplateOverrun when there were too many."""
    if (current := _current.get()) is not None:
        current.spend(count)


def counted(values: Any) -> Any:
    """What a loop goes through, counted beforehand."""
    try:
        count = len(values)
    except TypeError:
        values = list(values)
        count = len(values)
    spend(count + 1)
    return values


def measured(text: str) -> str:
    """A text that was put together; TemplateOverrun when it is longer than any prompt."""
    check_length(len(text))
    return text


def check_length(length: int, kind: Any = "") -> None:
    """TemplateOverrun for a text, or a list where `kind` is one, that is longer than any prompt needs."""
    if length > (LONGEST_TEXT if isinstance(kind, str) else LONGEST_LIST):
        raise TemplateOverrun(f"it makes a text or list of length {length}")


def check_growth(length: int) -> None:
    """TemplateOverrun for a list that has grown by so many items, one at a time."""
    if length > LONGEST_GROWN:
        raise TemplateOverrun(f"it makes a list of more than {LONGEST_GROWN} items, one by one")


def check_width(width: Any) -> None:
    """TemplateOverrun for a number of characters that no template fills up a text to."""
    if isinstance(width, int) and width > WIDEST:
        raise TemplateOverrun(f"it fills a text up to {width} characters")
