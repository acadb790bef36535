"""A house for policies to plan in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from maxserve.core.interfaces.scheduler import Limits
from maxserve.testing.simulation import Arrival, SimulatedEngine


@pytest.fixture
def house() -> Callable[..., SimulatedEngine]:
    """An engine with sequences of these lengths, called d0, d1 … and p0, p1 …; `users` own the latter."""

    def made(running: list[int], waiting: list[int], *, users: str = "", **changes: Any) -> SimulatedEngine:
        given: dict[str, Any] = {"max_batch_size": 8, "max_batch_input_tokens": 64, "max_batch_total_tokens": None}
        engine = SimulatedEngine(Limits(**(given | {"max_length": 200, "page_size": 4, "pages": 200} | changes)))
        for number, length in enumerate(running):
            engine.place(Arrival(id=f"d{number}", prompt_length=length, end=200), length=length)
        for number, length in enumerate(waiting):
            engine.arrive(Arrival(id=f"p{number}", prompt_length=length, end=200, user=users[number : number + 1]))
        return engine

    return made
