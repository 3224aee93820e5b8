"""Pixels: every sentence of their contract as exact values, every kind of bad bytes as its own code.

Pictures of 8x8 at size 8 are not resampled, so whole pipelines are compared exactly; one golden hash holds
the resampling.
"""

from __future__ import annotations

import hashlib
import io
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, JpegImagePlugin

from pix2score.errors import IMAGE_ERROR_CODES, ConfigError, ImageFailure
from pix2score.images import decode as images
from pix2score.images.decode import MAX_BYTES, picture_to_rgb, shrink, to_rgb
from pix2score.images.preprocess import ALGORITHM, RESIZES, Preprocess, preprocess_from_dict
from tests.support.pictures import EIGHT, Pixels, code_of, encode, exif, flat, noise, png, smooth

pytestmark = pytest.mark.filterwarnings(
    "ignore:Corrupt EXIF data", "ignore:Truncated File Read", "ignore:Tag data larger"
)

LOSSLESS = {"PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True}}


@pytest.mark.parametrize("form", LOSSLESS)
def test_lossless_formats_give_the_pixels_that_were_saved(form: str) -> None:
    pixels = noise(8, 8)
    found = to_rgb(encode(pixels, form, **LOSSLESS[form]), EIGHT)
    assert (found.dtype, found.shape) == (np.uint8, (8, 8, 3))
    assert np.array_equal(found, pixels)


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "AVIF"])
def test_lossy_formats_give_nearly_the_pixels_that_were_saved(form: str) -> None:
    pixels = smooth(64, 64)
    found = to_rgb(encode(pixels, form, quality=95), Preprocess(size=64))
    assert np.abs(found.astype(int) - pixels).mean() < 3


# numpy's view of the eight EXIF orientations: how the stored picture must be turned to stand upright.
TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation_is_applied_once(orientation: int, form: str) -> None:
    stored = noise(8, 8)
    found = to_rgb(encode(stored, form, exif=exif(orientation), **LOSSLESS[form]), EIGHT)
    assert np.array_equal(found, TURNS[orientation](stored))


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation_of_a_jpeg_is_applied(orientation: int) -> None:
    stored = smooth(32, 32)
    found = to_rgb(encode(stored, "JPEG", quality=95, exif=exif(orientation)), Preprocess(size=32))
    assert np.abs(found.astype(int) - TURNS[orientation](stored)).mean() < 3


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_does_not_exist_counts_as_none(orientation: int) -> None:
    stored = noise(8, 8)
    assert np.array_equal(to_rgb(encode(stored, exif=exif(orientation)), EIGHT), stored)


@pytest.mark.parametrize(
    "garbage",
    [
        b"Exif\x00\x00",
        b"Exif\x00\x00MM\x00*\xff\xff\xff\xff",
        b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff" + b"\xff" * 40,
    ],
)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_corrupt_exif_block_does_not_fail_a_fine_image(form: str, garbage: bytes) -> None:
    pixels = flat((200, 100, 50))
    found = to_rgb(encode(pixels, form, exif=garbage, quality=95), EIGHT)
    assert np.abs(found.astype(int) - pixels).max() <= 3


def test_alpha_is_laid_over_white() -> None:
    alpha = np.array([[0, 128, 255, 64]] * 4, dtype=np.uint8).repeat(2, 0).repeat(2, 1)
    rgba = np.dstack([flat((255, 0, 40)), alpha])
    expected = {0: (255, 255, 255), 128: (255, 127, 147), 255: (255, 0, 40), 64: (255, 191, 201)}
    for form in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True, "exact": True} if form == "WEBP" else {}
        found = to_rgb(encode(rgba, form, **options), EIGHT)
        for value, colour in expected.items():
            assert set(map(tuple, found[alpha == value].tolist())) == {colour}, form


def test_grey_with_alpha_is_laid_over_white() -> None:
    grey_alpha = np.dstack([np.full((8, 8), 0, np.uint8), np.full((8, 8), 128, np.uint8)])
    assert to_rgb(encode(Image.fromarray(grey_alpha, "LA")), EIGHT).tolist() == [[[127, 127, 127]] * 8] * 8


def test_a_palette_is_resolved_and_its_transparent_entries_become_white() -> None:
    index = np.arange(64, dtype=np.uint8).reshape(8, 8) % 3
    image = Image.fromarray(index, "P")
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 200])
    opaque = np.array([[10, 20, 30], [200, 0, 0], [0, 0, 200]], dtype=np.uint8)[index]
    assert np.array_equal(to_rgb(encode(image), EIGHT), opaque)
    for data in (
        encode(image, transparency=1),
        encode(image, transparency=bytes([255, 0, 255])),
        encode(image, "GIF", transparency=1),
    ):
        assert np.array_equal(to_rgb(data, EIGHT), np.where((index == 1)[..., None], np.uint8(255), opaque))


