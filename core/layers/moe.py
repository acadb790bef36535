"""How do a few of many feed-forward parts work on each token? Rows are sorted by expert, and each has one product.

Only experts that some token chose are computed, each once for all its tokens. The numbers of a token are summed in the
order of its own choices, so they do not depend on what others chose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maxserve.core.layers.linear import Linear, weight
from maxserve.core.layers.mlp import ACTIVATIONS
from maxserve.core.layers.routing import Choice
from maxserve.core.model.mixture_config import MixtureConfig

if TYPE_CHECKING:
    from maxserve.core.computing import KeptExperts

_ALIGNED = 8  # values of 16 bits in the 16 bytes that torch's grouped kernels want rows to be a multiple of


class ExpertLinear(nn.Module):
    """Multiplies the rows of each expert by a weight of its own: [experts, outputs, inputs].

    As for Linear, once a linear method keeps the weights, `kept` has them and `weight` is gone.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, experts: int, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__()
        self.experts, self.inputs, self.outputs = experts, inputs, outputs
        self.weight = weight(experts, outputs, inputs)
        self.bias = weight(experts, outputs) if bias else None
        self.kept: KeptExperts | None = None

    def forward(self, x: Tensor, ends: Tensor) -> Tensor:
        """[rows, inputs], those of expert e up to `ends[e]`, to [rows, outputs]."""
        if self.kept is not None:
            return self.kept.multiply(x, ends, self.bias)
        assert self.weight is not None, "neither the layer nor a method keeps the weights"
        product = grouped if _has_kernel(x, self.weight) else one_by_one
        return product(x, self.weight, ends, self.bias)

    def give_to(self, kept: KeptExperts) -> None:
        """From now on `kept` has the weights."""
        self.kept = kept
        self.weight = None

    def extra_repr(self) -> str:
        return f"{self.experts} x ({self.inputs} -> {self.outputs}), bias={self.bias is not None}"


class Experts(nn.Module):
    """Gated feed-forward parts of which each token uses the chosen ones: down(activation(gate_up(x))), summed.

    `activation` takes [rows, 2 * ffn_dim], gate and up as the family lays them out, to [rows, ffn_dim]. A choice's
    weight multiplies what comes out of the expert or, with `weighs_input`, what goes in.
    """

    def __init__(
        self,
        experts: int,
        dim: int,
        ffn_dim: int,
        activation: Callable[[Tensor], Tensor],
        *,
        bias: bool = False,
        weighs_input: bool = False,
    ) -> None:
        super().__init__()
        self.gate_up_proj = ExpertLinear(experts, dim, 2 * ffn_dim, bias=bias)
        self.down_proj = ExpertLinear(experts, ffn_dim, dim, bias=bias)
        self.experts, self.activation, self.weighs_input = experts, activation, weighs_input

    def forward(self, x: Tensor, choice: Choice) -> Tensor:
        """[T, dim] to [T, dim]."""
        tokens, top_k = choice.experts.shape
        chosen, order = choice.experts.flatten().sort(stable=True)
        ends = torch.searchsorted(chosen, torch.arange(self.experts, device=x.device), right=True)
        rows = x.index_select(0, order // top_k)
        if self.weighs_input:
            rows = (rows * choice.weights.flatten()[order, None]).to(x.dtype)
        made: Tensor = self.down_proj(self.activation(self.gate_up_proj(rows, ends)), ends)
        made = made.index_select(0, _inverse(order)).view(tokens, top_k, x.shape[1])
        if not self.weighs_input:
            made = made * choice.weights[..., None]
        return made.sum(1).to(x.dtype)


class Mixture(nn.Module):
    """A router, `gate`, and experts, under the names that most checkpoints use; a family says how to `choose`."""

    def __init__(self, config: MixtureConfig) -> None:
        super().__init__()
        self.config = config
        self.gate = Linear(config.dim, config.experts)
        self.experts = Experts(config.experts, config.dim, config.expert_dim, gated(ACTIVATIONS[config.activation]))

    def choose(self, logits: Tensor) -> Choice:
        """The experts of each token by what the router says, [T, experts]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """[T, dim] to [T, dim]."""
        out: Tensor = self.experts(x, self.choose(self.gate(x)))
        return out


def gated(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """activation(gate) * up, where all of the gate lies before all of up."""

    def apply(gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return activation(gate) * up

    return apply


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


def _inverse(order: Tensor) -> Tensor:
    """Where in `order` each number is."""
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
