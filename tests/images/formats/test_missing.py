"""A file that ends in order but lacks pixels is TRUNCATED: no decoder's filling is taken for a picture."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.images.formats.test_colours import PNG_KINDS, png_of
from tests.support.pictures import chunk, code_of, encode, flat, noise, pixels_of, smooth

END = b"\xff\xd9"
JPEGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "colour": (noise(96, 128), {}),
    "4:4:4": (noise(96, 128), {"subsampling": 0}),
    "grey": (noise(96, 128, 1), {}),
    "inks": (Image.fromarray(noise(96, 128, 4), "CMYK"), {}),
    "RGB": (Image.fromarray(noise(96, 128)), {"keep_rgb": True}),
    "a restart per row": (noise(96, 128), {"restart_marker_rows": 1}),
    "larger than is decoded": (noise(512, 640), {}),
    "progressive": (noise(96, 128), {"progressive": True}),
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("behind", [b"", bytes(99), b"PK\3\4"], ids=["nothing", "zeros", "an archive"])
def test_a_jpeg_whose_end_mark_comes_before_its_last_pixels_is_truncated(kind: str, behind: bytes) -> None:
    picture, options = JPEGS[kind]
    data = encode(picture, "JPEG", quality=90, **options)
    pixels_of(data + behind)
    start = data.index(b"\xff\xda")
    for share in (0.3, 0.6, 0.9):
        cut = data[: start + int((len(data) - start) * share)].rstrip(b"\xff")
        if options.get("progressive"):
            cut = cut[: cut.rindex(b"\xff\xda")]  # a scan that is there in part is not told from a whole one
        assert code_of(cut + END + behind) == "TRUNCATED"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_jpeg_that_ends_in_grey_is_whole(options: dict[str, Any]) -> None:
    picture = smooth(96, 128)
    picture[48:] = 128
    data = encode(picture, "JPEG", quality=90, **options)
    assert (pixels_of(data)[-1] == 128).all()
    assert np.array_equal(pixels_of(data + b"behind"), pixels_of(data))
    for fill in (b"\xff", bytes([255] * 9)):  # which may stand before any mark
        assert np.array_equal(pixels_of(data.removesuffix(END) + fill + END), pixels_of(data))


CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def without_last(data: bytes, lacking: int) -> tuple[bytes, int]:
    """A PNG in order whose unpacked pixels lack some bytes, and how many the whole one has."""
    at = data.index(b"IDAT")
    rows = zlib.decompress(data[at + 4 : -16])
    pixels = chunk(b"IDAT", zlib.compress(rows[: max(0, len(rows) - lacking)]))
    return data[: at - 4] + pixels + chunk(b"IEND", b""), len(rows)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("kind", "depth"), PNG_KINDS)
def test_a_png_whose_pixels_end_early_in_order_is_truncated(kind: int, depth: int, interlaced: bool) -> None:
    palette = chunk(b"PLTE", bytes(3 << depth)) if kind == 3 else b""
    for height, width in ((1, 1), (7, 1), (1, 7), (8, 9), (17, 16)):
        black = np.zeros((height, width, CHANNELS[kind]), np.int64)
        data = png_of(black, depth, kind, interlaced=interlaced, extra=palette)
        whole, size = without_last(data, 0)
        pixels_of(whole)
        for lacking in (1, size // 2, size):
            assert code_of(without_last(data, lacking)[0]) in ("TRUNCATED", "CORRUPT")


@pytest.mark.parametrize(
    "colour", [(1, 254, 3), (1, 254, 3, 253), (0, 0, 0, 0), (1,)], ids=["as marked", "alpha", "none", "grey"]
)
def test_a_whole_png_that_ends_in_any_colour_is_answered(colour: tuple[int, ...]) -> None:
    picture = flat(colour)
    pixels_of(encode(picture[..., 0] if len(colour) == 1 else picture))


def tiff_claiming(tag: int, value: int) -> bytes:
    """An uncompressed TIFF of 8x8 px with one other value."""
    data = bytearray(encode(flat((200, 30, 30)), "TIFF"))
    (start,) = struct.unpack_from("<I", data, 4)
    entries = range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12)
    at = next(at for at in entries if struct.unpack_from("<H", data, at)[0] == tag)
    data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, value)
    return bytes(data)


def test_a_tiff_without_its_last_strips_is_truncated_and_one_without_any_size_is_no_other_kind() -> None:
    assert code_of(tiff_claiming(257, 800)) == "TRUNCATED"
    assert code_of(tiff_claiming(256, 0)) == "CORRUPT"
    turned = Image.fromarray(flat((200, 30, 30), 8, 24))
    assert pixels_of(encode(turned, "TIFF", tiffinfo={274: 6})).shape == (24, 8, 3)
