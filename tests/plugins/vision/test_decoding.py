"""What is an image, and what only says that it is one?"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.image_utils import load_image

from maxserve.plugins.vision.decoding import _rgb, decode
from maxserve.plugins.vision.limits import ImageLimits

LIMITS = ImageLimits(count=1, size=1 << 20, pixels=10_000, seconds=1)


def written(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is that large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_formats(kind: str) -> None:
    image = decode(written(Image.new("RGB", (7, 5), (200, 10, 20)), kind), LIMITS)
    assert image.mode == "RGB"
    assert image.size == (7, 5)
    assert np.abs(np.asarray(image).astype(int) - (200, 10, 20)).max() < 12


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_other_modes_become_colours(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert decode(written(Image.new(mode, (4, 4)), kind), LIMITS).mode == "RGB"


GREYS = np.arange(65536, dtype=np.uint16).reshape(256, 256)
SIXTEEN = ImageLimits(count=1, size=1 << 20, pixels=65536, seconds=1)


def test_sixteen_bits_of_grey_keep_their_brightness() -> None:
    """Every sample becomes the nearest of the 256 greys; Pillow would make all above 255 white."""
    seen = np.asarray(decode(written(Image.fromarray(GREYS)), SIXTEEN))
    assert (seen == np.round(GREYS / 257)[..., None]).all()


@pytest.mark.parametrize("kind", ["<u2", ">u2", "<i4"])
def test_all_modes_of_sixteen_bits(kind: str) -> None:
    seen = np.asarray(_rgb(Image.fromarray(GREYS.astype(kind))))
    assert (seen == np.round(GREYS / 257)[..., None]).all()


def sixteen_bit_png(colour_type: int, samples: np.ndarray[Any, Any]) -> bytes:
    height, width, _ = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colour_type", "channels", "shown"), [(0, 1, 1), (4, 2, 1), (2, 3, 3), (6, 4, 3)])
def test_pngs_of_sixteen_bits(colour_type: int, channels: int, shown: int) -> None:
    samples = np.random.default_rng(0).integers(0, 65536, (9, 7, channels), dtype=np.uint16)
    seen = np.asarray(decode(sixteen_bit_png(colour_type, samples), LIMITS)).astype(float)
    assert np.abs(seen - samples[..., :shown] / 257).max() <= 1


def test_sixteen_bits_the_right_way_up() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    seen = decode(written(Image.fromarray(GREYS[:100, :50]), exif=exif), SIXTEEN)
    assert seen.size == (100, 50)
    assert (np.asarray(seen)[..., 0] == np.rot90(np.round(GREYS[:100, :50] / 257), -1)).all()


def test_the_first_of_what_a_camera_puts_into_one_file() -> None:
    front, depth = Image.new("RGB", (8, 8), (200, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 200))
    seen = decode(written(front, "MPO", save_all=True, append_images=[depth]), LIMITS)
    assert np.abs(np.asarray(seen).astype(int) - (200, 0, 0)).max() < 12


def test_ordinary_images_are_what_transformers_makes_of_them() -> None:
    rng = np.random.default_rng(0)
    for mode, channels in (("L", 1), ("RGB", 3), ("RGBA", 4), ("LA", 2)):
        pixels = rng.integers(0, 256, (5, 6, channels), dtype=np.uint8)
        data = written(Image.fromarray(pixels.squeeze(), mode))
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(load_image(image))
        assert (np.asarray(decode(data, LIMITS)) == expected).all()


def test_transparent_palettes() -> None:
    image = Image.new("P", (4, 4))
    image.putpalette([255, 0, 0, 0, 255, 0])
    assert decode(written(image, transparency=bytes([0, 128])), LIMITS).mode == "RGB"


def test_the_right_way_up() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees
    assert decode(written(Image.new("RGB", (7, 5)), "JPEG", exif=exif), LIMITS).size == (5, 7)


@pytest.mark.parametrize("size", [(101, 100), (20_000, 20_000), (2**31 - 1, 1)])
def test_bombs_are_known_by_their_header(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"--max-image-pixels|no image"):
        decode(bomb(*size), LIMITS)


def test_animated_images() -> None:
    frames = [Image.new("RGB", (4, 4), (i, 0, 0)) for i in (0, 200)]
    moving = written(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="it moves"):
        decode(moving, LIMITS)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"abc",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        written(Image.new("RGB", (40, 40), (9, 8, 7)))[:60],
        bomb(50, 50)[:70],
        written(Image.new("RGB", (4, 4)), "TIFF"),
    ],
)
def test_what_is_none(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"no image|cannot be decoded"):
        decode(data, LIMITS)
