"""JPEG XL pictures are read as others are, by the plugin, and their size is known before they are decoded."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pix2score.images.decode import open_upright, to_rgb
from pix2score.images.decoder import Decoder
from pix2score.images.formats import jxl
from pix2score.images.preprocess import Preprocess
from tests.support.pictures import EIGHT, code_of, encode, exif, over_white, smooth

pytest.importorskip("pillow_jxl")
PICTURE = smooth(40, 60)
BARE = encode(PICTURE, "JXL", lossless=True)
BOXED = encode(PICTURE, "JXL", lossless=True, use_container=True)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(open_upright(data)).astype(int)


def size_of(data: bytes) -> tuple[int, int]:
    found = jxl.header_of(data)
    assert found is not None and not found.is_animated
    return found.width, found.height


def header(height: int, width: int) -> bytes:
    """A codestream that begins with this size, each side in 30 bits, and has nothing else."""
    bits = 0 | 3 << 1 | (height - 1) << 3 | 0 << 33 | 3 << 36 | (width - 1) << 38
    return b"\xff\x0a" + bits.to_bytes(9, "little") + bytes(80)


def box(kind: bytes, content: bytes) -> bytes:
    return (len(content) + 8).to_bytes(4, "big") + kind + content


def packed(kind: bytes, size: int) -> bytes:
    return box(b"brob", kind + pa.compress(bytes(size), codec="brotli", asbytes=True))


@pytest.mark.parametrize("data", [BARE, BOXED])
def test_a_jxl_has_the_pixels_that_were_encoded(data: bytes) -> None:
    assert np.array_equal(pixels(data), PICTURE)


def test_grey_of_sixteen_bits_and_transparency() -> None:
    grey = Image.fromarray(PICTURE[..., 0].astype(np.uint16) * 257)
    assert np.array_equal(pixels(encode(grey, "JXL", lossless=True))[..., 1], PICTURE[..., 0])
    rgba = np.dstack([PICTURE, np.full((40, 60), 128, np.uint8)])
    wanted = over_white(PICTURE, np.float64(128 / 255))
    assert np.abs(pixels(encode(rgba, "JXL", lossless=True)) - wanted).max() <= 0.51


def test_an_exif_block_beside_the_codestream_turns_nothing() -> None:
    data = encode(PICTURE, "JXL", lossless=True, exif=exif(6).tobytes())
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6
    assert np.array_equal(pixels(data), PICTURE)


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_jpeg_packed_without_loss_is_that_jpeg_turned_once(turn: int, tmp_path: Path) -> None:
    plain = encode(PICTURE, "JPEG", quality=90, exif=exif(turn).tobytes())
    (tmp_path / "x.jpg").write_bytes(plain)
    with Image.open(tmp_path / "x.jpg") as image:
        packed = encode(image, "JXL", lossless_jpeg=True)
    assert jxl.opened(packed, 10**6).jpeg  # type: ignore[union-attr]
    assert np.array_equal(pixels(packed), pixels(plain))


@settings(max_examples=50)
@given(width=st.integers(1, 400), height=st.integers(1, 400), boxed=st.booleans())
def test_the_size_is_read_as_libjxl_writes_it(width: int, height: int, boxed: bool) -> None:
    data = encode(Image.new("RGB", (width, height)), "JXL", effort=1, use_container=boxed)
    assert size_of(data) == (width, height)


@pytest.mark.parametrize("size", [(8, 8), (256, 256), (1920, 1080), (1080, 1920), (1600, 1200), (5000, 3)])
def test_the_size_is_read_of_every_short_form(size: tuple[int, int]) -> None:
    assert size_of(encode(Image.new("RGB", size), "JXL", effort=1)) == size


def test_a_jxl_that_claims_too_much_is_too_large_before_decoding() -> None:
    assert size_of(header(2**30, 2**30)) == (2**30, 2**30)
    assert code_of(header(2**30, 2**30)) == "TOO_LARGE"
    assert code_of(header(10_001, 10_000)) == "TOO_LARGE"
    assert code_of(header(10_000, 10_000)) == "CORRUPT"


def test_a_size_split_over_boxes_is_read() -> None:
    start = BOXED[:32]
    parts = box(b"jxlp", bytes(4) + BARE[:3]) + box(b"jxlp", b"\x80\0\0\1" + BARE[3:])
    assert size_of(start + parts) == (60, 40)
    assert np.array_equal(pixels(start + parts), PICTURE)


@pytest.mark.parametrize(
    "extra",
    [
        packed(b"xml ", 300 * 2**20),
        packed(b"Exif", 9)[:-4] + b"oops",
        box(b"brob", b"xml x"),
        box(b"jbrd", b"x"),
    ],
    ids=["metadata of 300 MB", "broken EXIF", "broken XMP", "broken original"],
)
def test_metadata_that_cannot_be_unpacked_change_no_pixel(extra: bytes) -> None:
    assert np.array_equal(pixels(BOXED[:32] + extra + BOXED[32:]), PICTURE)
    assert code_of(BOXED[:32] + extra + BOXED[32:-20]) == "TRUNCATED"


@pytest.mark.parametrize("kept", [14, 40, len(BOXED) // 2, len(BOXED) - 1])
def test_a_cut_jxl_in_boxes_is_truncated(kept: int) -> None:
    assert code_of(BOXED[:kept]) == "TRUNCATED"


def test_an_animation_is_refused_as_the_plugin_would_give_its_last_frame() -> None:
    # cjxl of an animated PNG of 8 x 8 px: red, green, blue
    frames = base64.b64decode(
        "/wpBBAMIKC4JCAKSCQAAXABLGIsVwkkC5gUiANj//tAAAAAAAAAAAAgCkgkAAFgASxiLFcJJQV4gAgD99wMAAAAAAAAAAAgCkgUA"
        "VABLGIsVwklBXiACAPoDAAAAAAAAAAA="
    )
    assert jxl.header_of(frames) == jxl.Header(8, 8, is_animated=True)
    assert code_of(frames) == "UNSUPPORTED"
    still = base64.b64decode("/wpBQEBxIQgCAQBcAEsYixXCSQLmBSIA2P/+0AAAAAAAAAAA")
    assert np.array_equal(pixels(still)[0, 0], [255, 0, 0])


def test_a_cut_codestream_is_refused_in_one_line() -> None:
    assert code_of(BARE[: len(BARE) // 2]) == "CORRUPT"
    assert code_of(b"\xff\x0a") == "TRUNCATED"


def test_floating_point_is_unsupported() -> None:
    assert code_of(encode(Image.fromarray(np.ones((8, 8), np.float32)), "JXL")) == "UNSUPPORTED"


def test_a_jxl_decodes_in_the_child_to_the_same_pixels() -> None:
    decoder = Decoder(Preprocess(size=8))
    try:
        assert decoder(BARE) == to_rgb(BARE, EIGHT).tobytes()
    finally:
        decoder.close()
