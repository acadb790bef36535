"""Checks of adapters; and an adapter that adds a constant to the outcome of some projections: a stub for the seam.

class TestAcme(AdapterChecks):
    adapter = "acme"
    sections = {Config: Config(folder=...)}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.adapter import Adapter, AdapterContext, AdapterTable, Correction, Projection
from maxserve.testing.resolve import load, resolve

__all__ = ["AdapterChecks", "ConstantTable", "constant_adapters"]

CPU = torch.device("cpu")
# Those of a layer of a small Llama, fused as the model has them.
PROJECTIONS = (
    Projection(name="model.layers.0.self_attn.qkv_proj", inputs=64, outputs=128, parts={"q": 64, "k": 32, "v": 32}),
    Projection(name="model.layers.0.self_attn.o_proj", inputs=64, outputs=64),
    Projection(name="model.layers.0.mlp.gate_up_proj", inputs=64, outputs=192, parts={"gate": 96, "up": 96}),
    Projection(name="model.layers.0.mlp.down_proj", inputs=96, outputs=64),
)
DTYPES = (torch.float32, torch.bfloat16)


class AdapterChecks:
    """Subclass it and name a registered `adapter`, or give the `component` itself.

    `sections` are the plugin's settings, by schema, with which its table has adapters: at least one, and two if it can
    have two. `projections` are what a model offers. `expected` may be written: what an adapter, by its slot, makes of
    the outcome of a projection.
    """

    adapter: ClassVar[str] = ""
    component: ClassVar[Adapter | None] = None
    sections: ClassVar[dict[type[Any], Any]] = {}
    projections: ClassVar[Sequence[Projection]] = PROJECTIONS
    tolerance: ClassVar[float] = 1e-5

    def expected(self, slot: int, projection: Projection, x: Tensor, out: Tensor) -> Tensor | None:
        """The outcome of rows that all have this adapter, in float32; None: nothing to compare with."""
        return None

    def table(self, dtype: torch.dtype = torch.float32) -> AdapterTable:
        """A fresh table."""
        build: Callable[[AdapterContext], AdapterTable] = load(resolve(Adapter, self.adapter, self.component).build)
        return build(AdapterContext(compute=dtype, device=CPU, sections=self.sections))

    def corrections(self, dtype: torch.dtype = torch.float32) -> list[tuple[Projection, Correction]]:
        """Those of all projections that are corrected."""
        table = self.table(dtype)
        found = [(each, table.correction(each)) for each in self.projections]
        return [(projection, correction) for projection, correction in found if correction is not None]

    def test_names_are_those_of_the_slots(self) -> None:
        table = self.table()
        names = table.names()
        assert names, f"{type(self).__name__}: with these sections there are no adapters"
        assert isinstance(names, tuple), "names() gives a tuple"
        assert all(isinstance(name, str) and name for name in names), f"names are texts: {names!r}"
        assert len(set(names)) == len(names), f"two slots have one name: {names!r}"
        assert table.names() == names == self.table().names(), "the order of slots changes"

    def test_every_adapter_changes_something(self) -> None:
        corrections = self.corrections()
        for slot, name in enumerate(self.table().names(), start=1):
            assert any(self.changes(slot, *each) for each in corrections), f"adapter {name!r} corrects nothing"

    def changes(self, slot: int, projection: Projection, correction: Correction) -> bool:
        x, out = rows(projection, 5)
        return not torch.equal(correction(x, out.clone(), torch.full((5,), slot)), out)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_rows_without_an_adapter_stay_as_they_are(self, dtype: torch.dtype) -> None:
        """To the bit, whatever the other rows have."""
        for projection, correction in self.corrections(dtype):
            x, out = rows(projection, 7, dtype)
            for slots in ([0] * 7, [0, 1, 0, 0, 1, 0, 1]):
                result = correction(x, out.clone(), torch.tensor(slots))
                assert (result.shape, result.dtype) == (out.shape, out.dtype), f"{projection.name}: another tensor"
                plain = [row for row, slot in enumerate(slots) if not slot]
                assert torch.equal(result[plain], out[plain]), f"{projection.name}: rows of slot 0 are changed"

    def test_a_row_does_not_depend_on_the_others(self) -> None:
        count = len(self.table().names())
        for projection, correction in self.corrections():
            x, out = rows(projection, 3 * count + 2)
            slots = torch.tensor([(5 * row) % (count + 1) for row in range(len(x))])
            mixed = correction(x, out.clone(), slots)
            for row in range(len(x)):
                alone = correction(x[row : row + 1], out[row : row + 1].clone(), slots[row : row + 1])
                torch.testing.assert_close(mixed[row : row + 1], alone, atol=self.tolerance, rtol=0)

    def test_inputs_and_slots_are_not_written_to(self) -> None:
        for projection, correction in self.corrections():
            x, out = rows(projection, 4)
            slots = torch.tensor([1, 0, 1, 0])
            before = x.clone(), slots.clone()
            correction(x, out, slots)
            assert torch.equal(x, before[0]), f"{projection.name}: the inputs are another projection's, too"
            assert torch.equal(slots, before[1]), f"{projection.name}: the slots are those of all projections"

    def test_corrections_are_as_expected(self) -> None:
        for projection, correction in self.corrections():
            x, out = rows(projection, 4)
            for slot in range(1, len(self.table().names()) + 1):
                wanted = self.expected(slot, projection, x, out)
                if wanted is not None:
                    result = correction(x, out.clone(), torch.full((4,), slot))
                    torch.testing.assert_close(result, wanted, atol=self.tolerance, rtol=0)


def rows(projection: Projection, count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Random inputs and outcomes of a projection."""
    generator = torch.Generator().manual_seed(count)
    sizes = (projection.inputs, projection.outputs)
    x, out = (torch.randn(count, size, generator=generator).to(dtype) for size in sizes)
    return x, out


class ConstantTable:
    """An AdapterTable. Each adapter adds its constant to projections whose name ends with `ending`."""

    def __init__(self, context: AdapterContext, constants: Mapping[str, float], ending: str) -> None:
        self._names, self._ending = tuple(constants), ending
        self._constants = torch.tensor([0.0, *constants.values()], dtype=context.compute, device=context.device)

    def names(self) -> tuple[str, ...]:
        return self._names

    def correction(self, projection: Projection) -> ConstantTable | None:
        return self if projection.name.endswith(self._ending) else None

    def __call__(self, x: Tensor, out: Tensor, slots: Tensor) -> Tensor:
        return out + self._constants[slots][:, None]


def constant_adapters(constants: Mapping[str, float], ending: str = "o_proj") -> SimpleNamespace:
    """A plugin with the adapters of these names and constants."""
    declared = Adapter(name="constant", build=lambda context: ConstantTable(context, constants, ending))
    return SimpleNamespace(maxserve_adapters=hookimpl(lambda: [declared]))
