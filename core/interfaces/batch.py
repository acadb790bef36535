"""The inputs of one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from maxserve.core.interfaces.attention import Attention, Index
    from maxserve.core.interfaces.request import Image


__all__ = ["Batch", "Seen", "Span"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a step computes of an image: features `first` … `first` + len(rows) - 1 go to these rows of the step."""

    image: Image
    rows: Tensor  # [n] int64, indices into T
    first: int


Span: TypeAlias = tuple[int, int]  # first position and the one after the last


@dataclass(slots=True, kw_only=True)
class Batch:
    """One ragged step: B sequences with T new tokens in all, R rows whose logits are wanted.

    `places` are the positions to turn by, where they have several axes or are not those in the sequence. `together`
    has, per sequence, the spans of positions whose tokens see each other; empty where nobody has any.

    Device tensors feed the model; the numpy arrays beside them are the same numbers on the host, so that a
    back end may plan without waiting for the device. Where layers have tables of their own, `groups` are the batch as
    each group of layers sees it, `slots` and `tables` those of the first.
    """

    input_ids: Tensor  # [T] int64
    positions: Tensor  # [T] int64
    slots: Tensor  # [T] int64, where each new token's keys and values go
    query_start: NDArray[np.int64]  # [B+1] offsets into T
    seq_lens: NDArray[np.int64]  # [B] tokens of each sequence after this step
    prompt_lens: NDArray[np.int64]  # [B] tokens of each sequence's prompt, the same in all its steps
    tables: NDArray[np.int32]  # [B, pages] page ids; undefined beyond a sequence's pages, and before all windows
    logit_rows: Tensor  # [R] int64, indices into T
    attention: Attention
    images: tuple[Seen, ...] = ()
    places: Tensor | None = None  # [axes, T] int64
    together: tuple[tuple[Span, ...], ...] = ()  # [B]
    groups: tuple[Batch, ...] = ()

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None = None, index: Index | None = None
    ) -> Tensor:
        """Stores k, v of the new tokens and returns what q sees of each whole sequence.

        q [T, heads, head_dim], k [T, kv_heads, head_dim], v [T, kv_heads, value_size]; returns [T, heads, value_size].
        `sinks` [heads]: scores that take part in each softmax and bring no value. `index`: for an `index_top`.
        """
        if not len(self.seq_lens):
            return q[..., : v.shape[-1]]  # a step of nobody stores and sees nothing
        return self.attention.attend(layer, q, k, v, self, sinks, index)
