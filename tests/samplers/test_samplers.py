"""The built-in samplers conform and do what transformers' own warpers do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maxserve.core.interfaces.sampler import Rows, SamplerContext
from maxserve.samplers import min_p, temperature, top_k, top_p
from maxserve.samplers.allowed_token_ids import AllowedTokenIds
from maxserve.samplers.bad_words import BadWords
from maxserve.samplers.frequency_penalty import FrequencyPenalty
from maxserve.samplers.logit_bias import LogitBias
from maxserve.samplers.min_p import MinP
from maxserve.samplers.min_tokens import MinTokens
from maxserve.samplers.presence_penalty import PresencePenalty
from maxserve.samplers.repetition_penalty import RepetitionPenalty
from maxserve.samplers.temperature import Temperature
from maxserve.samplers.top_k import TopK
from maxserve.samplers.top_p import TopP
from maxserve.testing.sampler import SamplerChecks

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


class TestFrequencyPenalty(SamplerChecks):
    sampler = "frequency_penalty"
    cases = (FrequencyPenalty(0.5), FrequencyPenalty(-2.0), FrequencyPenalty(2.0))
    bad = tuple({"frequency_penalty": value} for value in (-2.1, 2.1, float("nan"), float("inf")))


class TestPresencePenalty(SamplerChecks):
    sampler = "presence_penalty"
    cases = (PresencePenalty(0.5), PresencePenalty(-2.0), PresencePenalty(2.0))
    bad = tuple({"presence_penalty": value} for value in (-2.1, 2.1, float("nan"), float("inf")))


class TestRepetitionPenalty(SamplerChecks):
    sampler = "repetition_penalty"
    cases = (RepetitionPenalty(1.3), RepetitionPenalty(0.5), RepetitionPenalty(1e-30))
    bad = tuple({"repetition_penalty": value} for value in (0.0, -1.0, float("nan"), float("inf")))


class TestLogitBias(SamplerChecks):
    sampler = "logit_bias"
    cases = (LogitBias({"3": 5, "96": -100.0}), LogitBias({4: 1.5}), LogitBias({"5": False, "6": 100}))
    bad = tuple({"logit_bias": value} for value in ({"x": 1}, {"-1": 1}, {"1": 100.5}, {"1": True}, {"1": "2"}, [1]))


class TestMinTokens(SamplerChecks):
    sampler = "min_tokens"
    cases = (MinTokens(1), MinTokens(3), MinTokens(50))
    bad = tuple({"min_tokens": value} for value in (-1, 1.5, True, "1"))


class TestBadWords(SamplerChecks):
    sampler = "bad_words"
    cases = (BadWords(bad_words_ids=[[5], [6, 7]]), BadWords(bad_words_ids=[[9]]))
    bad = ({"bad_words": [""]}, {"bad_words": "no"}, {"bad_words_ids": [[]]}, {"bad_words_ids": [[-1]]})


class TestAllowedTokenIds(SamplerChecks):
    sampler = "allowed_token_ids"
    cases = (AllowedTokenIds([0, 4, 4, 96]), AllowedTokenIds([0]))
    bad = tuple({"allowed_token_ids": value} for value in ([], [-1], [True], "12"))


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


@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0, 9.0])
@pytest.mark.parametrize("reach", [0.0, 2**-13, 0.5, 0.875, 1 - 2**-16])  # as they are in float32
def test_the_nucleus_of_a_large_vocabulary(spread: float, reach: float) -> None:
    """The same tokens as transformers keeps; of a tie at the border anyone, as long as so many stay."""
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(5, 20_000, generator=generator, dtype=torch.float64) * spread
    logits[1, 7:] = -torch.inf
    logits[2, ::3] = -torch.inf
    logits[3] += 1000.0
    theirs = warper("TopPLogitsWarper", reach)(torch.zeros(5, 1, dtype=torch.long), logits.clone())
    result = ours(top_p.build, TopP(reach), logits)
    if spread:
        assert torch.equal(result.isfinite(), theirs.isfinite())
        assert torch.equal(result[result.isfinite()], theirs[theirs.isfinite()])
    else:
        counts = (result.isfinite().sum(-1) - theirs.isfinite().sum(-1)).abs()
        assert counts.max() <= 1, "equal tokens add up to the reach, or miss it by a rounding"


def test_a_nucleus_beside_rows_that_want_none_and_rows_that_allow_nothing() -> None:
    logits = torch.randn(4, 20_000, generator=torch.Generator().manual_seed(1))
    logits[2] = -torch.inf
    rows = Rows([{TopP: TopP(reach)} for reach in (1.0, 0.3, 0.5, 0.3)], [], [], logits.device)
    transform = top_p.build(CONTEXT)
    state = transform.prepare(rows)
    assert state is not None
    result = transform.apply(logits.clone(), state)
    assert torch.equal(result[0], logits[0])
    assert not result[2].isfinite().any()
    alone = ours(top_p.build, TopP(0.3), logits[3:])
    assert torch.equal(result[3:], alone)
    assert 0 < result[1].isfinite().sum() < 20_000


def test_rows_with_different_params_are_served_in_one_call() -> None:
    logits, params = random_logits(9)[:3], [TopK(1), TopK(-1), TopK(4)]
    transform = top_k.build(CONTEXT)
    rows = Rows([{TopK: each} for each in params], [], [], logits.device)
    state = transform.prepare(rows)
    assert state is not None
    kept = transform.apply(logits.clone(), state).isfinite().sum(-1)
    assert kept.tolist() == [1, VOCAB, 4]


def test_temperature_zero_asks_for_the_likeliest_token() -> None:
    rows = Rows([{Temperature: Temperature(0.0)}, {}, {Temperature: Temperature(0.5)}], [], [], torch.device("cpu"))
    assert temperature.build(CONTEXT).greedy(rows) == [True, False, False]
