"""Images in prompts and steps: by what the cache knows them, in which positions, and what a step computes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from maxserve.interfaces.inputs import ImageSpan, Span, StepInputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from maxserve.interfaces.images import StepImagesContext
    from maxserve.interfaces.request import Image, Request


Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
_SIGN = np.int64(-(2**63))


class PromptImages:
    """An ImagesOfPrompt."""

    __slots__ = ("_keys", "_marks", "end", "images", "mrope_positions", "shift", "bidirectional")

    def __init__(self, request: Request) -> None:
        prompt = np.asarray(request.prompt, dtype=np.int64)
        self.images = request.images
        self.end = self.images[-1].end
        self._keys = _keys(prompt, self.images)
        self._marks = [prompt[image.start : image.end] == image.token for image in self.images]
        self.mrope_positions, after = _prompt_positions(
            self.images, len(prompt)
        )  # [axes, tokens], where an image has axes
        self.shift = after - len(prompt)
        self.bidirectional: tuple[Span, ...] = tuple(
            (image.start + first, image.start + last)
            for image, marks in zip(self.images, self._marks, strict=True)
            if image.bidirectional
            for first, last in _runs(marks)
        )

    @property
    def axes(self) -> int:
        """How many axes its positions have, 0 where they are those in the prompt."""
        return 0 if self.mrope_positions is None else len(self.mrope_positions)

    def keyed(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        known = tokens.copy()
        prompt = self._keys[: len(known)]
        known[: len(prompt)] = prompt
        return known

    def uncut(self, start: int, count: int) -> int:
        stop = start + count
        for first, last in self.bidirectional:
            if first < stop < last:
                return (first if first > start else last) - start
        return count

    def seen(self, start: int, stop: int) -> Iterator[tuple[Image, Ints, int]]:
        """What lies in positions `start` … `stop` - 1: the image, the positions, and the number of their first feature.

        Images whose positions hold no feature are left out.
        """
        for image, marks in zip(self.images, self._marks, strict=True):
            low, high = max(start, image.start) - image.start, min(stop, image.end) - image.start
            if low < high and len(inside := np.flatnonzero(marks[low:high])):
                yield image, inside + (image.start + low), int(marks[:low].sum())


def _keys(prompt: NDArray[np.int64], images: tuple[Image, ...]) -> NDArray[np.int64]:
    """The prompt with 63 bits of its image's hash, and a sign that no token has, for each token of an image."""
    keys = prompt.copy()
    for image in images:
        bits = hashlib.shake_128(image.digest).digest(8 * image.length)
        keys[image.start : image.end] = np.frombuffer(bits, dtype="<i8") | _SIGN
    return keys


def _prompt_positions(images: tuple[Image, ...], length: int) -> tuple[NDArray[np.int64] | None, int]:
    """Where each token of the prompt lies, and where the token after it would."""
    if all(image.mrope_positions is None for image in images):
        return None, length
    axes = next(image.mrope_positions.shape[0] for image in images if image.mrope_positions is not None)
    positions, at, done = np.empty((axes, length), dtype=np.int64), 0, 0
    for image in images:
        positions[:, done : image.start] = np.arange(at, at + image.start - done)
        at += image.start - done
        own = np.arange(image.length)[None] if image.mrope_positions is None else image.mrope_positions.array()
        positions[:, image.start : image.end] = own + at
        at += image.length if image.advance is None else image.advance
        done = image.end
    positions[:, done:] = np.arange(at, at + length - done)
    return positions, at + length - done


def _runs(marks: NDArray[np.bool_]) -> Iterator[Span]:
    """Where the runs of true entries begin and end."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], marks, [False])).astype(np.int8))).tolist()
    yield from list(pairwise(edges))[::2]


class StepImages:
    """An ImagesOfSteps."""

    def __init__(self, context: StepImagesContext) -> None:
        self._device = context.device

    def prompt(self, request: Request) -> PromptImages:
        return PromptImages(request)

    def fill(
        self,
        inputs: StepInputs,
        images: Sequence[PromptImages | None],
        adapters: Sequence[tuple[int, int]],
        shift: NDArray[np.int64],
    ) -> None:
        starts = inputs.seq_lens - np.diff(inputs.query_start)
        ends = np.fromiter((0 if each is None else each.end for each in images), dtype=np.int64, count=len(images))
        with_images = bool((ends > starts).any())
        if with_images:
            self._fill_images(inputs, starts, images, adapters)
        if shift.any() or (with_images and any(each is not None and each.axes for each in images)):
            inputs.mrope_positions = self._to_device(_mrope_positions(inputs, starts, images, shift))

    def _fill_images(
        self,
        inputs: StepInputs,
        starts: NDArray[np.int64],
        images: Sequence[PromptImages | None],
        adapters: Sequence[tuple[int, int]],
    ) -> None:
        spans: list[ImageSpan] = []
        for own, (generation, slot), offset, start, stop in zip(
            images, adapters, inputs.query_start.tolist(), starts.tolist(), inputs.seq_lens.tolist(), strict=False
        ):
            for image, positions, first in () if own is None else own.seen(start, stop):
                rows = self._to_device(positions - start + offset)
                spans.append(ImageSpan(image=image, rows=rows, first=first, adapter=generation, adapter_slot=slot))
        bidirectional = tuple(() if own is None else own.bidirectional for own in images)
        inputs.images = tuple(spans)
        inputs.bidirectional = bidirectional if any(bidirectional) else ()

    def _to_device(self, array: Ints) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)


def _mrope_positions(
    inputs: StepInputs, starts: NDArray[np.int64], images: Sequence[PromptImages | None], shift: NDArray[np.int64]
) -> Ints:
    """The positions that rope applies to every token of the step, [axes, T]."""
    counts = inputs.seq_lens - starts
    own = np.arange(inputs.query_start[-1]) + np.repeat(starts - inputs.query_start[:-1], counts)
    axes = max((each.axes for each in images if each is not None), default=1)
    positions = np.repeat((own + np.repeat(shift, counts))[None], max(axes, 1), axis=0)
    for i in np.flatnonzero(inputs.prompt_lens > starts).tolist():
        each, start, offset = images[i], int(starts[i]), int(inputs.query_start[i])
        end = min(int(inputs.seq_lens[i]), int(inputs.prompt_lens[i]))
        if each is not None and each.mrope_positions is not None:
            positions[:, offset : offset + end - start] = each.mrope_positions[:, start:end]
    return positions
