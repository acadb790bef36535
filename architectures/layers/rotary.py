"""Rotary positions of queries and keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from maxserve.architectures.layers.config import ModelConfig, RopeConfig
from maxserve.architectures.layers.rope import frequencies
from maxserve.interfaces.inputs import StepInputs
from maxserve.interfaces.step_context import StepContext


class Rotary(nn.Module):
    """The table of cosines and sines of every position, one after another for each regime of prompts.

    Computed by `prepare` in float32: [regimes * positions, cosines and sines of width / 2 each], as many `positions` as
    the model was made for, or texts have at most. `rope` is one of the config's, by default the one of all layers.
    """

    table: Tensor

    def __init__(self, config: ModelConfig, rope: RopeConfig | None = None) -> None:
        super().__init__()
        self.config, self.rope = config, rope or config.rope
        self.positions = config.max_length
        self.register_buffer("table", torch.empty(0), persistent=False)

    def bound_positions(self, count: int) -> None:
        """Texts have no more of them."""
        self.positions = min(count, self.config.max_length)

    def prepare(self, device: torch.device) -> None:
        """Computes the table on `device`."""
        borders, length = self.config.prompt_regimes, self.config.max_length
        tables = [self._rotations(longest, device) for longest in (*borders, length)]
        for i in reversed(range(len(borders))):  # a text that grows beyond a border goes on as a longer one
            tables[i][borders[i] :] = tables[i + 1][borders[i] :]
        self.table = torch.cat(tables)

    def _rotations(self, longest: int, device: torch.device) -> Tensor:
        """Those of every position, by the frequencies of texts up to `longest`; [positions, width]."""
        radians, scale = frequencies(self.rope, self.config.rotary_dim, longest)
        angles = torch.arange(self.positions, device=device).float()[:, None] * radians.to(device)
        return torch.cat((angles.cos(), angles.sin()), dim=-1).mul_(scale)

    def forward(self, step: StepContext, dtype: torch.dtype) -> StepContext:
        """The step with the rotations of its positions in `dtype`."""
        rows = self._rows(step.inputs)
        if self.table.device != rows.device:  # `prepare` got no device, for want of parameters
            self.table = self.table.to(rows.device)
        return step.with_rope(self.table.index_select(0, rows).to(dtype))

    def _rows(self, inputs: StepInputs) -> Tensor:
        """Where in the table each token's rotations are, [T]."""
        borders = self.config.prompt_regimes
        if not borders:
            return inputs.positions
        regimes = np.searchsorted(borders, inputs.prompt_lens)  # how many borders each prompt exceeds
        starts = np.repeat(regimes * self.positions, np.diff(inputs.query_start))
        return inputs.positions + torch.from_numpy(starts).to(inputs.positions.device, non_blocking=True)


class RotaryEmbedding(Protocol):
    """Gives each layer its step with the rotations of its positions; a module."""

    def prepare(self, device: torch.device) -> None:
        """Computes what no checkpoint holds, on `device`."""
        ...

    def __call__(self, step: StepContext, dtype: torch.dtype) -> Sequence[StepContext]:
        """The step for each layer, with rotations in `dtype`."""
        ...


class LayerRotary(nn.Module):
    """Gives each layer its step with the rotations of its own rope; layers of one rope get the same."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        kinds = list(dict.fromkeys(rope for rope in config.layer_ropes if rope is not None))
        self.ropes = nn.ModuleDict({str(index): Rotary(config, rope) for index, rope in enumerate(kinds)})
        self.of_layer = [0 if rope is None else kinds.index(rope) for rope in config.layer_ropes]

    def prepare(self, device: torch.device) -> None:
        """Computes the tables on `device`."""
        for rope in self.ropes.values():
            rope.prepare(device)  # type: ignore[operator]

    def forward(self, step: StepContext, dtype: torch.dtype) -> Sequence[StepContext]:
        """The step for each layer. One without a rope gets that of any other, or the step as it is."""
        rotated = [rope(step, dtype) for rope in self.ropes.values()] or [step]
        return [rotated[index] for index in self.of_layer]
