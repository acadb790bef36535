"""How bold the draw is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from maxserve.interfaces.sampler import Rows, SamplerContext


@dataclass(frozen=True, slots=True)
class Temperature:
    """Divide the logits by this before the draw; 0 takes the likeliest token."""

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and 0.0 <= self.temperature <= 2.0):
            raise ValueError(f"temperature must be between 0 and 2, got {self.temperature}")

    @staticmethod
    def defaults_from(generation_config: Mapping[str, Any]) -> dict[str, Any]:
        """The field of this name; a model that does not sample is greedy."""
        if generation_config.get("do_sample") is False:
            return {"temperature": 0.0}
        return {"temperature": generation_config["temperature"]} if "temperature" in generation_config else {}


class TemperatureTransform:
    steady = True

    def greedy(self, rows: Rows) -> list[bool]:
        """Rows that want no draw."""
        return [p.temperature == 0.0 for p in rows.params(Temperature)]

    def prepare(self, rows: Rows) -> Tensor | None:
        divisors = [p.temperature or 1.0 for p in rows.params(Temperature)]
        return None if all(d == 1.0 for d in divisors) else rows.tensor(divisors)[:, None]

    def apply(self, logits: Tensor, divisors: Tensor) -> Tensor:
        # A tiny divisor would turn large logits into infinities; below the best by that much, nothing is drawn anyway.
        return (logits - logits.amax(dim=-1, keepdim=True)).div_(divisors)


def build(context: SamplerContext) -> TemperatureTransform:
    return TemperatureTransform()
