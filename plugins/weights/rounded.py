"""Projections whose plain weights are rounded to codes while they are loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from maxserve.interfaces.linear import ExpertLayer
from maxserve.plugins.weights.shards import inputs_of
from maxserve.weights import Linear, Projection

if TYPE_CHECKING:
    from torch import Tensor, nn

    from maxserve.interfaces.codes import Codes
    from maxserve.interfaces.linear import CodesExperts, CodesLinear
    from maxserve.interfaces.quantization import Rounding

Inputs: TypeAlias = "tuple[int, int] | None"  # the first of those that a rank has, and the one after the last


def may_be_rounded(module: nn.Module) -> bool:
    """Whether it is a projection, of experts perhaps, whose weight may be rounded."""
    return isinstance(module, Projection) and isinstance(module, Linear | ExpertLayer) and module.roundable


class RoundedLinear:
    """A PackedLinear that rounds its rows, and gives the codes to what has `stored` the weight: those of some `inputs`
    where ranks share them."""

    def __init__(self, rounding: Rounding, stored: CodesLinear, inputs: Inputs = None) -> None:
        self._rounding, self._stored, self._inputs = rounding, stored, inputs
        self.multiply = stored.multiply

    def load_rows(self, rows: Tensor, first: int) -> None:
        self._stored.load_codes(_own(self._rounding.codes(rows), self._inputs), first)


class RoundedExperts:
    """PackedExperts that do the same."""

    def __init__(self, rounding: Rounding, stored: CodesExperts, inputs: Inputs = None) -> None:
        self._rounding, self._stored, self._inputs = rounding, stored, inputs
        self.multiply = stored.multiply

    def load_rows(self, expert: int, rows: Tensor, first: int) -> None:
        self._stored.load_codes(expert, _own(self._rounding.codes(rows), self._inputs), first)


def rounded(rounding: Rounding, tensor: Tensor, inputs: Inputs = None) -> Tensor:
    """What the rows [..., inputs] of a tensor are once they are rounded, in float32; of some `inputs` perhaps."""
    codes = rounding.codes(tensor.reshape(-1, tensor.shape[-1]))
    values = codes.values().to(tensor.device).view(tensor.shape)
    return values if inputs is None else values[..., slice(*inputs)]


def _own(codes: Codes, inputs: Inputs) -> Codes:
    return codes if inputs is None else inputs_of(codes, *inputs)
