"""What the engine must know of the images in a prompt: by what the cache knows them, and what a step computes of them.

Nothing here runs for a step in which nobody's prompt has images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from maxserve.core.interfaces.batch import Batch, Seen, Span

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from maxserve.core.engine.sequence import Sequence
    from maxserve.core.engine.step import Step
    from maxserve.core.interfaces.request import Image, Request

Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

_SIGN = np.int64(-(2**63))


class PromptImages:
    """The images of one prompt, and what follows from them for every token."""

    __slots__ = ("_keys", "_marks", "end", "images", "places", "shift", "together")

    def __init__(self, request: Request) -> None:
        prompt = np.asarray(request.prompt, dtype=np.int64)
        self.images = request.images
        self.end = self.images[-1].end
        self._keys = _keys(prompt, self.images)
        self._marks = [prompt[image.start : image.end] == image.token for image in self.images]
        self.places, after = _places(self.images, len(prompt))  # [axes, tokens], where an image has axes
        self.shift = after - len(prompt)
        self.together: tuple[Span, ...] = tuple(
            (image.start + first, image.start + last)
            for image, marks in zip(self.images, self._marks, strict=True)
            if image.together
            for first, last in _runs(marks)
        )

    def keyed(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """`tokens`, those of images by what they show."""
        known = tokens.copy()
        prompt = self._keys[: len(known)]
        known[: len(prompt)] = prompt
        return known

    def uncut(self, start: int, count: int) -> int:
        """As many tokens from `start` as do not end amid tokens that see each other: fewer, or if need be more."""
        stop = start + count
        for first, last in self.together:
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


class ImageStep:
    """Tells a batch of the images of its sequences."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def tell(self, step: Step, batch: Batch) -> None:
        ledger, slots = step.ledger, step.slots
        if not step.size:
            return
        with_images = bool((ledger.images_end[slots] > step.starts).any())
        if with_images:
            self._tell_images(step, batch)
        if ledger.shift[slots].any() or (with_images and _have_axes(step)):
            batch.places = self._to_device(_turned_by(step, batch))

    def _tell_images(self, step: Step, batch: Batch) -> None:
        seen: list[Seen] = []
        together: list[tuple[Span, ...]] = []
        for sequence, offset, start, stop in _parts(step, batch):
            images = sequence.images
            together.append(() if images is None else images.together)
            for image, positions, first in () if images is None else images.seen(start, stop):
                seen.append(Seen(image=image, rows=self._to_device(positions - start + offset), first=first))
        batch.images = tuple(seen)
        batch.together = tuple(together) if any(together) else ()

    def _to_device(self, array: Ints) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)


def _parts(step: Step, batch: Batch) -> Iterator[tuple[Sequence, int, int, int]]:
    """Each sequence, the row of the step it begins at, and the positions it computes."""
    offsets = batch.query_start.tolist()
    yield from zip(step.sequences, offsets, step.starts.tolist(), step.stops.tolist(), strict=False)


def _have_axes(step: Step) -> bool:
    return any(s.images is not None and s.images.places is not None for s in step.sequences)


def _turned_by(step: Step, batch: Batch) -> Ints:
    """The places of every token of the step, [axes, T]."""
    counts = step.stops - step.starts
    own = np.arange(batch.query_start[-1]) + np.repeat(step.starts - batch.query_start[:-1], counts)
    shifted = own + np.repeat(step.ledger.shift[step.slots], counts)
    axes = max((len(s.images.places) for s in step.sequences if s.images and s.images.places is not None), default=1)
    places = np.repeat(shifted[None], axes, axis=0)
    if step.decodes and not (step.ledger.prompt_length[step.slots] > step.starts).any():
        return places
    for sequence, offset, start, stop in _parts(step, batch):
        images = sequence.images
        if images is not None and images.places is not None and start < (end := min(stop, sequence.prompt_length)):
            places[:, offset : offset + end - start] = images.places[:, start:end]
    return places


def _keys(prompt: NDArray[np.int64], images: tuple[Image, ...]) -> NDArray[np.int64]:
    """The prompt with 63 bits of its image's hash, and a sign that no token has, for each token of an image."""
    keys = prompt.copy()
    for image in images:
        bits = hashlib.shake_128(image.digest).digest(8 * image.length)
        keys[image.start : image.end] = np.frombuffer(bits, dtype="<i8") | _SIGN
    return keys


def _places(images: tuple[Image, ...], length: int) -> tuple[NDArray[np.int64] | None, int]:
    """Where each token of the prompt lies, and where the token after it would."""
    if all(image.places is None for image in images):
        return None, length
    axes = next(image.places.shape[0] for image in images if image.places is not None)
    places, at, done = np.empty((axes, length), dtype=np.int64), 0, 0
    for image in images:
        places[:, done : image.start] = np.arange(at, at + image.start - done)
        at += image.start - done
        own = np.arange(image.length)[None] if image.places is None else image.places.array()
        places[:, image.start : image.end] = own + at
        at += image.length if image.advance is None else image.advance
        done = image.end
    places[:, done:] = np.arange(at, at + length - done)
    return places, at + length - done


def _runs(marks: NDArray[np.bool_]) -> Iterator[Span]:
    """Where the runs of true entries begin and end."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], marks, [False])).astype(np.int8))).tolist()
    yield from list(pairwise(edges))[::2]
