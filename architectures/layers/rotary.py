"""Rotary positions of queries and keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from maxserve.architectures.layers.config import ModelConfig, RopeConfig
from maxserve.architectures.layers.rope import frequencies
from maxserve.interfaces.batch import Batch


@dataclass(slots=True, kw_only=True)
class RotaryBatch(Batch):
    """A batch with the rotations of its positions, gathered once a step for all layers."""

    cos: Tensor  # [T, 1, width]
    sin: Tensor  # [T, 1, width], negative in the first half

    def apply_rope(self, x: Tensor) -> Tensor:
        """`x` [T, heads, head_dim] rotated by the tokens' positions; a new tensor."""
        width = self.cos.shape[-1]
        if width == x.shape[-1]:
            return torch.addcmul(x * self.cos, x.roll(width // 2, -1), self.sin)
        rotated, rest = x[..., :width], x[..., width:]
        rotated = torch.addcmul(rotated * self.cos, rotated.roll(width // 2, -1), self.sin)
        return torch.cat((rotated, rest), dim=-1)


_OF_A_BATCH = tuple(field.name for field in fields(Batch))


class Rotary(nn.Module):
    """The table of cosines and sines of every position, one after another for each regime of prompts.

    Computed by `prepare` in float32: [regimes * max_length, cosines and sines of width / 2 each]. `rope` is one of the
    config's, by default the one of all layers.
    """

    table: Tensor

    def __init__(self, config: ModelConfig, rope: RopeConfig | None = None) -> None:
        super().__init__()
        self.config, self.rope = config, rope or config.rope
        self.register_buffer("table", torch.empty(0), persistent=False)

    def prepare(self, device: torch.device) -> None:
        """Computes the table on `device`."""
        borders, length = self.config.prompt_regimes, self.config.max_length
        tables = [self._rotations(longest, device) for longest in (*borders, length)]
        for i in reversed(range(len(borders))):  # a text that grows beyond a border goes on as a longer one
            tables[i][borders[i] :] = tables[i + 1][borders[i] :]
        self.table = torch.cat(tables)

    def _rotations(self, longest: int, device: torch.device) -> Tensor:
        """Those of every position, by the frequencies of texts up to `longest`; [max_length, width]."""
        radians, scale = frequencies(self.rope, self.config.rotary_dim, longest)
        angles = torch.arange(self.config.max_length, device=device).float()[:, None] * radians.to(device)
        return torch.cat((angles.cos(), angles.sin()), dim=-1).mul_(scale)

    def forward(self, batch: Batch, dtype: torch.dtype) -> RotaryBatch:
        """The same batch with the rotations of its positions in `dtype`."""
        rows = self._rows(batch)
        if self.table.device != rows.device:  # `prepare` was told of no device, for want of parameters
            self.table = self.table.to(rows.device)
        cos, sin = self.table.index_select(0, rows).to(dtype)[:, None].chunk(2, dim=-1)
        return RotaryBatch(
            **{name: getattr(batch, name) for name in _OF_A_BATCH},
            cos=torch.cat((cos, cos), dim=-1),
            sin=torch.cat((-sin, sin), dim=-1),
        )

    def _rows(self, batch: Batch) -> Tensor:
        """Where in the table each token's rotations are, [T]."""
        borders = self.config.prompt_regimes
        if not borders:
            return batch.positions
        regimes = np.searchsorted(borders, batch.prompt_lens)  # how many borders each prompt exceeds
        starts = np.repeat(regimes * self.config.max_length, np.diff(batch.query_start))
        return batch.positions + torch.from_numpy(starts).to(batch.positions.device, non_blocking=True)


class RotaryEmbedding(Protocol):
    """Gives each layer a batch with the rotations of its positions; a module."""

    def prepare(self, device: torch.device) -> None:
        """Computes what no checkpoint holds, on `device`."""
        ...

    def __call__(self, batch: Batch, dtype: torch.dtype) -> Sequence[Batch]:
        """The batch for each layer, with rotations in `dtype`."""
        ...


class LayerRotary(nn.Module):
    """Gives each layer a batch with the rotations of its own rope; layers of one rope get the same."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        kinds = list(dict.fromkeys(rope for rope in config.layer_ropes if rope is not None))
        self.ropes = nn.ModuleDict({str(index): Rotary(config, rope) for index, rope in enumerate(kinds)})
        self.of_layer = [0 if rope is None else kinds.index(rope) for rope in config.layer_ropes]

    def prepare(self, device: torch.device) -> None:
        """Computes the tables on `device`."""
        for rope in self.ropes.values():
            rope.prepare(device)  # type: ignore[operator]

    def forward(self, batch: Batch, dtype: torch.dtype) -> Sequence[Batch]:
        """The batch for each layer. One without a rope gets that of any other, or the batch as it is."""
        rotated = [rope(batch, dtype) for rope in self.ropes.values()] or [batch]
        return [rotated[index] for index in self.of_layer]
