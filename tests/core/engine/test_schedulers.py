"""No text shows which scheduler planned its steps, nor how the steps are run."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from maxserve.core.interfaces.request import Output, Request, SamplingParams
from maxserve.plugins.schedulers.tts import Config

VOCAB = 211
Run = Callable[..., dict[str, list[Output]]]

SCHEDULERS: dict[str, dict[str, Any]] = {
    "fair": {"scheduler": "fair"},
    "fair, in flight": {"scheduler": "fair", "in_flight": True, "tokens": 24},
    "tts": {"scheduler": "tts"},
    "tts, first decode": {
        "scheduler": "tts",
        "tts": Config(enable_prioritize_first_decode=True, min_batch_size_tg=3),
    },
    "tts, more than a batch": {"scheduler": "tts", "rows": 3, "tts": Config(max_queue_size_tg=7)},
    "tts, delay": {"scheduler": "tts", "tts": Config(ce_delay_ms=2.0)},
}
MODES: dict[str, dict[str, Any]] = {
    "a step at a time": {},
    "several steps": {"steps": 4},
    "overlap": {"overlap": True},
    "small cache": {"pages": 13},
    "small cache, several steps": {"pages": 13, "steps": 4},
    "small cache, overlap": {"pages": 13, "overlap": True},
}


def requests() -> list[Request]:
    rng = random.Random(4)
    shared = tuple(rng.randrange(VOCAB) for _ in range(40))
    found = []
    for number in range(24):
        own = tuple(rng.randrange(VOCAB) for _ in range(rng.randrange(1, 60)))
        params = SamplingParams(max_tokens=rng.randrange(1, 40), fields={"temperature": {"temperature": 0.0}})
        found.append(Request(id=str(number), prompt=own, params=params, user=rng.choice("abc")))
        if number % 2:
            found[-1] = replace(found[-1], prompt=shared + own)
    return found


def texts(make_engine: Any, run: Run, **options: Any) -> dict[str, tuple[list[int], str | None]]:
    engine = make_engine(**options)
    for request in requests():
        engine.add(request)
    return {id: ([t for o in found for t in o.tokens], found[-1].finish) for id, found in run(engine).items()}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_texts_are_those_of_continuous(
    make_engine: Any, run: Run, scheduler: dict[str, Any], mode: dict[str, Any]
) -> None:
    assert texts(make_engine, run, **scheduler, **mode) == texts(make_engine, run)
