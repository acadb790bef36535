"""What config.json says about mixtures of experts."""

from __future__ import annotations

from dataclasses import dataclass

from maxserve.architectures.layers.config import ModelConfig
from maxserve.interfaces.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureConfig(ModelConfig):
    """A decoder some of whose layers are mixtures: `experts` with an inner size of `expert_dim`, `top_k` for a token.

    `sparse` says which layers these are; empty: all. The others have one feed-forward part of `ffn_dim`.
    """

    experts: int
    top_k: int
    expert_dim: int
    sparse: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if self.top_k > self.experts:
            raise ModelError(
                f"config.json: {self.top_k} experts for each token are more than the {self.experts} there are"
            )

    @property
    def layer_values(self) -> int:
        """Values that a mixture needs for each token: a row for each choice, sorted, on its way and in order again."""
        return self.top_k * (4 * self.dim + 3 * self.expert_dim)

    def is_sparse(self, layer: int) -> bool:
        """Whether the layer is a mixture."""
        return self.sparse[layer] if self.sparse else True
