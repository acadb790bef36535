"""Decoding of images: the size is asked of the header first, since decoding is what bombs wait for."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

from maxserve.plugins.vision.limits import ImageLimits

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_ROWS = 256  # of an image that are converted in one go: other threads run in between


def decode(data: bytes, limits: ImageLimits) -> Image.Image:
    """The image in RGB, the right way up; ValueError when it is none, or too large."""
    image = _opened(data)
    width, height = image.size
    if width * height > limits.pixels:
        raise ValueError(
            f"it has {width} x {height} pixels, more than the {limits.pixels} an image may have (--max-image-pixels)"
        )
    try:
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # cameras put a preview or a depth map behind
            raise ValueError("it moves: a single image is expected")
        image.load()
        upright = ImageOps.exif_transpose(image)
        return _rgb(upright)
    except Exception as error:  # whatever Pillow stumbles over, the bytes are what is wrong
        raise ValueError(f"it cannot be decoded: {_reason(error)}") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _eight_bits(image).convert("RGB")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # its transparency may be given in ways that RGB alone does not take
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as grey of 8: a sample's share of its maximum is its brightness. Pillow's own conversion takes
    everything above 255 for white."""
    samples = np.asarray(image)
    grey = np.empty(samples.shape, dtype=np.uint8)
    for row in range(0, len(samples), _ROWS):
        # The nearest to sample * 255 / 65535, which is sample / 257; half of that is added below its overflow.
        part = np.clip(samples[row : row + _ROWS], 0, 65535 - 128).astype(np.uint16)
        grey[row : row + _ROWS] = (part + np.uint16(128)) // np.uint16(257)
    return Image.fromarray(grey)


def _opened(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is asked next
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:  # the same
        raise ValueError(f"it is no image in one of the formats {', '.join(FORMATS)}") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
