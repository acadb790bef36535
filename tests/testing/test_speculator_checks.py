"""The checks of speculative methods take what is right and find what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maxserve.core.interfaces.errors import PluginError
from maxserve.core.interfaces.speculator import DraftStep, Speculator, SpeculatorContext
from maxserve.testing.speculator import RepeatingDrafter, SpeculatorChecks


class TestRepeating(SpeculatorChecks):
    component = Speculator(name="repeating", build=RepeatingDrafter)


class Failing(RepeatingDrafter):
    """Fails when a text is long."""

    def propose(self, step: DraftStep) -> list[list[int]]:
        if any(len(sequence.tokens) > 40 for sequence in step.sequences):
            raise ValueError("out of room")
        return super().propose(step)


class Foreign(RepeatingDrafter):
    """Proposes tokens of another vocabulary."""

    def propose(self, step: DraftStep) -> list[list[int]]:
        return [[10**6] * int(wanted) for wanted in step.wanted]


class Silent(RepeatingDrafter):
    """Proposes nothing."""

    def propose(self, step: DraftStep) -> list[list[int]]:
        return [[] for _ in step.sequences]


class Writing(RepeatingDrafter):
    """Writes into the weights of the target."""

    def __init__(self, context: SpeculatorContext) -> None:
        super().__init__(context)
        self._model: Any = context.model

    def propose(self, step: DraftStep) -> list[list[int]]:
        self._model.model.norm.weight.data.mul_(-1.0)
        return super().propose(step)


@pytest.mark.parametrize(
    ("drafter", "error"),
    [
        (Failing, AssertionError),
        (Silent, AssertionError),
        (Foreign, PluginError),
    ],
)
def test_one_that_proposes_nothing_of_use_is_found(
    drafter: Any, error: type[Exception], plugin_host: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checks, served = served_by(drafter, plugin_host, tmp_path)
    with pytest.raises(error):
        checks.test_it_proposes_tokens(served, caplog)


def test_one_that_changes_texts_is_found(plugin_host: Any, tmp_path: Path) -> None:
    checks, served = served_by(Writing, plugin_host, tmp_path)
    with pytest.raises(AssertionError):
        checks.test_texts_are_those_without_drafts(served, 4)


def served_by(drafter: Any, plugin_host: Any, folder: Path) -> tuple[SpeculatorChecks, Any]:
    class Checks(SpeculatorChecks):
        component = Speculator(name="wrong", build=drafter)

    checks = Checks()
    return checks, Checks.served.__wrapped__(checks, plugin_host, folder)  # type: ignore[attr-defined]
