"""Add to the logits of single tokens, or ban them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from maxserve.interfaces.sampler import Rows, SamplerContext

Bias = tuple["Tensor", "Tensor", "Tensor"]


@dataclass(frozen=True, slots=True)
class LogitBias:
    """Token ids with what is added to their logits, -100 to 100; false bans a token."""

    logit_bias: Mapping[str, float | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.logit_bias, Mapping):
            raise ValueError(f"logit_bias must be an object of token ids and numbers, got {self.logit_bias!r}")
        for key, value in self.logit_bias.items():
            if not str(key).isascii() or not str(key).isdigit():
                raise ValueError(f"logit_bias: {key!r} is no token id; keys are whole numbers from 0")
            if value is True or not isinstance(value, int | float):
                raise ValueError(f"logit_bias: {key} must have a number or false, got {value!r}")
            if not (math.isfinite(value) and -100 <= value <= 100):
                raise ValueError(f"logit_bias: {key} must be between -100 and 100, got {value}")

    def check_vocabulary(self, size: int) -> None:
        for key in self.logit_bias:
            if int(key) >= size:
                raise ValueError(f"logit_bias: token id {key} is outside the vocabulary of {size} tokens")
        if sum(value is False for value in self.values().values()) >= size:
            raise ValueError("logit_bias bans every token there is")

    def values(self) -> dict[int, float | bool]:
        return {int(key): value for key, value in self.logit_bias.items()}


class LogitBiasTransform:
    steady = True

    def prepare(self, rows: Rows) -> Bias | None:
        """Row, token and what is added, three tensors of one length."""
        added = [(i, t, v) for i, p in enumerate(rows.params(LogitBias)) for t, v in p.values().items()]
        if not added:
            return None
        row, token, value = zip(*added, strict=True)
        return rows.tensor(row), rows.tensor(token), rows.tensor([-math.inf if v is False else float(v) for v in value])

    def apply(self, logits: Tensor, state: Bias) -> Tensor:
        row, token, value = state
        return logits.index_put_((row, token), logits[row, token] + value.to(logits.dtype))


def build(context: SamplerContext) -> LogitBiasTransform:
    return LogitBiasTransform()
