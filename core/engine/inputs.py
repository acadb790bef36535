"""From a step to its StepInputs: numpy over whole arrays, no loop over tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from maxserve.core.engine.ledger import KNOWN
from maxserve.core.interfaces.inputs import StepInputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from maxserve.core.engine.step import Step
    from maxserve.core.interfaces.adapter import AdapterSlots
    from maxserve.core.interfaces.cache import Cache
    from maxserve.core.interfaces.images import ImagesOfSteps

Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


class _Tokens:
    """The tokens of a pass: `starts[i]` … `stops[i]` - 1 of the sequence in slot i, one after another.

    `positions` are theirs in the sequences, `owners` the rows of the cache that they belong to.
    """

    __slots__ = ("owners", "positions", "prompt_lens", "query_start", "rows", "stops")

    def __init__(self, step: Step, slots: Ints, starts: Ints, stops: Ints) -> None:
        counts = stops - starts
        self.stops = stops
        self.rows = step.ledger.row[slots]
        self.prompt_lens = step.ledger.prompt_length[slots]
        if np.count_nonzero(counts == 1) == len(counts):
            self.query_start, self.positions, self.owners = np.arange(len(slots) + 1), starts, self.rows
        else:
            self.query_start = np.concatenate(([0], np.cumsum(counts)))
            self.positions = np.arange(self.query_start[-1]) + np.repeat(starts - self.query_start[:-1], counts)
            self.owners = np.repeat(self.rows, counts)


class InputsBuilder:
    """Builds the inputs of a step. Sequences keep the order of the plan; an empty step has inputs without tokens.

    `block_tables` are those of each group of layers, [groups, rows, pages], where layers have tables of their own.
    With `adapters`, requests may have some of them.
    """

    def __init__(
        self,
        cache: Cache,
        page_size: int,
        device: torch.device,
        *,
        images: ImagesOfSteps | None = None,
        block_tables: NDArray[np.int32] | None = None,
        adapters: AdapterSlots | None = None,
    ) -> None:
        self._cache = cache
        self._block_tables = block_tables
        self._page_size = page_size
        self._device = device
        self._on_host = device.type == "cpu"
        self._images = images
        self._adapters = adapters

    def build(self, step: Step) -> StepInputs:
        where = _Tokens(step, step.slots, step.starts, step.stops)
        logit_rows = _logit_rows(step, where.query_start)
        inputs = self._inputs(where, self._to_device(_new_tokens(step)), logit_rows)
        if self._images is not None and step.size:
            self._fill_images(self._images, step, inputs)
        if self._adapters is not None:
            own = [0 if s.adapter is None else s.adapter.slot for s in step.sequences]
            slots = np.repeat(np.array(own, dtype=np.int64), step.stops - step.starts)
            inputs.adapter_rows = found = self._adapters.rows(slots, self._device)
            if len(logit_rows) != len(slots):
                found = self._adapters.rows(slots[logit_rows], self._device)
            inputs.logit_adapter_rows = found
        return self._grouped(inputs, where)

    def _fill_images(self, images: ImagesOfSteps, step: Step, inputs: StepInputs) -> None:
        shift = step.ledger.shift[step.slots]
        if (step.ledger.images_end[step.slots] > step.starts).any() or shift.any():
            adapters = [s.adapter if s.adapter is not None and s.adapter.images else None for s in step.sequences]
            located = [(0, 0) if each is None else (each.generation, each.slot) for each in adapters]
            images.fill(inputs, [s.images for s in step.sequences], located, shift)

    def build_pass(self, step: Step, who: Ints, starts: Ints, stops: Ints, input_ids: torch.Tensor) -> StepInputs:
        """The inputs of a pass that a drafter makes after a step, of tokens of some of its sequences."""
        where = _Tokens(step, step.slots[who], starts, stops)
        return self._grouped(self._inputs(where, input_ids, where.query_start[1:] - 1), where)

    def _inputs(self, where: _Tokens, input_ids: torch.Tensor, logit_rows: Ints) -> StepInputs:
        return StepInputs(
            input_ids=input_ids,
            positions=self._to_device(where.positions),
            slot_mapping=self._slot_mapping(self._cache.block_tables, where),
            query_start=where.query_start,
            seq_lens=where.stops,
            prompt_lens=where.prompt_lens,
            block_tables=self._cache.block_tables[where.rows, : -(-int(where.stops.max(initial=0)) // self._page_size)],
            logit_rows=self._to_device(logit_rows),
        )

    def _grouped(self, inputs: StepInputs, where: _Tokens) -> StepInputs:
        """The inputs, with what they are for each group of layers where groups have tables of their own."""
        if self._block_tables is None:
            return inputs
        mapping = self._slot_mapping(self._block_tables, where)
        own = self._block_tables[:, where.rows, : inputs.block_tables.shape[1]]
        parts = zip(mapping, own, strict=True)
        inputs.groups = tuple(replace(inputs, slot_mapping=m, block_tables=t) for m, t in parts)
        return inputs

    def _slot_mapping(self, tables: NDArray[np.int32], where: _Tokens) -> torch.Tensor:
        """Where the tokens go by tables of pages [..., rows, pages], [..., T]; those of a table lie together."""
        index = where.positions // self._page_size
        pages = tables[..., where.owners, index] - index
        return self._to_device(np.ascontiguousarray(pages * self._page_size + where.positions))

    def _to_device(self, array: Ints) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self._on_host else tensor.to(self._device, non_blocking=True)


class Unknown:
    """Where inputs hold tokens that the step before is still drawing: entries `indices` of input_ids.

    `sources` are their indices among the drawn ones. Until they are put in, token 0 stands there.
    """

    __slots__ = ("indices", "sources")

    def __init__(self, step: Step) -> None:
        sources = step.ledger.drawn_at[step.drawing_slots]
        pending = sources != KNOWN
        ends = np.cumsum(step.stops - step.starts)
        self.indices: NDArray[np.int64] = ends[step.draws[pending]] - 1
        self.sources: NDArray[np.int64] = sources[pending]

    @torch.inference_mode()
    def put(self, drawn: torch.Tensor, input_ids: torch.Tensor) -> None:
        """Puts drawn tokens where they belong, in memory of the device; rows without a choice get token 0."""
        if len(self.indices):
            device = input_ids.device
            chosen = drawn[torch.from_numpy(self.sources).to(device, non_blocking=True)].clamp_(min=0)
            input_ids[torch.from_numpy(self.indices).to(device, non_blocking=True)] = chosen


def _logit_rows(step: Step, query_start: Ints) -> Ints:
    """The last tokens of those who draw: one of each, and the one before for each of its drafts."""
    if step.decodes:
        return step.draws
    last: Ints = query_start[1:][step.draws] - 1
    if step.drafts is None:
        return last
    counts = step.draw_counts
    ends = np.cumsum(counts)
    rows: Ints = np.arange(ends[-1]) - np.repeat(ends - 1, counts) + np.repeat(last, counts)
    return rows


def _new_tokens(step: Step) -> Ints:
    """The tokens to compute, one after another; 0 for one that is still being drawn, as Unknown says."""
    if step.decodes:  # each brings its last token
        known = step.ledger.drawn_at[step.slots] == KNOWN
        return np.where(known, step.ledger.last[step.slots], 0)
    tokens = np.zeros(int((step.stops - step.starts).sum()), dtype=np.int64)
    at = 0
    for sequence, start, stop in zip(step.sequences, step.starts.tolist(), step.stops.tolist(), strict=True):
        known = sequence.tokens if step.drafts is None else sequence.drafted(len(sequence.drafts))
        found = known[start:stop]
        tokens[at : at + len(found)] = found
        at += stop - start
    return tokens
