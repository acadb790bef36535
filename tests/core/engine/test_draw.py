"""The draw takes tokens with the probabilities that the logits say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maxserve.core.engine.draw import Pipeline, Stage, inverse_cdf, likeliest
from maxserve.core.engine.sequence import Sequence
from maxserve.core.engine.step import INVALID
from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.interfaces.sampler import Rows
from maxserve.samplers.temperature import Temperature, TemperatureTransform

CPU = torch.device("cpu")


def sequence(seed: int | None = None, temperature: float = 1.0) -> Sequence:
    request = Request(id="r", prompt=(1,), params=SamplingParams(seed=seed))
    return Sequence(request, limit=10, ends=frozenset(), params={Temperature: Temperature(temperature)})


def test_frequencies_follow_the_softmax() -> None:
    torch.manual_seed(0)
    logits = torch.randn(12) * 2
    logits[3] = -torch.inf
    uniforms = torch.from_numpy((np.arange(200_000) + 0.5) / 200_000)
    drawn = inverse_cdf(logits.expand(len(uniforms), -1), uniforms)
    frequencies = torch.bincount(drawn, minlength=12) / len(uniforms)
    assert torch.allclose(frequencies, logits.double().softmax(-1).float(), atol=2e-5)
    assert frequencies[3] == 0


def test_a_masked_token_is_never_drawn_at_the_borders() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    for uniform in (0.0, 0.5 - 1e-12, 0.5, 1 - 1e-12):
        assert inverse_cdf(logits, torch.tensor([uniform], dtype=torch.float64)).item() in (1, 3)


def test_greedy_and_drawn_rows_share_a_step() -> None:
    pipeline = Pipeline([Stage.of("temperature", TemperatureTransform(), keeps_argmax=True)], CPU)
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
    rows = [sequence(temperature=0.0), sequence(seed=5), sequence(seed=5), sequence(temperature=0.0)]
    tokens = pipeline.draw(logits, rows)[0].tolist()
    assert tokens[0] == logits[0].argmax().item()
    assert tokens[3] == logits[3].argmax().item()
    alone = pipeline.draw(logits[1:2], [sequence(seed=5)])[0].tolist()
    assert tokens[1] == alone[0]


@pytest.mark.parametrize("temperatures", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.0, 1.0, 0.0)])
def test_rows_without_a_choice_are_invalid(temperatures: tuple[float, ...]) -> None:
    pipeline = Pipeline([Stage.of("temperature", TemperatureTransform(), keeps_argmax=True)], CPU)
    logits = torch.tensor([[0.0, -torch.inf, -torch.inf]]).repeat(3, 1)
    logits[0] = -torch.inf
    logits[1, 2] = torch.nan
    rows = [sequence(temperature=temperature) for temperature in temperatures]
    assert pipeline.draw(logits, rows)[0].tolist() == [INVALID, INVALID, 0]


def test_observers_hear_of_the_tokens() -> None:
    heard: list[object] = []

    class Listener:
        def prepare(self, rows: object) -> None:
            return None

        def apply(self, logits: torch.Tensor, state: None) -> torch.Tensor:
            raise AssertionError("it was not asked for")

        def observe(self, rows: object, tokens: object) -> None:
            heard.append(tokens)

    pipeline = Pipeline([Stage.of("listener", Listener(), keeps_argmax=False)], CPU)
    logits = torch.tensor([[0.0, 50.0]])
    assert pipeline.draw(logits, [sequence()])[0].tolist() == [1]
    assert heard == [[1]]


class Owners:
    """A stage that looks at whose rows it gets."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int | None]] = []

    def prepare(self, rows: Rows) -> None:
        self.seen = [(owner.id, owner.seed) for owner in rows.owners]

    def apply(self, logits: torch.Tensor, state: None) -> torch.Tensor:
        return logits


def test_stages_see_whose_rows_they_get() -> None:
    owners = Owners()
    requests = [Request(id=id, prompt=(1, 2), params=SamplingParams(seed=seed)) for id, seed in (("a", 3), ("b", None))]
    sequences = [Sequence(request, limit=9, ends=frozenset(), params={}) for request in requests]
    Pipeline([Stage.of("owners", owners, keeps_argmax=False)], CPU).prepare(sequences)
    assert owners.seen == [("a", 3), ("b", None)]


@pytest.mark.parametrize("rows", [1, 7])
def test_the_likeliest_token_is_the_first_of_the_highest_logits(rows: int) -> None:
    logits = torch.randint(-3, 3, (rows, 50), generator=torch.Generator().manual_seed(rows)).float()
    best, tokens = likeliest(logits)
    assert best.tolist() == [max(row) for row in logits.tolist()]
    assert tokens.tolist() == [row.index(max(row)) for row in logits.tolist()]
