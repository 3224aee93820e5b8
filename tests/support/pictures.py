"""Pictures as bytes, in every form that tests need, and what a decoder says of them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pix2score.errors import ImageFailure
from pix2score.images.decode import open_upright, to_rgb
from pix2score.images.preprocess import Preprocess

EIGHT = Preprocess(size=8)


Pixels = npt.NDArray[np.uint8]


def encode(pixels: npt.NDArray[Any] | Image.Image, form: str = "PNG", **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def noise(height: int, width: int, channels: int = 3, seed: int = 7) -> Pixels:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height: int, width: int) -> Pixels:
    """A gradient that JPEG keeps to within a few levels; no two of its eight turns are alike."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    return np.stack([250 * x, 250 * y, 125 * (x + y * y)], axis=-1).astype(np.uint8)


def flat(colour: tuple[int, ...], height: int = 8, width: int = 8) -> Pixels:
    return np.full((height, width, len(colour)), colour, dtype=np.uint8)


def over_white(colours: npt.NDArray[Any], alpha: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``colours`` 0..255, ``alpha`` 0..1."""
    return colours * alpha + 255 * (1 - alpha)


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def png(width: int, height: int, bit_depth: int = 8, colour_type: int = 2, rows: bytes = b"") -> bytes:
    """A PNG whose header claims what it likes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def code_of(data: bytes, read: Callable[[bytes], object] = lambda data: to_rgb(data, EIGHT)) -> str:
    with pytest.raises(ImageFailure) as caught:
        read(data)
    assert caught.value.detail
    assert "\n" not in caught.value.detail
    return caught.value.code


def chunk(name: bytes, content: bytes, *, checksum: int | None = None, length: int | None = None) -> bytes:
    """A PNG chunk that may lie about its length or checksum."""
    right = zlib.crc32(name + content)
    return (
        struct.pack(">I", len(content) if length is None else length)
        + name
        + content
        + struct.pack(">I", right if checksum is None else checksum)
    )


def pixels_of(data: bytes) -> Pixels:
    return np.asarray(open_upright(data))
