"""What config.json says about multi-head latent attention."""

from __future__ import annotations

import math
from dataclasses import dataclass

from maxserve.architectures.layers.mixture_config import MixtureConfig
from maxserve.architectures.layers.rope_config import RopeConfig
from maxserve.interfaces.cache import CacheLayer


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentConfig(MixtureConfig):
    """A decoder whose tokens keep one latent vector of `kv_rank` and one rotated key of `rope_dim` for all heads.

    A head's queries are `nope_dim` entries without positions and `rope_dim` with rotary positions, the latter in
    neighbouring pairs if `interleaved`. `q_rank` None: queries come from the hidden state at once. With an `index_top`
    a token sees that many others, those that an indexer of `index_heads` heads of `index_dim` numbers scores highest.
    """

    kv_rank: int
    q_rank: int | None
    nope_dim: int
    rope_dim: int
    value_dim: int
    interleaved: bool = True  # pyright: ignore[reportIncompatibleMethodOverride]
    index_heads: int = 0
    index_dim: int = 0
    index_top: int = 0

    @property
    def rotary_dim(self) -> int:
        return self.rope_dim

    @property
    def cache_layers(self) -> tuple[CacheLayer, ...]:
        """Of a token its latent vector, which is key and value, behind it the rotated key, and that of the indexer."""
        layer = CacheLayer(
            kv_heads=1,
            head_dim=self.kv_rank + self.rope_dim + self.index_dim,
            value_dim=self.kv_rank,
            values_in_keys=True,
            scale=float((self.nope_dim + self.rope_dim) ** -0.5 * _stretched(self.rope) ** 2),
            index_dim=self.index_dim,
            index_top=self.index_top,
        )
        return (layer,) * self.layers


def _stretched(rope: RopeConfig) -> float:
    """What queries and keys are each multiplied by for texts longer than those of the training."""
    if rope.kind == "default" or not rope.mscale_all_dim or rope.factor <= 1:
        return 1.0
    return 0.1 * rope.mscale_all_dim * math.log(rope.factor) + 1.0
