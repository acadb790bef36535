"""The images of a prompt: what its tokens stand for, in keys of the cache and in positions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from maxserve.core.interfaces.inputs import Span
    from maxserve.core.interfaces.request import Image, Request


Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
_SIGN = np.int64(-(2**63))


class PromptImages:
    """The images of one prompt, and what follows from them for every token."""

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

    def keyed(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """`tokens`, those of images by what they show."""
        known = tokens.copy()
        prompt = self._keys[: len(known)]
        known[: len(prompt)] = prompt
        return known

    def uncut(self, start: int, count: int) -> int:
        """As many tokens from `start` as do not end amid tokens that see each other: fewer, or if need be more."""
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
