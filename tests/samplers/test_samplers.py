"""The built-in samplers conform and do what transformers' own warpers do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maxserve.core.interfaces import SamplerContext
from maxserve.core.nouns import Rows
from maxserve.core.testing.sampler import SamplerChecks
from maxserve.samplers import min_p, temperature, top_k, top_p
from maxserve.samplers.min_p import MinP
from maxserve.samplers.temperature import Temperature
from maxserve.samplers.top_k import TopK
from maxserve.samplers.top_p import TopP

VOCAB = 300
CONTEXT = SamplerContext(vocab_size=VOCAB, device=torch.device("cpu"))


class TestTemperature(SamplerChecks):
    sampler = "temperature"
    cases = (Temperature(0.1), Temperature(0.7), Temperature(2.0))
    bad = ({"temperature": -0.1}, {"temperature": 2.1}, {"temperature": float("nan")}, {"temperature": float("inf")})


class TestTopK(SamplerChecks):
    sampler = "top_k"
    cases = (TopK(1), TopK(5), TopK(96))
    bad = ({"top_k": -2},)


class TestTopP(SamplerChecks):
    sampler = "top_p"
    cases = (TopP(0.0), TopP(0.3), TopP(0.95))
    bad = ({"top_p": -0.1}, {"top_p": 1.1}, {"top_p": float("nan")})


class TestMinP(SamplerChecks):
    sampler = "min_p"
    cases = (MinP(0.05), MinP(0.9), MinP(1.0))
    bad = ({"min_p": -0.1}, {"min_p": 1.1}, {"min_p": float("nan")})


def ours(build: Any, params: Any, logits: torch.Tensor) -> torch.Tensor:
    transform = build(CONTEXT)
    rows = Rows([{type(params): params}] * len(logits), [], [], logits.device)
    result: torch.Tensor = transform.apply(logits.clone(), transform.prepare(rows))
    return result


def random_logits(seed: int) -> torch.Tensor:
    """In float64, so that no token changes sides of a threshold by rounding."""
    return torch.randn(64, VOCAB, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def warper(name: str, value: float) -> Any:
    """transformers' counterpart."""
    import transformers

    return getattr(transformers, name)(value)


SAME = [
    (temperature.build, Temperature, "TemperatureLogitsWarper", (0.1, 0.5, 1.3, 2.0)),
    (top_k.build, TopK, "TopKLogitsWarper", (1, 2, 40, 299)),
    (top_p.build, TopP, "TopPLogitsWarper", (0.01, 0.5, 0.9, 0.999)),
    (min_p.build, MinP, "MinPLogitsWarper", (0.01, 0.1, 0.5, 1.0)),
]


@pytest.mark.parametrize(
    ("build", "params", "name", "value"),
    [(build, params, name, value) for build, params, name, values in SAME for value in values],
)
def test_the_distribution_is_that_of_transformers(build: Any, params: Any, name: str, value: float) -> None:
    for seed in range(4):
        logits = random_logits(seed)
        theirs = warper(name, value)(torch.zeros(len(logits), 1, dtype=torch.long), logits.clone())
        result = ours(build, params(value), logits)
        torch.testing.assert_close(result.softmax(-1), theirs.softmax(-1), rtol=1e-5, atol=1e-8)


def test_rows_with_different_wishes_are_served_in_one_call() -> None:
    logits, wishes = random_logits(9)[:3], [TopK(1), TopK(-1), TopK(4)]
    transform = top_k.build(CONTEXT)
    rows = Rows([{TopK: wish} for wish in wishes], [], [], logits.device)
    state = transform.prepare(rows)
    assert state is not None
    kept = transform.apply(logits.clone(), state).isfinite().sum(-1)
    assert kept.tolist() == [1, VOCAB, 4]


def test_temperature_zero_asks_for_the_likeliest_token() -> None:
    rows = Rows([{Temperature: Temperature(0.0)}, {}, {Temperature: Temperature(0.5)}], [], [], torch.device("cpu"))
    assert temperature.build(CONTEXT).greedy(rows) == [True, False, False]
