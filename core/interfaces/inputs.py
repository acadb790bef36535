"""The inputs of one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from maxserve.core.interfaces.request import Image


__all__ = ["AdapterRows", "ExpertRows", "ImageSpan", "Span", "StepInputs"]

Span: TypeAlias = tuple[int, int]  # first position and the one after the last


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpan:
    """What a step computes of an image: features `first` … `first` + len(rows) - 1 go to these rows of the step.

    `adapter` is the generation of the adapter that changes its features, 0 for none, and `adapter_slot` its slot.
    """

    image: Image
    rows: Tensor  # [n] int64, indices into T
    first: int
    adapter: int = 0
    adapter_slot: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRows:
    """The rows that have an adapter, by slot: T rows of a step, or those of them whose logits are wanted.

    `adapter_slots` are those of all rows. `order` has the numbers of rows that have one, in ascending order for each
    adapter: `groups` (slot, start, stop) says which entries are whose.
    """

    adapter_slots: Tensor  # [T] int64, 0 for none
    order: Tensor  # [N] int64, indices into T
    groups: NDArray[np.int64]  # [adapters, 3], contiguous


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertRows:
    """The rows that experts compute and that have an adapter, by expert and slot.

    `order` has their numbers; `groups` (slot, expert, start, stop) says which entries are whose.
    """

    order: Tensor  # [n] int64, indices into N
    groups: NDArray[np.int64]  # [groups, 4], contiguous


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
    logit_rows: Tensor  # [R] int64, ascending indices into T
    images: tuple[ImageSpan, ...] = ()
    mrope_positions: Tensor | None = None  # [axes, T] int64
    bidirectional: tuple[tuple[Span, ...], ...] = ()  # [B]
    groups: tuple[StepInputs, ...] = ()
    adapter_rows: AdapterRows | None = None  # None where no row has an adapter
    logit_adapter_rows: AdapterRows | None = None  # the same of the R rows
