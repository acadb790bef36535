"""The checks of adapters take what is right and find what is wrong."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from maxserve.core.interfaces.adapter import Adapter, Projection
from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.inputs import AdapterRows
from maxserve.testing.adapter import AdapterChecks, ConstantTable

CONSTANTS = {"small": 0.5, "large": 3.0}


def declared(table: Any = ConstantTable) -> Adapter:
    return Adapter(name="constant", build=lambda context: table(context, CONSTANTS, "o_proj", 2))


class TestConstants(AdapterChecks):
    component = declared()

    def expected(self, name: str, projection: Projection, x: Tensor, out: Tensor) -> Tensor | None:
        return out + CONSTANTS[name]


class Everywhere(ConstantTable):
    """Corrects rows without an adapter."""

    def __call__(self, x: Tensor, out: Tensor, rows: AdapterRows) -> Tensor:
        return super().__call__(x, out, rows) + 0.25


class Mean(ConstantTable):
    """Gives all rows the mean of their corrections."""

    def __call__(self, x: Tensor, out: Tensor, rows: AdapterRows) -> Tensor:
        added = self._constants[rows.adapter_slots].mean() * (rows.adapter_slots > 0)
        return out + added[:, None]


class Single(ConstantTable):
    """Computes in float32 whatever it was given."""

    def __call__(self, x: Tensor, out: Tensor, rows: AdapterRows) -> Tensor:
        return super().__call__(x, out, rows).float()


class Writing(ConstantTable):
    """Writes to its inputs."""

    def __call__(self, x: Tensor, out: Tensor, rows: AdapterRows) -> Tensor:
        x += 1
        return super().__call__(x, out, rows)


class Closed(ConstantTable):
    """Has no slots."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.slots = 0


class Idle(ConstantTable):
    """Corrects nothing for large constants."""

    def place(self, adapter: float, slot: int) -> None:
        super().place(0.0 if adapter > 1 else adapter, slot)


class Keeping(ConstantTable):
    """Adds what the slot had before."""

    def place(self, adapter: float, slot: int) -> None:
        super().place(adapter + float(self._constants[slot]), slot)


class Swapped(ConstantTable):
    """Takes one adapter for the other."""

    def place(self, adapter: float, slot: int) -> None:
        super().place(3.5 - adapter, slot)


class Credulous(ConstantTable):
    """Takes whatever it is given."""

    def load(self, name: str, source: str) -> float:
        return 1.0


class Nameless(ConstantTable):
    """Does not say which adapter it refuses."""

    def load(self, name: str, source: str) -> float:
        try:
            return float(source)
        except ValueError:
            raise RequestError("the adapter is no number") from None


class Threaded(ConstantTable):
    """Reads other adapters in other threads."""

    def load(self, name: str, source: str) -> float:
        return super().load(name, source) * (1 if threading.current_thread() is threading.main_thread() else 2)


@pytest.mark.parametrize(
    ("wrong", "check", "given"),
    [
        (Everywhere, "test_rows_without_an_adapter_stay_as_they_are", {"dtype": torch.float32}),
        (Mean, "test_a_row_does_not_depend_on_the_others", {}),
        (Single, "test_rows_without_an_adapter_stay_as_they_are", {"dtype": torch.bfloat16}),
        (Writing, "test_inputs_are_not_written_to", {}),
        (Closed, "test_it_says_what_it_takes", {}),
        (Idle, "test_every_adapter_changes_something", {}),
        (Keeping, "test_a_slot_forgets_the_adapter_before", {}),
        (Threaded, "test_an_adapter_may_be_read_in_another_thread", {}),
        (Swapped, "test_corrections_are_as_expected", {}),
        (Credulous, "test_broken_adapters_are_refused_by_name_and_change_nothing", {}),
        (Nameless, "test_broken_adapters_are_refused_by_name_and_change_nothing", {}),
    ],
)
def test_wrong_adapters_are_found(wrong: Any, check: str, given: dict[str, Any], tmp_path: Path) -> None:
    class Checks(TestConstants):
        component: ClassVar[Adapter | None] = declared(wrong)

    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(Checks(), check)(tmp_path, **given)
