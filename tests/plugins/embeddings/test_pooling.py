"""Pooling, projecting and normalising, against the modules of sentence-transformers."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Dense, Pooling

from maxserve.core.interfaces.errors import ModelError
from maxserve.plugins.embeddings.pooling import Pooling as OurPooling
from maxserve.plugins.embeddings.pooling import Spans
from maxserve.plugins.embeddings.sentence import POOLINGS, Normalize, Recipe
from maxserve.plugins.embeddings.sentence import Dense as DenseStep

LENGTHS, DIM = (3, 1, 7), 6


@pytest.fixture
def hidden() -> torch.Tensor:
    return torch.randn(sum(LENGTHS), DIM, generator=torch.Generator().manual_seed(0))


def spans(skip: int = 0) -> Spans:
    starts = np.array([0, *itertools.accumulate(LENGTHS)])
    return Spans(starts, np.full(len(LENGTHS), skip))


def padded(hidden: torch.Tensor) -> dict[str, Any]:
    """The same as sentence-transformers has it: one row per text, filled up."""
    vectors = torch.nn.utils.rnn.pad_sequence(hidden.split(LENGTHS), batch_first=True)
    mask = torch.arange(max(LENGTHS))[None, :] < torch.tensor(LENGTHS)[:, None]
    return {"token_embeddings": vectors, "attention_mask": mask.long()}


@pytest.mark.parametrize("modes", [*[(mode,) for mode in POOLINGS], ("cls", "mean"), ("max", "lasttoken")])
def test_every_kind_is_that_of_sentence_transformers(hidden: torch.Tensor, modes: tuple[str, ...]) -> None:
    theirs = Pooling(DIM, pooling_mode=modes)(padded(hidden))["sentence_embedding"]
    ours = OurPooling(Recipe(pooling=modes), DIM, torch.device("cpu"))(hidden, spans())
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("mode", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_prompts_may_be_left_out(mode: str) -> None:
    hidden = torch.randn(3 + 4 + 7, DIM, generator=torch.Generator().manual_seed(1))
    lengths, skip = (3, 4, 7), 2
    vectors = torch.nn.utils.rnn.pad_sequence(hidden.split(lengths), batch_first=True)
    mask = torch.arange(7)[None, :] < torch.tensor(lengths)[:, None]
    features = {"token_embeddings": vectors, "attention_mask": mask.long(), "prompt_length": skip}
    theirs = Pooling(DIM, pooling_mode=mode, include_prompt=False)(features)["sentence_embedding"]
    found = Spans(np.array([0, 3, 7, 14]), np.full(3, skip))
    ours = OurPooling(Recipe(pooling=(mode,)), DIM, torch.device("cpu"))(hidden, found)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [torch.nn.Tanh(), torch.nn.Identity(), torch.nn.GELU()])
def test_projections_are_those_of_sentence_transformers(
    hidden: torch.Tensor, tmp_path: Path, bias: bool, activation: torch.nn.Module
) -> None:
    torch.manual_seed(0)
    dense = Dense(DIM, 4, bias=bias, activation_function=activation)
    dense.save(str(tmp_path))
    pooled = hidden.split(LENGTHS)
    sentences = torch.stack([part.mean(0) for part in pooled])
    theirs = torch.nn.functional.normalize(dense({"sentence_embedding": sentences})["sentence_embedding"], dim=-1)
    step = DenseStep(
        weights=str(tmp_path / "model.safetensors"),
        inputs=DIM,
        outputs=4,
        bias=bias,
        activation=type(activation).__name__,
    )
    recipe = Recipe(steps=(step, Normalize()))
    ours = OurPooling(recipe, DIM, torch.device("cpu"))(hidden, spans())
    torch.testing.assert_close(ours, theirs)
    assert recipe.dimension(DIM) == 4
    assert recipe.normalized


def test_a_projection_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    Dense(DIM + 1, 4).save(str(tmp_path))
    step = DenseStep(
        weights=str(tmp_path / "model.safetensors"), inputs=DIM + 1, outputs=4, bias=True, activation="Tanh"
    )
    with pytest.raises(ModelError, match=re.escape("where the pooled vectors need")):
        OurPooling(Recipe(steps=(step,)), DIM, torch.device("cpu"))
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="is damaged"):
        OurPooling(Recipe(steps=(step,)), DIM, torch.device("cpu"))