def test_a_transparent_colour_of_an_rgb_png_becomes_white() -> None:
    pixels = flat((9, 8, 7))
    pixels[:4] = (1, 2, 3)
    found = to_rgb(encode(pixels, transparency=(1, 2, 3)), EIGHT)
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[7, 7].tolist() == [9, 8, 7]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_to_eight(form: str) -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    found = to_rgb(encode(values, form), EIGHT)
    expected = np.rint(values / 65535 * 255).astype(np.uint8)
    assert np.array_equal(found, np.repeat(expected[..., None], 3, axis=-1))
    assert (found.min(), found.max()) == (0, 255)


def test_sixteen_bit_colour_is_scaled_to_eight() -> None:
    values = np.random.default_rng(3).integers(0, 65536, (8, 8, 3)).astype(">u2")
    values[0, 0], values[7, 7] = 0, 65535
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    found = to_rgb(png(8, 8, bit_depth=16, rows=rows), EIGHT)
    assert np.abs(found - values / 65535 * 255).max() < 1
    assert (found[0, 0].tolist(), found[7, 7].tolist()) == ([0] * 3, [255] * 3)


def test_one_bit_pictures_are_black_and_white() -> None:
    bits = noise(8, 8, 1) > 127
    found = to_rgb(encode(Image.fromarray(bits)), EIGHT)
    assert np.array_equal(found, np.where(bits[..., None], 255, 0).repeat(3, -1))


def test_grey_gives_three_equal_channels() -> None:
    grey = noise(8, 8, 1)
    assert np.array_equal(to_rgb(encode(grey), EIGHT), np.repeat(grey[..., None], 3, axis=-1))


@pytest.mark.parametrize(
    ("ink", "colour"),
    [((0, 0, 0, 0), (255, 255, 255)), ((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 255), (0, 0, 0))],
)
@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_is_converted(form: str, ink: tuple[int, ...], colour: tuple[int, ...]) -> None:
    found = to_rgb(encode(Image.new("CMYK", (8, 8), ink), form), EIGHT)
    assert np.abs(found.astype(int) - np.array(colour)).max() <= (0 if form == "TIFF" else 2)


