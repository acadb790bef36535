"""An adapter that adds a constant to the outcome of some projections: a stub for the seam."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import torch
from torch import Tensor

from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.adapter import Adapter, AdapterContext, Projection

__all__ = ["ConstantTable", "constant_adapters"]


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
