"""A product with a weight of its own for each expert's rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from maxserve.interfaces.inputs import ExpertRows
from maxserve.interfaces.linear import CodesExperts, PackedExperts
from maxserve.loading import Part, Projection, Role

_ALIGNED = 8  # values of 16 bits in the 16 bytes that torch's grouped kernels want rows to be a multiple of


class ExpertLinear(Projection[PackedExperts | CodesExperts]):
    """Multiplies the rows of each expert by a weight of its own: [experts, outputs, inputs].

    `role` and `parts` are those of each expert's. What ranks give of a row is not summed here.
    """

    adapter_kind = "experts"

    def __init__(
        self,
        experts: int,
        inputs: int,
        outputs: int,
        *,
        bias: bool = False,
        role: Role = "replicated",
        parts: Mapping[str, Part] | None = None,
    ) -> None:
        super().__init__(inputs, outputs, bias=bias, role=role, parts=parts, stack=(experts,))
        self.experts = experts

    def forward(self, x: Tensor, ends: Tensor, adapted: ExpertRows | None = None) -> Tensor:
        """[rows, inputs], those of expert e up to `ends[e]`, to [rows, outputs]; `adapted` have an adapter."""
        out = self._multiplied(x, ends)
        return out if adapted is None or self.correction is None else self.correction.correction(x, out, adapted)

    def _multiplied(self, x: Tensor, ends: Tensor) -> Tensor:
        if self.packed is not None:
            return self.packed.multiply(x, ends, self.own_bias)
        assert self.weight is not None, "neither the layer nor a method has the weights"
        product = grouped if _has_kernel(x, self.weight) else one_by_one
        return product(x, self.weight, ends, self.own_bias)

    def extra_repr(self) -> str:
        return f"{self.experts} x ({super().extra_repr()})"


def one_by_one(x: Tensor, weights: Tensor, ends: Tensor, bias: Tensor | None) -> Tensor:
    """The products of the experts that have rows, one after another. Waits for the device to say which these are."""
    out = x.new_empty(x.shape[0], weights.shape[1])
    start = 0
    for expert, end in enumerate(ends.tolist()):
        if end > start:
            out[start:end] = F.linear(x[start:end], weights[expert], None if bias is None else bias[expert])
            start = end
    return out


def grouped(x: Tensor, weights: Tensor, ends: Tensor, bias: Tensor | None) -> Tensor:
    """The same by torch's grouped product, which the host need not wait for."""
    out = F.grouped_mm(x, weights.transpose(1, 2), offs=ends.to(torch.int32))
    if bias is None:
        return out
    owners = torch.searchsorted(ends, torch.arange(x.shape[0], device=x.device), right=True)
    return out + bias.index_select(0, owners)


def _has_kernel(x: Tensor, weights: Tensor) -> bool:
    """Whether torch's grouped product is more than a slow loop here: on CUDA, for bfloat16 in aligned rows."""
    aligned = weights.shape[1] % _ALIGNED == 0 and weights.shape[2] % _ALIGNED == 0
    return x.is_cuda and x.dtype == torch.bfloat16 and aligned and x.shape[0] > 0