@pytest.mark.parametrize(
    ("form", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})]
)
def test_of_an_animation_the_first_frame_is_taken(form: str, options: dict[str, Any]) -> None:
    first, second = Image.fromarray(flat((255, 0, 0))), Image.fromarray(flat((0, 0, 255)))
    data = encode(first, form, save_all=True, append_images=[second], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2  # type: ignore[attr-defined]
    assert np.array_equal(to_rgb(data, EIGHT), flat((255, 0, 0)))


def test_a_jpeg_with_further_pictures_inside_as_phones_write_it_gives_the_first() -> None:
    first, second = Image.fromarray(flat((255, 0, 0))), Image.fromarray(flat((0, 0, 255)))
    data = encode(first, "MPO", save_all=True, append_images=[second])
    assert np.abs(to_rgb(data, EIGHT).astype(int) - flat((255, 0, 0))).max() <= 3


def test_an_icc_profile_is_ignored() -> None:
    from PIL import ImageCms

    pixels = noise(8, 8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert np.array_equal(to_rgb(encode(pixels, icc_profile=profile), EIGHT), pixels)
    assert np.array_equal(to_rgb(encode(pixels, icc_profile=b"garbage"), EIGHT), pixels)


def test_floating_point_pixels_are_unsupported() -> None:
    assert code_of(encode(np.zeros((8, 8), np.float32), "TIFF")) == "UNSUPPORTED"


def test_squash_gives_up_the_aspect_pad_and_crop_keep_it() -> None:
    wide = np.concatenate([flat((255, 0, 0), 8, 4), flat((0, 255, 0)), flat((0, 0, 255), 8, 4)], axis=1)
    data = encode(wide)
    squashed = to_rgb(data, replace(EIGHT, resize="squash"))
    assert (squashed[:, 0].tolist(), squashed[:, 7].tolist()) == ([[255, 0, 0]] * 8, [[0, 0, 255]] * 8)
    cropped = to_rgb(data, replace(EIGHT, resize="crop"))
    assert np.array_equal(cropped, flat((0, 255, 0)))
    padded = to_rgb(data, replace(EIGHT, resize="pad"))
    assert (padded[[0, 1, 6, 7]] == 255).all()
    assert np.array_equal(padded[2:6], to_rgb(data, EIGHT)[2:6])


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    found = to_rgb(encode(stripes), EIGHT)
    assert (
        np.abs(found.astype(int) - 127).max() <= 10
    )  # without antialiasing it would be all black or all white


def test_enlarging_interpolates() -> None:
    two = np.array([[[0] * 3, [255] * 3]], np.uint8)
    row = to_rgb(encode(two), EIGHT)[0, :, 0].tolist()
    assert row == sorted(row)
    assert len(set(row)) > 2


GOLDEN = {
    "squash": "69a61c0112d34ee520fb4e3836f12a464da8efe7282f7b69d4d71bccbc9f18ad",
    "pad": "ab7d9398180bc46fb4c6780273f370432c7caeaf9140bdfd846b6c7787db50bb",
    "crop": "843a6d906bcce0bbe62f53ac442a18ba55752127dd17459b922c683259869845",
}


@pytest.mark.parametrize("resize", GOLDEN)
def test_resampled_pixels_are_the_golden_ones_of_this_algorithm_number(resize: str) -> None:
    # If this changes, raise images.ALGORITHM: models were trained on the old pixels.
    assert ALGORITHM == 3
    found = to_rgb(encode(noise(37, 53), "BMP"), Preprocess(size=16, resize=resize))
    assert hashlib.sha256(found.tobytes()).hexdigest() == GOLDEN[resize]


def rings(height: int, width: int) -> Pixels:
    """Rings that get finer than a pixel: what scales a decoder takes shows in them."""
    y, x = np.mgrid[0:height, 0:width]
    light = 255 * (np.sin((x * x + y * y) / 300) > 0)
    return np.stack([light, 255 - light, light // 2], axis=-1).astype(np.uint8)


GOLDEN_JPEG = {
    "squash": [[56, 126, 121, 114], [126, 128, 129, 128], [125, 127, 128, 125], [128, 126, 124, 129]],
    "pad": [[255, 255, 255, 255], [128, 128, 129, 129], [129, 127, 126, 129], [255, 255, 255, 255]],
    "crop": [[130, 130, 116, 128], [128, 127, 128, 127], [127, 128, 127, 128], [130, 128, 120, 128]],
}


@pytest.mark.parametrize("resize", GOLDEN_JPEG)
def test_a_large_jpeg_gives_the_golden_pixels_of_this_algorithm_number(resize: str) -> None:
    assert ALGORITHM == 3
    found = to_rgb(encode(rings(333, 500), "JPEG", quality=90), Preprocess(size=16, resize=resize))
    np.testing.assert_allclose(
        found[::5, ::5, 1], GOLDEN_JPEG[resize], atol=1
    )  # builds of libjpeg round differently


@pytest.mark.parametrize(
    ("size", "target", "resize", "decoded"),
    [
        ((448, 448), 224, "squash", (448, 448)),
        ((895, 2000), 224, "squash", (895, 2000)),
        ((896, 2000), 224, "squash", (448, 1000)),
        ((3000, 3000), 224, "squash", (750, 750)),
        ((3000, 500), 224, "crop", (3000, 500)),
        ((3000, 500), 224, "pad", (750, 125)),
        ((2001, 2001), 64, "squash", (251, 251)),
    ],
)
def test_a_jpeg_is_decoded_no_larger_than_useful_and_never_below_twice_its_target(
    size: tuple[int, int], target: int, resize: str, decoded: tuple[int, int]
) -> None:
    data = encode(Image.new("RGB", size, (200, 100, 50)), "JPEG")
    image = images._open(data)
    images._decode_smaller(image, max(size) if resize == "pad" else min(size), target)
    assert image.size == decoded
    assert to_rgb(data, Preprocess(size=target, resize=resize)).shape == (target, target, 3)


def test_a_turned_large_jpeg_is_upright() -> None:
    picture = smooth(300, 500)
    plain = to_rgb(encode(picture.transpose(1, 0, 2)[:, ::-1], "JPEG", quality=95), EIGHT).astype(int)
    turned = to_rgb(encode(picture, "JPEG", quality=95, exif=exif(6)), EIGHT).astype(int)
    assert np.abs(plain - turned).max() <= 2


@pytest.mark.parametrize(
    "data",
    [
        b"<html>not found</html>",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
        b"x",
        bytes(100),
        encode(noise(8, 8), "PPM"),
        encode(noise(8, 8), "TGA"),
        encode(noise(16, 16), "ICO"),
        encode(noise(8, 8), "PCX"),
    ],
    ids=["html", "svg", "eps", "one byte", "zeros", "ppm", "tga", "ico", "pcx"],
)
def test_what_is_none_of_the_formats_is_unsupported(data: bytes) -> None:
    assert code_of(data) == "UNSUPPORTED"


def test_no_bytes_are_empty() -> None:
    assert code_of(b"") == "EMPTY"
    assert code_of(b"", lambda data: shrink(data, 8)) == "EMPTY"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_file_cut_short_is_truncated(form: str, share: float) -> None:
    data = encode(noise(64, 64), form)
    assert code_of(data[: int(len(data) * share)]) == "TRUNCATED"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_file_cut_within_its_header_is_not_called_unsupported(form: str) -> None:
    assert code_of(encode(noise(64, 64), form)[:20]) in ("TRUNCATED", "CORRUPT")


def test_flipped_bytes_are_corrupt() -> None:
    data = bytearray(encode(noise(64, 64)))
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(b ^ 0xFF for b in data[middle : middle + 64])
    assert code_of(bytes(data)) == "CORRUPT"
    data = bytearray(encode(noise(64, 64), "WEBP", lossless=True))
    data[30:200] = bytes(b ^ 0xFF for b in data[30:200])
    assert code_of(bytes(data)) == "CORRUPT"


def test_too_many_bytes_are_refused() -> None:
    assert code_of(b"\x89PNG\r\n\x1a\n" + bytes(MAX_BYTES)) == "TOO_LARGE"


def webp_claiming(width: int, height: int) -> bytes:
    """A lossless WebP that is all header."""
    bits = (width - 1) | (height - 1) << 14
    content = b"VP8L" + struct.pack("<I", 6) + b"\x2f" + struct.pack("<I", bits) + b"\0"
    return b"RIFF" + struct.pack("<I", len(content) + 4) + b"WEBP" + content


def animation_claiming(width: int, height: int) -> bytes:
    """A WebP of one small frame on a canvas of that size."""
    first = encode(noise(8, 8), "WEBP", lossless=True)[12:]
    canvas, side = (
        b"".join((n - 1).to_bytes(3, "little") for n in size) for size in ((width, height), (8, 8))
    )
    content = (
        b"VP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + canvas + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    )
    content += b"ANMF" + struct.pack("<I", 16 + len(first)) + bytes(6) + side + bytes(4) + first
    return b"RIFF" + struct.pack("<I", len(content) + 4) + b"WEBP" + content


@pytest.mark.parametrize(
    "data",
    [
        png(20_000, 20_000, rows=b"\0" * 1000),
        png(2**31 - 1, 2**31 - 1),
        encode(noise(8, 8), "BMP")[:18]
        + struct.pack("<ii", 20_000, 20_000)
        + encode(noise(8, 8), "BMP")[26:],
        webp_claiming(16_383, 16_383),
        animation_claiming(2**20, 2**20),
    ],
    ids=["png", "png of the greatest size", "bmp", "webp", "animated webp"],
)
def test_too_many_pixels_are_refused_before_decoding(data: bytes) -> None:
    start = time.process_time()
    assert code_of(data) == "TOO_LARGE"
    assert code_of(data, lambda data: shrink(data, 8)) == "TOO_LARGE"
    assert time.process_time() - start < 0.5


SEEDS = [encode(noise(16, 16), form) for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")]


def survives(data: bytes) -> None:
    try:
        found = to_rgb(data, EIGHT)
    except ImageFailure as failure:
        assert failure.code in IMAGE_ERROR_CODES
    else:
        assert (found.shape, found.dtype) == ((8, 8, 3), np.uint8)


@settings(max_examples=200)
@given(
    signature=st.sampled_from([b"", *(seed[:12] for seed in SEEDS), b"RIFF\x20\0\0\0WEBPVP8 "]),
    rest=st.binary(max_size=300),
)
def test_random_bytes_never_raise_anything_but_an_image_failure(signature: bytes, rest: bytes) -> None:
    survives(signature + rest)


@settings(max_examples=300)
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
    data=st.data(),
)
def test_damaged_images_never_raise_anything_but_an_image_failure(
    seed: bytes, edits: list[tuple[int, int]], data: st.DataObject
) -> None:
    damaged = bytearray(seed)
    for position, value in edits:
        damaged[position % len(damaged)] = value
    survives(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))


def test_shrink_keeps_the_bytes_of_a_small_image() -> None:
    for size in ((40, 300), (40, 40), (300, 40)):
        data = encode(noise(*size))
        assert shrink(data, 40) == data


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(80, 120, (60, 40)), (120, 80, (40, 60)), (41, 41, (40, 40)), (1000, 41, (40, 976))],
)
def test_shrink_makes_a_jpeg_whose_short_side_is_the_asked_one(
    height: int, width: int, expected: tuple[int, int]
) -> None:
    small = Image.open(io.BytesIO(shrink(encode(smooth(height, width)), 40)))
    assert (small.format, small.mode, small.size) == ("JPEG", "RGB", expected)


def test_shrink_writes_no_comment_of_the_file_whose_length_may_be_any() -> None:
    gif = encode(noise(80, 80), "GIF", comment=b"c" * 100_000)
    assert "comment" in Image.open(io.BytesIO(gif)).info
    assert "comment" not in Image.open(io.BytesIO(shrink(gif, 40))).info


def test_shrink_keeps_the_colours_at_full_resolution() -> None:
    small = Image.open(io.BytesIO(shrink(encode(noise(80, 80)), 40)))
    assert JpegImagePlugin.get_sampling(small) == 0  # 4:4:4


def test_shrink_turns_the_picture_upright_once() -> None:
    stored = smooth(80, 120)
    small = shrink(encode(stored, exif=exif(6)), 40)
    assert Image.open(io.BytesIO(small)).size == (40, 60)
    found = to_rgb(small, Preprocess(size=32)).astype(int)
    assert np.abs(found - to_rgb(encode(np.rot90(stored, -1)), Preprocess(size=32))).mean() < 3


def test_shrink_hardly_changes_what_the_model_sees() -> None:
    data = encode(smooth(300, 400))
    prepared = shrink(data, 64)
    assert (
        np.abs(to_rgb(prepared, Preprocess(size=56)).astype(int) - to_rgb(data, Preprocess(size=56))).mean()
        < 2
    )


@pytest.mark.parametrize("bad", [b"text", encode(noise(64, 64))[:5000]])
def test_shrink_never_keeps_bytes_that_do_not_decode(bad: bytes) -> None:
    assert code_of(bad, lambda data: shrink(data, 1000)) in ("UNSUPPORTED", "TRUNCATED")


def test_the_id_of_a_preprocessing_changes_with_any_field() -> None:
    base = Preprocess()
    others = [
        replace(base, size=256),
        replace(base, resize="pad"),
        replace(base, mean=(0.5, 0.456, 0.406)),
        replace(base, std=(0.5, 0.224, 0.225)),
    ]
    assert len({p.id for p in [base, *others]}) == 5
    assert Preprocess().id == base.id
    assert len(base.id) == 12


def test_a_preprocessing_survives_json() -> None:
    import json
    from dataclasses import asdict

    base = Preprocess(size=96, resize="crop")
    assert preprocess_from_dict(json.loads(json.dumps(asdict(base)))) == base


def test_an_algorithm_of_another_version_is_refused() -> None:
    with pytest.raises(ConfigError, match="algorithm 2.*version of pix2score"):
        Preprocess(algorithm=2)
    with pytest.raises(ConfigError, match="algorithm 99"):
        preprocess_from_dict({"size": 224, "algorithm": 99})


@pytest.mark.parametrize(("field", "value"), [("size", 7), ("size", 4096), ("resize", "stretch")])
def test_a_bad_preprocessing_is_refused_by_value(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=str(value)):
        Preprocess(**{field: value})


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", [(300, 40), (40, 300), (90, 80)])
def test_rows_are_resampled_before_columns_whatever_the_shape(resize: str, size: tuple[int, int]) -> None:
    """Pillow picks the order by version and shape; the pixels of a model must not change with it."""
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (*size, 3), dtype=np.uint8))
    width, height = image.size
    side = min(size)
    box = ((width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2)
    picture = image.crop(box) if resize == "crop" else image
    longer = max(picture.size)
    inside = (
        (round(picture.width / longer * 32), round(picture.height / longer * 32))
        if resize == "pad"
        else (32, 32)
    )
    rows = picture.resize((inside[0], picture.height), Image.Resampling.BILINEAR)
    wanted = ImageOps.pad(rows.resize(inside, Image.Resampling.BILINEAR), (32, 32), color=(255, 255, 255))
    found = picture_to_rgb(image, Preprocess(size=32, resize=resize))
    margin = (
        2 if resize == "crop" else 0
    )  # of a crop the outermost pixels see beyond the box, of a cut-out they do not
    inner = slice(margin, 32 - margin)
    assert np.array_equal(found[inner, inner], np.asarray(wanted)[inner, inner])
