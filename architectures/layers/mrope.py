"""Multimodal rope: rotary positions of several axes (time, height, width), arXiv:2409.12191."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maxserve.architectures.layers.config import ModelConfig
from maxserve.architectures.layers.rotary import Rotary
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.step_context import StepContext


def in_sections(sections: Sequence[int]) -> list[int]:
    """The axis of each frequency, where every axis has a run of them."""
    return [axis for axis, count in enumerate(sections) for _ in range(count)]


def interleaved(sections: Sequence[int]) -> list[int]:
    """The axis of each frequency, where the axes take turns as far as their number reaches; the rest is the first's."""
    axes, count = [0] * sum(sections), len(sections)
    for axis in range(1, count):
        for index in range(axis, sections[axis] * count, count):
            axes[index] = axis
    return axes


class MultimodalRotary(nn.Module):
    """Rotates every layer's heads alike, each frequency by the position on its axis: LayerRotary for such models.

    Tokens without `mrope_positions` have their position in the sequence on every axis.
    """

    def __init__(self, config: ModelConfig, axes: Sequence[int]) -> None:
        super().__init__()
        if len(axes) != config.rotary_dim // 2:
            raise ModelError(
                f"config.json: 'mrope_section' divides {len(axes)} frequencies, but a head has {config.rotary_dim // 2}"
            )
        self.rotary, self.layers, self.axes = Rotary(config), config.layers, tuple(axes)

    def prepare(self, device: torch.device) -> None:
        """Computes the table on `device`."""
        self.rotary.prepare(device)

    def forward(self, step: StepContext, dtype: torch.dtype) -> Sequence[StepContext]:
        """The step for each layer."""
        positions = step.inputs.mrope_positions
        rotated = self.rotary(step, dtype) if positions is None else self._with_axes(step, positions, dtype)
        return [rotated] * self.layers

    def _with_axes(self, step: StepContext, positions: Tensor, dtype: torch.dtype) -> StepContext:
        table = self.rotary.table
        found = table.index_select(0, positions.flatten())
        found = found.view(*positions.shape, 2, -1)  # [axes, T, cos or sin, width / 2]
        frequencies = torch.arange(found.shape[-1], device=table.device)
        found = found[list(self.axes), :, :, frequencies].permute(1, 2, 0)  # [T, cos or sin, width / 2]
        return step.with_rope(found.flatten(1).to(dtype))
