"""Layers read as operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maxserve.architectures.layers import RMSNorm
from maxserve.plugins.cpu.tracing import Reading, UnknownError


class Joined(nn.Module):
    """A layer over two rows side by side, each with a norm of its own."""

    def __init__(self, axis: int = -1, parts: int = 2) -> None:
        super().__init__()
        self.first, self.second = RMSNorm(8, 1e-5), RMSNorm(8, 1e-5)
        self.axis, self.parts = axis, parts

    def forward(self, x: Tensor, step: Any) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return torch.cat((self.first(a), *[self.second(b)] * (self.parts - 1)), dim=self.axis)


class Narrowed(nn.Module):
    """A layer whose result is one half of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = RMSNorm(8, 1e-5)

    def forward(self, x: Tensor, step: Any) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return a + self.norm(b)


def test_two_rows_are_joined() -> None:
    reading = Reading(Joined())
    assert [o.kind for o in reading.operations] == ["NORM", "NORM", "JOIN"]
    assert [o.operands[0].offset for o in reading.operations[:2]] == [0, 8]
    assert reading.operations[-1].sizes == (8, 8)
    assert reading.widths[:2] == [16, 16]


def test_a_result_may_be_narrower_than_the_input() -> None:
    assert Reading(Narrowed()).widths[:2] == [16, 8]


@pytest.mark.parametrize("layer", [Joined(axis=0), Joined(parts=3)])
def test_other_joints_are_left_to_torch(layer: nn.Module) -> None:
    with pytest.raises(UnknownError, match="joins something else"):
        Reading(layer)


def test_the_first_layer_of_an_eagle3_head_is_known() -> None:
    from maxserve.plugins.speculation.eagle_heads import HeadConfig, JoiningBlock

    config = HeadConfig(
        vocab_size=16, dim=8, layers=1, heads=2, kv_heads=1, head_dim=4, ffn_dim=16, eps=1e-5, max_length=32
    )
    reading = Reading(JoiningBlock(config, 0))
    assert [o.kind for o in reading.operations].count("JOIN") == 1
    assert reading.widths[:2] == [16, 8]


class Sliced(nn.Module):
    def __init__(self, *slices: slice) -> None:
        super().__init__()
        self.norm, self.slices = RMSNorm(8, 1e-5), slices

    def forward(self, x: Tensor, step: Any) -> Tensor:
        first = x[:, self.slices[0]]
        return self.norm(first) + x[:, self.slices[-1]]


class JoinedChunks(nn.Module):
    def __init__(self, **named: Any) -> None:
        super().__init__()
        self.norm, self.named = RMSNorm(16, 1e-5), named

    def forward(self, x: Tensor, step: Any) -> Tensor:
        parts = self.norm(x).chunk(2, dim=-1)
        return torch.cat(tensors=parts, dim=-1) if self.named else torch.cat(parts, dim=-1)


@pytest.mark.parametrize("layer", [Sliced(slice(8)), Sliced(slice(8), slice(-8, None)), JoinedChunks(named=True)])
def test_what_is_not_understood_is_said_to_be_so(layer: nn.Module) -> None:
    with pytest.raises(UnknownError):
        Reading(layer)


def test_all_chunks_of_a_value_are_joined() -> None:
    reading = Reading(JoinedChunks())
    assert [o.kind for o in reading.operations] == ["NORM", "JOIN"]
    assert [o.offset for o in reading.operations[-1].operands] == [0, 8]
