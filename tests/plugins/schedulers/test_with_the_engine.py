"""The scheduler and the cache in the real step loop, with a model that is not there: nobody gets stuck or lost."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from maxserve.core.engine.loop import Engine, Parts
from maxserve.core.interfaces import CacheContext, ModelInfo, SchedulerContext
from maxserve.core.nouns import Limits, Request, SamplingParams
from maxserve.plugins.cache.paged import PagedCache
from maxserve.plugins.schedulers.continuous import Continuous

INFO = ModelInfo(
    name="none",
    path="",
    architecture="none",
    max_length=120,
    vocab_size=10,
    eos_token_ids=(),
    dtype="float32",
    device="cpu",
    parameters=0,
    max_batch_size=8,
    created=0,
)


class Nothing:
    """Stands for batch builder, runner and draw: every sequence gets token 1."""

    def build(self, entries: Any) -> Any:
        return entries

    def run(self, batch: Any) -> Any:
        return batch

    def draw(self, logits: Any, sequences: list[Any]) -> list[int]:
        return [1] * len(sequences)


def engine(limits: Limits, *, share: bool = True) -> Engine:
    context = CacheContext(
        layers=(),
        pages=limits.pages,
        page_size=limits.page_size,
        rows=limits.max_batch_size,
        max_length=limits.max_length,
        dtype=torch.float32,
        device=torch.device("cpu"),
        share_prefixes=share,
    )
    nothing: Any = Nothing()
    return Engine(
        Parts(
            info=INFO,
            limits=limits,
            cache=PagedCache(context),
            policy=Continuous(SchedulerContext(limits=limits)),
            policy_name="continuous",
            builder=nothing,
            runner=nothing,
            pipeline=nothing,
            read_params=lambda fields: {},
        )
    )


def request(rng: random.Random, number: int) -> Request:
    length = rng.choice([rng.randint(1, 20), rng.randint(60, 100)])
    prompt = tuple(int(rng.random() < 0.1) for _ in range(length))
    return Request(id=f"r{number}", prompt=prompt, params=SamplingParams(max_tokens=rng.randint(1, 30)))


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("in_flight", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize(("pages", "watermark"), [(40, 0.9), (30, 1.0)])
def test_everyone_gets_all_tokens_from_few_pages(
    share: bool, in_flight: bool, chunked: bool, pages: int, watermark: float
) -> None:
    limits = Limits(
        max_batch_size=8,
        max_batch_input_tokens=64,
        max_batch_total_tokens=None,
        max_length=120,
        page_size=4,
        pages=pages,
        chunked_prefill=chunked,
        in_flight_batching=in_flight,
        watermark=watermark,
    )
    for seed in range(8):
        rng = random.Random(seed)
        subject = engine(limits, share=share)
        wanted: dict[str, int] = {}
        got: dict[str, int] = {}
        for number in range(30):
            one = request(rng, number)
            subject.add(one)
            wanted[one.id] = min(one.params.max_tokens or 0, limits.max_length - len(one.prompt))
            for _ in range(rng.choice([0, 0, 1, 5])):
                _step(subject, got)
        for _ in range(2000):
            if not subject.busy:
                break
            _step(subject, got)
        assert got == wanted
        subject.check()


def _step(subject: Engine, got: dict[str, int]) -> None:
    for output in subject.step():
        assert output.finish != "error", output.error
        got[output.id] = got.get(output.id, 0) + len(output.tokens)
    subject._cache.check()
