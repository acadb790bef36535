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

    `cos` and `sin` are those of the rope of the layer that is called, gathered once a step; None where it has no rope.
    `aux_hidden` are the outputs of the layers `aux_layers`, once these have run.
    """

    inputs: StepInputs
    attention: Attention
    cos: Tensor | None = None  # [T, 1, width]
    sin: Tensor | None = None  # [T, 1, width], negative in the first half
    aux_layers: tuple[int, ...] = ()
    aux_hidden: list[Tensor] = field(default_factory=list)

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
        assert self.cos is not None, "the layer has no rope"
        assert self.sin is not None
        width = self.cos.shape[-1]
        if width == x.shape[-1]:
            return (x * self.cos).addcmul_(x.roll(width // 2, -1), self.sin)
        out, part = x.clone(), x[..., :width]
        out[..., :width] = (part * self.cos).addcmul_(part.roll(width // 2, -1), self.sin)
        return out

    def with_rope(self: C, cos: Tensor, sin: Tensor) -> C:
        """The same for layers of a rope with these cosines and sines."""
        return replace(self, cos=cos, sin=sin)
