"""Mixtures of experts. Rows are sorted by expert, and each has one product.

Only experts that some token chose are computed, each once for all its tokens. The numbers of a token are summed in the
order of its own choices, so they do not depend on what others chose.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from maxserve.architectures.layers.expert_linear import ExpertLinear
from maxserve.architectures.layers.mixture_config import MixtureConfig
from maxserve.architectures.layers.mlp import ACTIVATIONS, gate_up_parts
from maxserve.architectures.layers.routing import Choice
from maxserve.interfaces.inputs import ExpertRows
from maxserve.loading import Linear, Part, current_shard


class Experts(nn.Module):
    """Gated feed-forward parts of which each token uses the chosen ones: down(activation(gate_up(x))), summed.

    `activation` takes [rows, 2 * ffn_dim], gate and up as the family lays them out, to [rows, ffn_dim]. A choice's
    weight multiplies what comes out of the expert or, with `weighs_input`, what goes in. `alternating`: outputs of gate
    and up lie in pairs, not all of the gate first.
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
        alternating: bool = False,
    ) -> None:
        super().__init__()
        parts = {"gate_up_proj": Part(2 * ffn_dim, ffn_dim)} if alternating else gate_up_parts(ffn_dim)
        self.gate_up_proj = ExpertLinear(experts, dim, 2 * ffn_dim, bias=bias, role="column", parts=parts)
        self.down_proj = ExpertLinear(experts, ffn_dim, dim, bias=bias, role="row")
        self.experts, self.activation, self.weighs_input = experts, activation, weighs_input
        self.shard = current_shard()

    def forward(self, x: Tensor, choice: Choice) -> Tensor:
        """[T, dim] to [T, dim]."""
        tokens, top_k = choice.experts.shape
        chosen, order = choice.experts.flatten().sort(stable=True)
        ends = torch.searchsorted(chosen, torch.arange(self.experts, device=x.device), right=True)
        owners = order // top_k
        rows, adapted = x.index_select(0, owners), self._adapted(owners, ends)
        if self.weighs_input:
            rows = (rows * choice.weights.flatten()[order, None]).to(x.dtype)
        made: Tensor = self.down_proj(self.activation(self.gate_up_proj(rows, ends, adapted)), ends, adapted)
        made = made.index_select(0, _inverse(order)).view(tokens, top_k, x.shape[1])
        if not self.weighs_input:
            made = made * choice.weights[..., None]
        out = made.sum(1).to(x.dtype)
        return out if self.shard is None else self.shard.sum(out)

    def _adapted(self, tokens: Tensor, ends: Tensor) -> ExpertRows | None:
        """The rows, of these tokens and in the order of experts, that have an adapter."""
        bound = self.gate_up_proj.correction or self.down_proj.correction
        return None if bound is None else bound.step.of_experts(tokens, ends)


class Mixture(nn.Module):
    """A router, `gate`, and experts, under the names that most checkpoints use; a family says how to `choose`."""

    def __init__(self, config: MixtureConfig) -> None:
        super().__init__()
        self.config = config
        self.gate = Linear(config.dim, config.experts, roundable=False)
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


def _inverse(order: Tensor) -> Tensor:
    """Where in `order` each number is."""
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
