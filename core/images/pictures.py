"""Are these bytes a picture, and of what size? Asked of the header first, since decoding is what bombs wait for."""

from __future__ import annotations

import io
import warnings

from PIL import Image, ImageOps

from maxserve.core.images.limits import ImageLimits

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def decode(data: bytes, limits: ImageLimits) -> Image.Image:
    """The picture in RGB, the right way up; ValueError when it is none, or too large."""
    picture = _opened(data)
    width, height = picture.size
    if width * height > limits.pixels:
        raise ValueError(
            f"it has {width} x {height} pixels, more than the {limits.pixels} a picture may have (--max-image-pixels)"
        )
    try:
        if getattr(picture, "n_frames", 1) > 1:
            raise ValueError("it moves: a single picture is expected")
        picture.load()
        upright = ImageOps.exif_transpose(picture)
        if upright.mode in ("P", "PA"):
            upright = upright.convert("RGBA")  # its transparency may be given in ways that RGB alone does not take
        return upright.convert("RGB")
    except Exception as error:  # whatever Pillow stumbles over, the bytes are what is wrong
        raise ValueError(f"it cannot be decoded: {_reason(error)}") from error


def _opened(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is asked next
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:  # the same
        raise ValueError(f"it is no picture in one of the formats {', '.join(FORMATS)}") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
