from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
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
        self.aux_hidden: list[Tensor] = []

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
    stack.fuse = lambda start, stop: fused
    assert run(stack, Kept()) == 200


class Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


@pytest.mark.parametrize(("fuses_last", "expected"), [(False, 100), (True, 300)])
def test_the_last_module_is_called_behind_the_layers_unless_it_is_fused(fuses_last: bool, expected: float) -> None:
    stack, step, asked = LayerStack([Add(1), Add(2)], last=Half()), Kept(1), []
    assert run(stack, step) == 1.5
    assert step.seen == {1: 3}  # not halved

    def fuse(start: int, stop: int) -> Any:
        asked.append((start, stop))
        return fused

    stack = LayerStack([Add(1), Add(2)], last=Half())
    stack.fuse, stack.fuses_last = fuse, fuses_last
    assert run(stack, Kept()) == expected
    assert asked == [(0, 3 if fuses_last else 2)]


def test_outputs_of_single_layers_are_had_of_single_layers() -> None:
    stack, step = LayerStack([Add(1), Add(2), Add(4)]), Kept(0, 1)
    assert run(stack, step) == 7
    assert step.seen == {0: 1, 1: 3}


def test_outputs_of_single_layers_are_had_between_calls_of_several() -> None:
    stack, step = LayerStack([Add(1), Add(2), Add(4), Add(8)]), Kept(0, 2)
    asked = []

    def fuse(start: int, stop: int) -> Any:
        asked.append((start, stop))
        return fused

    stack.fuse = fuse
    assert [run(stack, step), run(stack, step)] == [400, 400]
    assert asked == [(0, 4), (0, 1), (1, 3), (3, 4)]  # made once
    assert step.seen == {0: 100, 2: 300}


class Keeping:
    """One call of all layers that gives the outputs of some."""

    def __call__(self, x: Tensor, steps: Sequence[StepContext]) -> Tensor:
        return fused(x, steps)

    def keeping(self, x: Tensor, steps: Sequence[StepContext], layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        return fused(x, steps), [fused(x, steps[: layer + 1]) for layer in layers]


def test_outputs_of_single_layers_are_had_of_one_call_that_gives_them() -> None:
    stack, step = LayerStack([Add(1), Add(2), Add(4), Add(8)], last=Half()), Kept(2, 0, 3)
    asked = []

    def fuse(start: int, stop: int) -> Any:
        asked.append((start, stop))
        return Keeping()

    stack.fuse = fuse
    assert [run(stack, step), run(stack, step)] == [200, 200]
    assert asked == [(0, 4)]
    assert [x.item() for x in step.aux_hidden[:2]] == [100, 300]
    assert step.seen == {3: 400}  # the last one, before what is behind it
    stack.fuses_last, step.aux_hidden = True, []
    stack._spans.clear()
    assert run(stack, step) == 500
    assert [x.item() for x in step.aux_hidden] == [100, 300, 400]


def test_layers_that_cannot_be_joined_are_called_by_themselves() -> None:
    stack, step = LayerStack([Add(1), Add(2), Add(4)]), Kept(1)
    stack.fuse = lambda start, stop: fused if start == 0 else None
    assert run(stack, step) == 7
    assert step.seen == {1: 3}


def test_its_parameters_are_called_as_those_of_a_list() -> None:
    stack = LayerStack([nn.Linear(1, 1, bias=False)], last=nn.Linear(1, 1))
    assert list(stack.state_dict()) == ["0.weight"]
