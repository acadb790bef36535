"""The context of layers during one forward pass."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

    from maxserve.core.interfaces.attention import Attention, Index
    from maxserve.core.interfaces.inputs import StepInputs


__all__ = ["StepContext"]

C = TypeVar("C", bound="StepContext")


@dataclass(slots=True, kw_only=True)
class StepContext:
    """What a runner hands to a model, and a model to its layers, for one forward pass.

    `rotations` are those of the rope of the layer that is called, gathered once a step; None where it has no rope.
    `aux_hidden` are the outputs of the layers `aux_layers`, once these have run.
    """

    inputs: StepInputs
    attention: Attention
    rotations: Tensor | None = None  # [T, width]: cosines and sines of width / 2 each
    aux_layers: tuple[int, ...] = ()
    aux_hidden: list[Tensor] = field(default_factory=list)
    _factors: tuple[Tensor, Tensor] | None = None  # made of `rotations` where these are first applied

    def keep(self, layer: int, hidden: Tensor) -> None:
        """Keeps the output [T, dim] of a layer, if it is one of `aux_layers`; called by the model after each layer."""
        if layer in self.aux_layers:
            self.aux_hidden.append(hidden.clone())  # what follows may write into it

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None = None, index: Index | None = None
    ) -> Tensor:
        """Stores k, v of the new tokens and returns what q sees of each whole sequence.

        q [T, heads, head_dim], k [T, kv_heads, head_dim], v [T, kv_heads, value_size]; returns [T, heads, value_size].
        `sinks` [heads]: scores that take part in each softmax and bring no value. `index`: for an `index_top`.
        """
        if not len(self.inputs.seq_lens):
            return q[..., : v.shape[-1]]  # an empty batch stores and sees nothing
        return self.attention.attend(layer, q, k, v, self.inputs, sinks, index)

    def apply_rope(self, x: Tensor) -> Tensor:
        """`x` [T, heads, head_dim] rotated by the tokens' positions; a new tensor. Entries beyond `width` stay."""
        if self._factors is None:
            assert self.rotations is not None, "the layer has no rope"
            cos, sin = (part.repeat(1, 1, 2) for part in self.rotations[:, None].chunk(2, dim=-1))
            sin[..., : sin.shape[-1] // 2].neg_()
            self._factors = cos, sin
        cos, sin = self._factors
        width = cos.shape[-1]
        if width == x.shape[-1]:
            return (x * cos).addcmul_(x.roll(width // 2, -1), sin)
        out, part = x.clone(), x[..., :width]
        out[..., :width] = (part * cos).addcmul_(part.roll(width // 2, -1), sin)
        return out

    def with_rope(self: C, rotations: Tensor) -> C:
        """The same for layers of a rope with these `rotations`."""
        return replace(self, rotations=rotations, _factors=None)
