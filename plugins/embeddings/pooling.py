"""Vectors of texts, pooled from those of tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from maxserve.interfaces.errors import ModelError
from maxserve.plugins.embeddings.sentence import Dense, Recipe


@dataclass(frozen=True, slots=True)
class Spans:
    """Where in [T, dim] the tokens of each text are, and how many of its first ones are left out."""

    starts: NDArray[np.int64]  # [B+1]
    prompt_prefix: NDArray[np.int64]  # [B]

    def first(self) -> NDArray[np.int64]:
        """The first row that counts; where all of a text would be left out, its first one."""
        lengths = np.diff(self.starts)
        firsts: NDArray[np.int64] = self.starts[:-1] + np.where(self.prompt_prefix < lengths, self.prompt_prefix, 0)
        return firsts

    def last(self) -> NDArray[np.int64]:
        return self.starts[1:] - 1


def _taken(rows: Callable[[Spans], NDArray[np.int64]]) -> Callable[[Tensor, Spans], Tensor]:
    return lambda hidden, spans: hidden[torch.from_numpy(rows(spans)).to(hidden.device)]


def _owners(hidden: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
    """The rows that count, and of which text each is."""
    firsts, ends = spans.first(), spans.starts[1:]
    rows = np.concatenate([np.arange(a, b) for a, b in zip(firsts, ends, strict=True)])
    owners = np.repeat(np.arange(len(ends)), ends - firsts)
    return torch.from_numpy(rows).to(hidden.device), torch.from_numpy(owners).to(hidden.device)


def _sum(hidden: Tensor, spans: Spans, weights: Tensor | None = None) -> Tensor:
    """Sums over the tokens of each text, in float32."""
    rows, owners = _owners(hidden, spans)
    values = hidden.float() if len(rows) == len(hidden) else hidden[rows].float()
    if weights is not None:
        values = values * weights[rows][:, None]
    return values.new_zeros(len(spans.prompt_prefix), hidden.shape[1]).index_add_(0, owners, values)


def _counts(hidden: Tensor, spans: Spans) -> Tensor:
    return torch.from_numpy(spans.starts[1:] - spans.first()).to(hidden.device).float()[:, None]


def _mean(hidden: Tensor, spans: Spans) -> Tensor:
    return _sum(hidden, spans) / _counts(hidden, spans)


def _mean_by_root(hidden: Tensor, spans: Spans) -> Tensor:
    return _sum(hidden, spans) / _counts(hidden, spans).sqrt()


def _weighted_mean(hidden: Tensor, spans: Spans) -> Tensor:
    """The n-th token of a text counts n times."""
    starts = np.repeat(spans.starts[:-1], np.diff(spans.starts))
    weights = torch.from_numpy(np.arange(1, len(hidden) + 1) - starts).to(hidden.device).float()
    rows, owners = _owners(hidden, spans)
    total = weights.new_zeros(len(spans.prompt_prefix)).index_add_(0, owners, weights[rows])
    return _sum(hidden, spans, weights) / total[:, None]


def _max(hidden: Tensor, spans: Spans) -> Tensor:
    firsts, ends = spans.first(), spans.starts[1:]
    return torch.stack([hidden[a:b].amax(0) for a, b in zip(firsts, ends, strict=True)])


POOLINGS: Mapping[str, Callable[[Tensor, Spans], Tensor]] = {
    "cls": _taken(Spans.first),
    "lasttoken": _taken(Spans.last),
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _weighted_mean,
    "max": _max,
}


class Pooling:
    """Follows a recipe. ModelError when a projection in it does not fit."""

    def __init__(self, recipe: Recipe, dim: int, device: torch.device) -> None:
        self._kinds = [POOLINGS[kind] for kind in recipe.pooling]
        self._projections: list[Callable[[Tensor], Tensor]] = []
        self._normalized = recipe.normalized
        size = len(recipe.pooling) * dim
        for step in recipe.steps[:-1] if recipe.normalized else recipe.steps:
            if isinstance(step, Dense):
                self._projections.append(_projection(step, size, device))
                size = step.outputs
            else:
                self._projections.append(_normalize)

    def pool(self, hidden: Tensor, spans: Spans) -> Tensor:
        """Vectors of tokens, [T, dim], to those of texts, [B, size] in float32, before they are divided by length."""
        pooled = [kind(hidden, spans).float() for kind in self._kinds]
        out = pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=-1)
        for step in self._projections:
            out = step(out)
        return out

    def activate(self, pooled: Tensor) -> Tensor:
        """The vectors at length 1, where the recipe ends with that."""
        return _normalize(pooled) if self._normalized else pooled

    def __call__(self, hidden: Tensor, spans: Spans) -> Tensor:
        """Both parts."""
        return self.activate(self.pool(hidden, spans))


class Scoring:
    """Scores of texts by a head over the vectors of their first tokens."""

    def __init__(self, scores: Callable[[Tensor], Tensor], activation: Callable[[Tensor], Tensor]) -> None:
        self._scores = scores
        self._activation = activation

    def pool(self, hidden: Tensor, spans: Spans) -> Tensor:
        """The logits of texts, [B, 1]."""
        firsts = torch.from_numpy(spans.starts[:-1]).to(hidden.device)
        return self._scores(hidden[firsts]).float()[:, None]

    def activate(self, pooled: Tensor) -> Tensor:
        """The scores of logits, [B, 1]."""
        return self._activation(pooled)


def _normalize(x: Tensor) -> Tensor:
    return F.normalize(x, p=2.0, dim=-1)


def _projection(step: Dense, inputs: int, device: torch.device) -> Callable[[Tensor], Tensor]:
    names = {"linear.weight": (step.outputs, inputs)} | ({"linear.bias": (step.outputs,)} if step.bias else {})
    try:
        found = {name: tensor.to(device).float() for name, tensor in load_file(step.weights).items()}
    except SafetensorError as error:
        raise ModelError(f"the weight file {step.weights} is damaged ({error}); fetch it again") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    if shapes != names:
        raise ModelError(f"{step.weights} holds {shapes}, where the pooled vectors need {names}")
    activation: nn.Module = getattr(nn, step.activation)()
    weight, bias = found["linear.weight"], found.get("linear.bias")
    return lambda x: activation(F.linear(x, weight, bias))
