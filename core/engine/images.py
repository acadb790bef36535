"""What the engine must know of the images in a prompt: by what the cache knows them, and what a step computes of them.

Nothing here runs for a step without images.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from maxserve.core.engine.prompt_images import Ints
from maxserve.core.interfaces.inputs import ImageSpan, Span, StepInputs

if TYPE_CHECKING:
    from maxserve.core.engine.sequence import Sequence
    from maxserve.core.engine.step import Step


class ImageStep:
    """Fills in what a step computes of the images of its sequences."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def fill(self, step: Step, inputs: StepInputs) -> None:
        ledger, slots = step.ledger, step.slots
        if not step.size:
            return
        with_images = bool((ledger.images_end[slots] > step.starts).any())
        if with_images:
            self._fill_images(step, inputs)
        if ledger.shift[slots].any() or (with_images and _have_axes(step)):
            inputs.mrope_positions = self._to_device(_mrope_positions(step, inputs))

    def _fill_images(self, step: Step, inputs: StepInputs) -> None:
        spans: list[ImageSpan] = []
        bidirectional: list[tuple[Span, ...]] = []
        for sequence, offset, start, stop in _parts(step, inputs):
            images = sequence.images
            bidirectional.append(() if images is None else images.bidirectional)
            for image, positions, first in () if images is None else images.seen(start, stop):
                adapter = sequence.adapter if sequence.adapter is not None and sequence.adapter.images else None
                spans.append(
                    ImageSpan(
                        image=image,
                        rows=self._to_device(positions - start + offset),
                        first=first,
                        adapter=0 if adapter is None else adapter.generation,
                        adapter_slot=0 if adapter is None else adapter.slot,
                    )
                )
        inputs.images = tuple(spans)
        inputs.bidirectional = tuple(bidirectional) if any(bidirectional) else ()

    def _to_device(self, array: Ints) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)


def _parts(step: Step, inputs: StepInputs) -> Iterator[tuple[Sequence, int, int, int]]:
    """Each sequence, the row of the step it begins at, and the positions it computes."""
    offsets = inputs.query_start.tolist()
    yield from zip(step.sequences, offsets, step.starts.tolist(), step.stops.tolist(), strict=False)


def _have_axes(step: Step) -> bool:
    return any(s.images is not None and s.images.mrope_positions is not None for s in step.sequences)


def _mrope_positions(step: Step, inputs: StepInputs) -> Ints:
    """The positions that rope applies to every token of the step, [axes, T]."""
    counts = step.stops - step.starts
    own = np.arange(inputs.query_start[-1]) + np.repeat(step.starts - inputs.query_start[:-1], counts)
    shifted = own + np.repeat(step.ledger.shift[step.slots], counts)
    found = [s.images.mrope_positions for s in step.sequences if s.images is not None]
    axes = max((len(positions) for positions in found if positions is not None), default=1)
    positions = np.repeat(shifted[None], axes, axis=0)
    if step.decodes and not (step.ledger.prompt_length[step.slots] > step.starts).any():
        return positions
    for sequence, offset, start, stop in _parts(step, inputs):
        mine = None if sequence.images is None else sequence.images.mrope_positions
        if mine is not None and start < (end := min(stop, sequence.prompt_length)):
            positions[:, offset : offset + end - start] = mine[:, start:end]
    return positions
