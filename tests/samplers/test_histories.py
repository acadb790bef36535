"""Transforms that look at what came before, beside transformers' processors and float64 formulas."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from maxserve.core.interfaces.sampler import Rows, SamplerContext
from maxserve.samplers import (
    allowed_token_ids,
    bad_words,
    frequency_penalty,
    logit_bias,
    min_tokens,
    presence_penalty,
    repetition_penalty,
)
from maxserve.samplers.allowed_token_ids import AllowedTokenIds
from maxserve.samplers.bad_words import BadWords
from maxserve.samplers.frequency_penalty import FrequencyPenalty
from maxserve.samplers.logit_bias import LogitBias
from maxserve.samplers.min_tokens import MinTokens
from maxserve.samplers.presence_penalty import PresencePenalty
from maxserve.samplers.repetition_penalty import RepetitionPenalty

VOCAB, PROMPT, ROWS = 60, 20, 8
CPU = torch.device("cpu")
CONTEXT = SamplerContext(vocab_size=VOCAB, device=CPU)


def histories(seed: int, generated: int = 30) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, VOCAB, (ROWS, PROMPT + generated))


def logits(seed: int) -> torch.Tensor:
    return torch.randn(ROWS, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def ours(module: Any, wish: Any, tokens: Sequence[Any], values: torch.Tensor, ends: Sequence[int] = ()) -> torch.Tensor:
    transform = module.build(CONTEXT)
    rows = Rows(
        [{type(wish): wish}] * len(values), tokens, [PROMPT] * len(values), CPU, [frozenset(ends)] * len(values)
    )
    state = transform.prepare(rows)
    result: torch.Tensor = values.clone() if state is None else transform.apply(values.clone(), state)
    return result


def theirs(name: str, *args: Any, tokens: np.ndarray[Any, Any], values: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    import transformers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        processor = getattr(transformers, name)(*args, **kwargs)
        result: torch.Tensor = processor(torch.from_numpy(tokens), values.clone())
    return result


@pytest.mark.parametrize("penalty", [0.3, 0.9, 1.2, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_repetition_penalty_is_that_of_transformers(penalty: float, seed: int) -> None:
    tokens, values = histories(seed), logits(seed)
    expected = theirs("RepetitionPenaltyLogitsProcessor", penalty, tokens=tokens, values=values)
    torch.testing.assert_close(ours(repetition_penalty, RepetitionPenalty(penalty), tokens, values), expected)


@pytest.mark.parametrize("penalty", [-2.0, 0.4, 2.0])
def test_frequency_and_presence_count_the_answer_and_not_the_prompt(penalty: float) -> None:
    tokens, values = histories(1), logits(1)
    counts = torch.stack([torch.bincount(torch.from_numpy(row[PROMPT:]), minlength=VOCAB) for row in tokens]).double()
    frequency = ours(frequency_penalty, FrequencyPenalty(penalty), tokens, values)
    torch.testing.assert_close(frequency.double(), values.double() - penalty * counts, rtol=1e-5, atol=1e-5)
    presence = ours(presence_penalty, PresencePenalty(penalty), tokens, values)
    torch.testing.assert_close(presence.double(), values.double() - penalty * (counts > 0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("generated", [0, 4, 5, 6])
def test_no_end_before_min_tokens_as_in_transformers(generated: int) -> None:
    tokens, values = histories(2, generated), logits(2)
    expected = theirs("MinNewTokensLengthLogitsProcessor", PROMPT, 5, [3, 7], tokens=tokens, values=values)
    result = ours(min_tokens, MinTokens(5), tokens, values, ends=(3, 7))
    torch.testing.assert_close(result, expected)


def test_ends_outside_the_vocabulary_are_no_ones_logits() -> None:
    values = logits(3)
    result = ours(min_tokens, MinTokens(99), histories(3), values, ends=(3, VOCAB, 10**9))
    assert torch.isinf(result).sum() == ROWS


@pytest.mark.parametrize("seed", range(4))
def test_bad_words_are_those_of_transformers(seed: int) -> None:
    tokens, values = histories(seed), logits(seed)
    words = [[5], [int(tokens[0, -1]), 9], [*map(int, tokens[1, -3:]), 11], [*map(int, tokens[2, -4:-1]), 12]]
    expected = theirs("NoBadWordsLogitsProcessor", words, eos_token_id=None, tokens=tokens, values=values)
    result = ours(bad_words, BadWords(bad_words_ids=words), tokens, values)
    torch.testing.assert_close(result, expected)
    assert torch.isinf(result[:2]).sum(-1).tolist() == [2, 2]


def test_a_history_shorter_than_the_word() -> None:
    values = logits(0)[:1]
    result = ours(bad_words, BadWords(bad_words_ids=[[1, 2, 3, 4]]), [np.array([2, 3])], values)
    torch.testing.assert_close(result, values)


def test_logit_bias_is_sequence_bias_of_single_tokens() -> None:
    tokens, values = histories(5), logits(5)
    bias = {(3,): 5.0, (59,): -100.0, (7,): 0.25}
    expected = theirs("SequenceBiasLogitsProcessor", bias, tokens=tokens, values=values)
    wish = LogitBias({str(ids[0]): value for ids, value in bias.items()})
    torch.testing.assert_close(ours(logit_bias, wish, tokens, values), expected)


def test_false_bans_a_token() -> None:
    result = ours(logit_bias, LogitBias({"4": False, "5": 0}), histories(0), logits(0))
    assert torch.isinf(result).nonzero()[:, 1].unique().tolist() == [4]


def test_only_allowed_tokens_keep_their_logits() -> None:
    values = logits(6)
    result = ours(allowed_token_ids, AllowedTokenIds([2, 40]), histories(6), values)
    torch.testing.assert_close(result[:, [2, 40]], values[:, [2, 40]])
    assert torch.isinf(result).sum() == ROWS * (VOCAB - 2)


@pytest.mark.parametrize(
    "wish", [LogitBias({"60": 1}), AllowedTokenIds([1, 60]), BadWords(bad_words_ids=[[1], [2, 60]])]
)
def test_ids_outside_the_vocabulary_are_named(wish: Any) -> None:
    wish.check_vocabulary(61)
    with pytest.raises(ValueError, match="token id 60 is outside the vocabulary of 60"):
        wish.check_vocabulary(60)


def test_a_ban_of_everything_is_refused() -> None:
    with pytest.raises(ValueError, match="every token"):
        LogitBias({"0": False, "1": False}).check_vocabulary(2)
    with pytest.raises(ValueError, match="every token"):
        BadWords(bad_words_ids=[[0], [1]]).check_vocabulary(2)
