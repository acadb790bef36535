"""Projections whose plain weights are rounded to codes while they are loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve.interfaces.linear import ExpertLayer
from maxserve.weights import Linear, Projection

if TYPE_CHECKING:
    from torch import Tensor, nn

    from maxserve.interfaces.linear import CodesExperts, CodesLinear
    from maxserve.interfaces.quantization import Rounding


def may_be_rounded(module: nn.Module) -> bool:
    """Whether it is a projection, of experts perhaps, whose weight may be rounded."""
    return isinstance(module, Projection) and isinstance(module, Linear | ExpertLayer) and module.roundable


class RoundedLinear:
    """A PackedLinear that rounds its rows, and gives the codes to what has `stored` the weight."""

    def __init__(self, rounding: Rounding, stored: CodesLinear) -> None:
        self._rounding, self._stored = rounding, stored
        self.multiply = stored.multiply

    def load_rows(self, rows: Tensor, first: int) -> None:
        self._stored.load_codes(self._rounding.codes(rows), first)


class RoundedExperts:
    """PackedExperts that do the same."""

    def __init__(self, rounding: Rounding, stored: CodesExperts) -> None:
        self._rounding, self._stored = rounding, stored
        self.multiply = stored.multiply

    def load_rows(self, expert: int, rows: Tensor, first: int) -> None:
        self._stored.load_codes(expert, self._rounding.codes(rows), first)


def rounded(rounding: Rounding, tensor: Tensor) -> Tensor:
    """What the rows [..., inputs] of a tensor are once they are rounded, in float32."""
    codes = rounding.codes(tensor.reshape(-1, tensor.shape[-1]))
    return codes.values().to(tensor.device).view(tensor.shape)
