"""A prompt's text with room for images, and the images, as tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from maxserve.interfaces.errors import ModelError, RequestError
from maxserve.interfaces.images import ReadImage
from maxserve.interfaces.request import Image, Numbers
from maxserve.interfaces.tokenizer import Tokenizer
from maxserve.plugins.api.common.literal_encoding import PromptText

Encode = Callable[[PromptText], list[int]]


def image_prompt(
    prompt: PromptText, images: Sequence[ReadImage], placeholder: str, tokenizer: Tokenizer, encode: Encode
) -> tuple[list[int], tuple[Image, ...]]:
    """The tokens of `prompt`, in which each `placeholder` makes room for the next image, and where they came to lie.

    RequestError when there are not as many places as images.
    """
    pieces = prompt.split(placeholder)
    _check_places(len(pieces) - 1, images, placeholder)
    for name in {image.token for image in images}:
        if any(piece.holds(name) for piece in pieces):
            raise RequestError(f"the text {name!r} stands for images and cannot be written", param="messages")
    texts = [PromptText(image.text) for image in images] + [PromptText("")]
    tokens = encode(PromptText.join(part for pair in zip(pieces, texts, strict=True) for part in pair))
    return tokens, tuple(_placed(tokens, images, tokenizer))


def _check_places(places: int, images: Sequence[ReadImage], placeholder: str) -> None:
    if places < len(images):
        raise RequestError(
            f"the chat template makes room for {places} of {len(images)} images; it may take none where some stand",
            param="messages",
        )
    if places > len(images):
        raise RequestError(f"the text {placeholder!r} stands for an image and cannot be written", param="messages")


def _placed(tokens: list[int], images: Sequence[ReadImage], tokenizer: Tokenizer) -> list[Image]:
    prompt, placed, ids = np.asarray(tokens, dtype=np.int64), [], {}
    for image in images:
        ids[image.token] = tokenizer.token_id(image.token)
    at = {name: np.flatnonzero(prompt == id) for name, id in ids.items()}
    done = dict.fromkeys(at, 0)
    for image in images:
        name, count, id = image.token, image.text.count(image.token), ids[image.token]
        mine = at[name][done[name] : done[name] + count]
        done[name] += count
        if id is None or len(mine) < count or not count:
            raise ModelError(f"the tokenizer does not keep {name!r}, which stands for images, as one token")
        placed.append(_image(image, int(mine[0]), int(mine[-1]) + 1, id))
    return placed


def _image(image: ReadImage, start: int, end: int, token: int) -> Image:
    tensors = {name: Numbers.of(np.ascontiguousarray(values)) for name, values in image.tensors.items()}
    return Image(
        digest=_digest(tensors),
        start=start,
        length=end - start,
        token=token,
        tensors=tensors,
        mrope_positions=None
        if image.mrope_positions is None
        else Numbers.of(np.ascontiguousarray(image.mrope_positions, dtype=np.int64)),
        advance=image.advance,
        bidirectional=image.bidirectional,
    )


def _digest(tensors: dict[str, Numbers]) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    for name in sorted(tensors):
        numbers = tensors[name]
        digest.update(repr((name, numbers.dtype, numbers.shape, len(numbers.data))).encode())
        digest.update(numbers.data)
    return digest.digest()
