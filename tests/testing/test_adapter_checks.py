"""The checks of adapters take what is right and find what is wrong."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from maxserve.core.interfaces.adapter import Adapter, Projection
from maxserve.testing.adapter import AdapterChecks, ConstantTable

CONSTANTS = {"small": 0.5, "large": 3.0}


def declared(table: Any = ConstantTable) -> Adapter:
    return Adapter(name="constant", build=lambda context: table(context, CONSTANTS, "o_proj"))


class TestConstants(AdapterChecks):
    component = declared()

    def expected(self, slot: int, projection: Projection, x: Tensor, out: Tensor) -> Tensor | None:
        return out + list(CONSTANTS.values())[slot - 1]


class Everywhere(ConstantTable):
    """Corrects rows without an adapter."""

    def __call__(self, x: Tensor, out: Tensor, slots: Tensor) -> Tensor:
        return super().__call__(x, out, slots) + 0.25


class Mean(ConstantTable):
    """Gives all rows the mean of their corrections."""

    def __call__(self, x: Tensor, out: Tensor, slots: Tensor) -> Tensor:
        added = self._constants[slots].mean() * (slots > 0)
        return out + added[:, None]


class Single(ConstantTable):
    """Computes in float32 whatever it was given."""

    def __call__(self, x: Tensor, out: Tensor, slots: Tensor) -> Tensor:
        return super().__call__(x, out, slots).float()


class Writing(ConstantTable):
    """Writes to its inputs."""

    def __call__(self, x: Tensor, out: Tensor, slots: Tensor) -> Tensor:
        x += 1
        return super().__call__(x, out, slots)


class Renaming(ConstantTable):
    """Has one name twice."""

    def names(self) -> tuple[str, ...]:
        return ("small", "small")


class Idle(ConstantTable):
    """Corrects nothing for its second adapter."""

    def __call__(self, x: Tensor, out: Tensor, slots: Tensor) -> Tensor:
        return super().__call__(x, out, torch.where(slots == 2, 0, slots))


class Swapped(ConstantTable):
    """Takes one adapter for the other."""

    def __call__(self, x: Tensor, out: Tensor, slots: Tensor) -> Tensor:
        return super().__call__(x, out, torch.where(slots > 0, 3 - slots, 0))


@pytest.mark.parametrize(
    ("wrong", "check", "given"),
    [
        (Everywhere, "test_rows_without_an_adapter_stay_as_they_are", {"dtype": torch.float32}),
        (Mean, "test_a_row_does_not_depend_on_the_others", {}),
        (Single, "test_rows_without_an_adapter_stay_as_they_are", {"dtype": torch.bfloat16}),
        (Writing, "test_inputs_and_slots_are_not_written_to", {}),
        (Renaming, "test_names_are_those_of_the_slots", {}),
        (Idle, "test_every_adapter_changes_something", {}),
        (Swapped, "test_corrections_are_as_expected", {}),
    ],
)
def test_wrong_adapters_are_found(wrong: Any, check: str, given: dict[str, Any]) -> None:
    class Checks(TestConstants):
        component: ClassVar[Adapter | None] = declared(wrong)

    with pytest.raises(AssertionError):
        getattr(Checks(), check)(**given)
