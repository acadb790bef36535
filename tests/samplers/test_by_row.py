"""Samplers of a function."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
import torch
from pydantic import Field

from maxserve import by_row
from maxserve.core.interfaces.sampler import Rows, SamplerContext
from maxserve.testing.sampler import SamplerChecks


def cut(logits: torch.Tensor, least: Annotated[float, Field(ge=-50, le=50)] = -50.0, most: int = 9) -> torch.Tensor:
    """Drop what is below, and none of the first `most`."""
    early = torch.arange(logits.shape[-1]) < torch.as_tensor(most)
    return logits.masked_fill((logits < least) & ~early, -torch.inf)


SAMPLER = by_row(cut, stage=7)


class TestCut(SamplerChecks):
    component = SAMPLER
    cases = ({"least": 0.0}, {"least": 1.5, "most": 3}, {"most": 50})
    bad = ({"least": -51.0}, {"least": 51}, {"most": "many"})


def test_it_is_called_as_the_function() -> None:
    assert (SAMPLER.name, SAMPLER.stage) == ("cut", 7)
    assert SAMPLER.summary == "Drop what is below, and none of the first `most`."
    assert by_row(cut, name="other").name == "other"
    assert by_row(cut).params is SAMPLER.params, "a request is known by the class, however often it is declared"


def test_values_are_tensors_by_row() -> None:
    params: Any = SAMPLER.params
    build: Any = SAMPLER.build
    transform = build(SamplerContext(vocab_size=4, device=torch.device("cpu")))
    given = [{params: params(least=2.0, most=1)}, {}]
    state = transform.prepare(Rows(given, [], [0, 0], torch.device("cpu")))
    assert state["least"].tolist() == [[2.0], [-50.0]]
    assert state["most"].tolist() == [[1], [9]]
    found = transform.apply(torch.ones(2, 4), state)
    assert found.tolist() == [[1.0, -torch.inf, -torch.inf, -torch.inf], [1.0] * 4]


def test_what_is_refused_names_the_field() -> None:
    params: Any = SAMPLER.params
    with pytest.raises(ValueError, match=r"least: .*less than or equal to 50, got 51\.0"):
        params(least=51.0)
