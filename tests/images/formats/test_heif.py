"""HEIC pictures are read as others are, by the plugin."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from pix2score.images.decode import MAX_PIXELS, open_upright, shrink
from pix2score.images.decoder import Decoder
from pix2score.images.formats import heif
from pix2score.images.preprocess import Preprocess
from tests.support.pictures import EIGHT, code_of, encode, exif, over_white, smooth

pillow_heif = pytest.importorskip("pillow_heif")
PICTURE = smooth(40, 60)
HEIC = encode(PICTURE, "HEIF", quality=95)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(open_upright(data)).astype(int)


def with_size(data: bytes, width: int, height: int) -> bytes:
    """The HEIC with another size in the box that says it."""
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]


def test_a_heic_has_the_pixels_that_were_encoded() -> None:
    assert np.abs(pixels(HEIC) - PICTURE).mean() < 2.5
    grey = encode(Image.fromarray(PICTURE).convert("L"), "HEIF", quality=95)
    assert np.abs(pixels(grey)[..., 0] - np.asarray(Image.fromarray(PICTURE).convert("L"))).mean() < 2.5


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("form", ["HEIF", "AVIF"])
def test_an_orientation_in_boxes_and_exif_is_applied_once(form: str, turn: int) -> None:
    block = exif(turn).tobytes()
    turned = pixels(encode(PICTURE, form, quality=95, exif=block))
    wanted = pixels(encode(PICTURE, "JPEG", quality=98, exif=block))
    assert turned.shape == wanted.shape
    assert np.abs(turned - wanted).mean() < 2.5


def test_transparency_is_over_white_and_twelve_bits_become_eight() -> None:
    rgba = np.dstack([PICTURE, np.full((40, 60), 128, np.uint8)])
    wanted = over_white(PICTURE, np.float64(128 / 255))
    assert np.abs(pixels(encode(rgba, "HEIF", quality=95)) - wanted).mean() < 2.5
    out = io.BytesIO()
    deep = (PICTURE.astype(np.uint16) * 257).tobytes()
    pillow_heif.encode("RGB;16", (60, 40), deep, out, quality=95)
    assert pillow_heif.open_heif(out.getvalue(), convert_hdr_to_8bit=False).info["bit_depth"] == 10
    assert np.abs(pixels(out.getvalue()) - PICTURE).mean() < 2.5


def test_the_primary_picture_counts_and_never_a_thumbnail() -> None:
    out = io.BytesIO()
    white = Image.new("RGB", (400, 300), (255, 255, 255))
    large = Image.fromarray(smooth(300, 400))
    white.save(
        out, "HEIF", save_all=True, append_images=[large], primary_index=1, quality=95, thumbnails=[64]
    )
    assert np.abs(pixels(out.getvalue()) - smooth(300, 400)).mean() < 2.5
    assert len(shrink(out.getvalue(), 30))


def test_a_heic_that_claims_too_much_is_too_large_before_decoding() -> None:
    assert code_of(with_size(HEIC, 60_000, 60_000)) == "TOO_LARGE"
    assert MAX_PIXELS < 10_001 * 10_000
    assert code_of(with_size(encode(smooth(64, 64), "HEIF"), 10_001, 10_000)) == "TOO_LARGE"
    large = encode(np.zeros((3000, 4000, 3), np.uint8), "HEIF")
    assert code_of(with_size(large, 8, 8)) in ("TOO_LARGE", "CORRUPT")


@pytest.mark.parametrize("kept", [20, 100, 400, 600, len(HEIC) - 1])
def test_a_cut_heic_is_truncated(kept: int) -> None:
    assert code_of(HEIC[:kept]) == "TRUNCATED"


def test_a_broken_heic_is_corrupt_and_another_codec_unsupported() -> None:
    assert code_of(HEIC[:28] + bytes(200)) == "CORRUPT"
    inner = encode(PICTURE, "AVIF").replace(b"avif", b"mif1")
    assert code_of(inner) == "UNSUPPORTED"


def test_a_heic_decodes_in_the_child_to_the_same_pixels() -> None:
    decoder = Decoder(Preprocess(size=8))
    try:
        assert decoder(HEIC) == open_small(HEIC).tobytes()
    finally:
        decoder.close()


def open_small(data: bytes) -> np.ndarray:
    from pix2score.images.decode import to_rgb

    return to_rgb(data, EIGHT)


def test_heif_is_among_the_formats_where_the_plugin_is() -> None:
    assert heif.FORMATS == ("HEIF",)


@pytest.mark.parametrize("kind", ["exif", "xmp"])
def test_metadata_that_lie_beyond_the_file_change_no_pixel(kind: str) -> None:
    content = {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0", "xmp": b"<x:xmpmeta/>" * 3}[kind]
    sound = encode(smooth(64, 48), "HEIF", quality=90, **{kind: content})
    places = sound.index(b"iloc")
    at = sound.index(content[6:] if kind == "exif" else content)
    for start in (at, at - 4, at - 6, at - 10):  # an item of EXIF begins some bytes before
        found = sound.find(struct.pack(">I", start), places, places + 200)
        if found > 0:
            broken = sound[:found] + struct.pack(">I", len(sound) + 1000) + sound[found + 4 :]
            break
    assert np.array_equal(open_upright(broken), open_upright(sound))
