"""The checks of model runners take what is right and find what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maxserve.core.interfaces.inputs import StepInputs
from maxserve.core.interfaces.runner import ModelOutput, ModelRunner
from maxserve.plugins.runners.eager import EagerRunner
from maxserve.testing.runner import ModelRunnerChecks, ReplayRunner


class TestEager(ModelRunnerChecks):
    runner = "eager"


class TestReplay(ModelRunnerChecks):
    component = ModelRunner(name="replay", build=lambda context: ReplayRunner(EagerRunner(context)))


class Stale(EagerRunner):
    """Gives the outcome of an earlier step of equal size."""

    def run(self, inputs: StepInputs) -> ModelOutput:
        known = self.__dict__.setdefault("known", {})
        return known.setdefault(len(inputs.input_ids), super().run(inputs))  # type: ignore[no-any-return]


class Generous(EagerRunner):
    """Gives the logits of every token."""

    def run(self, inputs: StepInputs) -> ModelOutput:
        output = super().run(inputs)
        return ModelOutput(logits=self.logits(output.hidden), hidden=output.hidden)


class Unordered(EagerRunner):
    """Gives logits in the order of tokens."""

    def run(self, inputs: StepInputs) -> ModelOutput:
        inputs.logit_rows = inputs.logit_rows.sort().values
        return super().run(inputs)


class Blunt(EagerRunner):
    """Rounds further logits."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().logits(hidden).bfloat16().float()


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        (Stale, "test_steps_give_what_the_model_gives"),
        (Generous, "test_logits_are_those_of_the_rows_that_are_wanted"),
        (Unordered, "test_logits_are_those_of_the_rows_that_are_wanted"),
        (Blunt, "test_logits_of_further_rows"),
    ],
)
def test_wrong_runners_are_found(wrong: Any, check: str) -> None:
    class Checks(ModelRunnerChecks):
        component = ModelRunner(name="wrong", build=wrong)

    with pytest.raises(AssertionError):
        getattr(Checks(), check)()
