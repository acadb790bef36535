"""The inputs of one step, and what layers may ask for while it runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from maxserve.core.interfaces.attention import Attention, Index
    from maxserve.core.interfaces.request import Image


__all__ = ["ImageSpan", "Span", "StepContext", "StepInputs"]

Span: TypeAlias = tuple[int, int]  # first position and the one after the last
C = TypeVar("C", bound="StepContext")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpan:
    """What a step computes of an image: features `first` … `first` + len(rows) - 1 go to these rows of the step."""

    image: Image
    rows: Tensor  # [n] int64, indices into T
    first: int


@dataclass(slots=True, kw_only=True)
class StepInputs:
    """One ragged step as data: B sequences with T new tokens in all, R rows whose logits are wanted.

    Tensors are on the device and feed the model; numpy arrays are on the host, so that a back end may plan without
    waiting for the device. `mrope_positions` are the positions that rope applies, where they have several axes or are
    not those in the sequence. `bidirectional` has, per sequence, the spans of positions whose tokens see each other;
    it is empty where no sequence has any. Where groups of layers have block tables of their own, `groups` are the
    inputs as each group has them; `slot_mapping` and `block_tables` are those of the first.
    """

    input_ids: Tensor  # [T] int64
    positions: Tensor  # [T] int64
    slot_mapping: Tensor  # [T] int64, where each new token's keys and values go
    query_start: NDArray[np.int64]  # [B+1] offsets into T
    seq_lens: NDArray[np.int64]  # [B] tokens of each sequence after this step
    prompt_lens: NDArray[np.int64]  # [B] tokens of each sequence's prompt, the same in all its steps
    block_tables: NDArray[np.int32]  # [B, pages] page ids; undefined beyond a sequence's pages, and before all windows
    logit_rows: Tensor  # [R] int64, indices into T
    images: tuple[ImageSpan, ...] = ()
    mrope_positions: Tensor | None = None  # [axes, T] int64
    bidirectional: tuple[tuple[Span, ...], ...] = ()  # [B]
    groups: tuple[StepInputs, ...] = ()
    adapter_slots: Tensor | None = None  # [T] int64, 0 for none; None where no row has an adapter


@dataclass(slots=True, kw_only=True)
class StepContext:
    """What a runner hands to a model, and a model to its layers, for one forward pass.

    `cos` and `sin` are those of the rope of the layer that is called, gathered once a step; None where it has no rope.
    """

    inputs: StepInputs
    attention: Attention
    cos: Tensor | None = None  # [T, 1, width]
    sin: Tensor | None = None  # [T, 1, width], negative in the first half

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
