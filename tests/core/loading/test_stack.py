from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from maxserve.interfaces.step_context import StepContext
from maxserve.loading import LayerStack


class Add(nn.Module):
    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: Tensor, step: StepContext) -> Tensor:
        return x + self.number


class Kept:
    """The step of a model, as far as a stack asks it."""

    def __init__(self, *aux_layers: int) -> None:
        self.aux_layers = aux_layers
        self.seen: dict[int, float] = {}

    def keep(self, layer: int, x: Tensor) -> None:
        if layer in self.aux_layers:
            self.seen[layer] = x.item()


def run(stack: LayerStack, step: Kept) -> float:
    given = cast(Any, step)
    return cast(float, stack(torch.zeros(1), [given] * len(stack), given).item())


def fused(x: Tensor, steps: Sequence[StepContext]) -> Tensor:
    return x + 100 * len(steps)


def test_layers_are_called_one_after_another() -> None:
    assert run(LayerStack([Add(1), Add(2)]), Kept()) == 3


def test_one_call_stands_for_all_layers() -> None:
    stack = LayerStack([Add(1), Add(2)])
    stack.fused = fused
    assert run(stack, Kept()) == 200


def test_outputs_of_single_layers_are_had_of_single_layers() -> None:
    stack, step = LayerStack([Add(1), Add(2), Add(4)]), Kept(0, 1)
    stack.fused = fused
    assert run(stack, step) == 7
    assert step.seen == {0: 1, 1: 3}


def test_outputs_of_single_layers_are_had_between_calls_of_several() -> None:
    stack, step = LayerStack([Add(1), Add(2), Add(4), Add(8)]), Kept(0, 2)
    stack.fused, asked = fused, []

    def fuse(start: int, stop: int) -> Any:
        asked.append((start, stop))
        return fused

    stack.fuse = fuse
    assert [run(stack, step), run(stack, step)] == [400, 400]
    assert asked == [(0, 1), (1, 3), (3, 4)]  # made once
    assert step.seen == {0: 100, 2: 300}


def test_layers_that_cannot_be_joined_are_called_by_themselves() -> None:
    stack, step = LayerStack([Add(1), Add(2), Add(4)]), Kept(1)
    stack.fused, stack.fuse = fused, lambda start, stop: fused if start == 0 else None
    assert run(stack, step) == 7
    assert step.seen == {1: 3}


def test_its_parameters_are_called_as_those_of_a_list() -> None:
    assert list(LayerStack([nn.Linear(1, 1, bias=False)]).state_dict()) == ["0.weight"]
