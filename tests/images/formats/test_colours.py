"""Every depth, colour type and kind of transparency of every format, against the arithmetic of its standard.

Files are written here byte by byte, so that nothing that decodes them has encoded them; JPEG and WebP, whose
arithmetic is not exact, are compared with what they were made from.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pix2score.images.decode import open_upright, picture_to_rgb, to_rgb
from tests.support.pictures import EIGHT, chunk, code_of, encode, flat, noise, over_white, pixels_of, smooth

pytestmark = pytest.mark.filterwarnings("ignore")
HEIGHT, WIDTH = 13, 11
Numbers = npt.NDArray[Any]
rng = np.random.default_rng(5)


def numbers(bits: int, channels: int = 1) -> Numbers:
    return rng.integers(0, 2**bits, (HEIGHT, WIDTH, channels), dtype=np.int64)


def eight(values: Numbers, bits: int) -> Numbers:
    """v * 255 / greatest, rounded."""
    return np.floor(values * 255.0 / (2**bits - 1) + 0.5)


def packed(values: Numbers, bits: int, order: str = ">") -> list[bytes]:
    """Rows of samples as files store them, most significant bits first."""
    rows = values.reshape(len(values), -1)
    if bits in (8, 16, 32):
        return [row.astype(f"{order}u{bits // 8}").tobytes() for row in rows]
    return [
        np.packbits(((row[:, None] >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8).ravel()).tobytes()
        for row in rows
    ]


def assert_close(data: bytes, wanted: Numbers, within: float = 0.01) -> None:
    found = pixels_of(data).astype(float)
    assert found.shape == (*wanted.shape[:2], 3)
    assert np.abs(found - wanted).max() <= within


# PNG

ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
PNG_KINDS = [
    (0, 1),
    (0, 2),
    (0, 4),
    (0, 8),
    (0, 16),
    (2, 8),
    (2, 16),
    (3, 1),
    (3, 2),
    (3, 4),
    (3, 8),
    (4, 8),
    (4, 16),
    (6, 8),
    (6, 16),
]


def png_of(values: Numbers, bits: int, kind: int, *, interlaced: bool = False, extra: bytes = b"") -> bytes:
    passes = [values[y::down, x::across] for x, y, across, down in ADAM7] if interlaced else [values]
    rows = b"".join(b"\0" + row for part in passes if part.size for row in packed(part, bits))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, kind, 0, 0, int(interlaced))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("kind", "bits"), PNG_KINDS)
def test_png_of_every_type_and_depth(kind: int, bits: int, interlaced: bool) -> None:
    values = numbers(bits, {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind])
    extra, within = b"", 0.01
    if kind == 3:
        palette = rng.integers(0, 256, (2**bits, 3))
        extra, wanted = chunk(b"PLTE", palette.astype(np.uint8).tobytes()), palette[values[..., 0]]
    elif kind in (4, 6):
        greatest = 2**bits - 1
        wanted, within = over_white(values[..., :-1] * 255 / greatest, values[..., -1:] / greatest), 0.51
    else:
        wanted = eight(values, bits)
    assert_close(
        png_of(values, bits, kind, interlaced=interlaced, extra=extra),
        np.broadcast_to(wanted, (HEIGHT, WIDTH, 3)),
        within,
    )


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("kind", "bits"), PNG_KINDS[:7])
def test_a_transparent_colour_of_a_png_is_compared_at_full_depth(
    kind: int, bits: int, interlaced: bool
) -> None:
    values = numbers(bits, 3 if kind else 1)
    key = values[5, 5].copy()
    values[2, 2], values[3, 3] = key, key
    values[2, 2, 0] ^= 1  # nearly the key
    extra = chunk(b"tRNS", key.astype(">u2").tobytes())
    wanted = np.where((values == key).all(-1, keepdims=True), 255, eight(values, bits))
    assert wanted[2, 2, 0] != 255 or eight(values, bits)[2, 2, 0] == 255
    assert_close(
        png_of(values, bits, kind, interlaced=interlaced, extra=extra),
        np.broadcast_to(wanted, (HEIGHT, WIDTH, 3)),
    )


@pytest.mark.parametrize("key", [0, 1, 3, 9, 15])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_only_as_many_bits_of_a_transparent_grey_count_as_a_pixel_has(bits: int, key: int) -> None:
    values = np.arange(16).reshape(4, 4, 1) % 2**bits
    wanted = np.where(values == key % 2**bits, 255, eight(values, bits)).repeat(3, -1)
    for stored in (key, key | 0x100):
        assert_close(png_of(values, bits, 0, extra=chunk(b"tRNS", struct.pack(">H", stored))), wanted)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_alpha_of_a_palette(bits: int) -> None:
    values, palette = numbers(bits), rng.integers(0, 256, (2**bits, 3))
    alpha = np.full(2**bits, 255)
    alpha[: 2 ** (bits - 1)] = rng.integers(0, 256, 2 ** (bits - 1))
    extra = chunk(b"PLTE", palette.astype(np.uint8).tobytes()) + chunk(
        b"tRNS", alpha[: 2 ** (bits - 1)].astype(np.uint8).tobytes()
    )
    wanted = over_white(palette[values[..., 0]], alpha[values[..., 0], None] / 255)
    assert_close(png_of(values, bits, 3, extra=extra), wanted, 0.51)


def test_sixteen_bit_colours_of_an_open_picture_are_within_one_level() -> None:
    values = rng.integers(0, 65536, (8, 8, 3))
    data = png_of(values, 16, 2)
    import io

    found = picture_to_rgb(Image.open(io.BytesIO(data)), EIGHT).astype(float)
    assert np.abs(found - values / 257).max() < 1
    assert np.array_equal(to_rgb(data, EIGHT), eight(values, 16))


def test_a_large_sixteen_bit_picture_is_put_together_from_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from pix2score.images.formats import colours

    monkeypatch.setattr(colours, "_BLOCK_PIXELS", 7)
    values = numbers(16, 3)
    assert_close(png_of(values, 16, 2), eight(values, 16))
    assert_close(png_of(values[..., :1], 16, 0), eight(values[..., :1], 16).repeat(3, -1))


# TIFF


def tiff_of(
    values: Numbers,
    bits: int,
    photometric: int,
    *,
    order: str = "<",
    sample_format: int = 1,
    planar: bool = False,
    extra: int | None = None,
    colours: Sequence[int] = (),
    deflated: bool = False,
) -> bytes:
    """One strip, or one for each plane."""
    height, width, channels = values.shape
    planes = [values[..., i : i + 1] for i in range(channels)] if planar else [values]
    strips = [b"".join(packed(plane, bits, order)) for plane in planes]
    strips = [zlib.compress(strip) for strip in strips] if deflated else strips
    tags: dict[int, tuple[str, Sequence[int]]] = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [bits] * channels),
        259: ("H", [8 if deflated else 1]),
        262: ("H", [photometric]),
        273: ("I", [8 + sum(map(len, strips[:i])) for i in range(len(strips))]),
        277: ("H", [channels]),
        278: ("I", [height]),
        279: ("I", [len(strip) for strip in strips]),
        284: ("H", [2 if planar else 1]),
        339: ("H", [sample_format] * channels),
    }
    if extra is not None:
        tags[338] = ("H", [extra])
    if colours:
        tags[320] = ("H", colours)
    if photometric == 6:
        tags[530] = ("H", [1, 1])
    body = b"".join(strips)
    body += b"\0" * (len(body) % 2)
    entries, rest, directory = b"", b"", 8 + len(body)
    for tag, (kind, content) in sorted(tags.items()):
        value = struct.pack(f"{order}{len(content)}{kind}", *content)
        if len(value) > 4:
            value, place = b"", struct.pack(order + "I", directory + 6 + 12 * len(tags) + len(rest))
            rest += struct.pack(f"{order}{len(content)}{kind}", *content)
            rest += b"\0" * (len(rest) % 2)
            value = place
        entries += struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[kind], len(content)) + value.ljust(
            4, b"\0"
        )
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", directory)
    return start + body + struct.pack(order + "H", len(tags)) + entries + bytes(4) + rest


ways = pytest.mark.parametrize(("order", "deflated"), [("<", False), ("<", True), (">", False), (">", True)])


@ways
@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16, 32])
def test_grey_tiff_of_every_depth(bits: int, white_is_zero: bool, order: str, deflated: bool) -> None:
    values = numbers(bits)
    data = tiff_of(values, bits, 0 if white_is_zero else 1, order=order, deflated=deflated)
    if bits == 32 and order == ">":
        assert code_of(data) == "UNSUPPORTED"
    else:
        assert_close(data, eight(2**bits - 1 - values if white_is_zero else values, bits).repeat(3, -1))


@ways
@pytest.mark.parametrize("bits", [8, 16])
def test_colour_tiff(bits: int, order: str, deflated: bool) -> None:
    way: dict[str, Any] = {"order": order, "deflated": deflated}
    greatest, values = 2**bits - 1, numbers(bits, 4)
    assert_close(tiff_of(values[..., :3], bits, 2, **way), eight(values[..., :3], bits))
    assert_close(tiff_of(values, bits, 2, extra=0, **way), eight(values[..., :3], bits))
    colours, alpha = values[..., :3] * 255 / greatest, values[..., 3:] / greatest
    assert_close(tiff_of(values, bits, 2, extra=2, **way), over_white(colours, alpha), 0.51)
    premultiplied = np.concatenate([np.minimum(values[..., :3], values[..., 3:]), values[..., 3:]], -1)
    wanted = premultiplied[..., :3] * 255 / greatest + 255 * (1 - alpha)
    assert_close(tiff_of(premultiplied, bits, 2, extra=1, **way), wanted, 1.01 if bits == 8 else 0.51)
    inks = 255 - values * 255 / greatest
    assert_close(tiff_of(values, bits, 5, **way), inks[..., :3] * inks[..., 3:] / 255, 1.2)


@ways
def test_grey_tiff_with_alpha(order: str, deflated: bool) -> None:
    values = numbers(8, 2)
    alpha = values[..., 1:] / 255
    wanted = over_white(values[..., :1], alpha).repeat(3, -1)
    assert_close(tiff_of(values, 8, 1, extra=2, order=order, deflated=deflated), wanted, 0.51)
    premultiplied = np.minimum(values, values[..., 1:])
    wanted = (premultiplied[..., :1] + 255 * (1 - alpha)).repeat(3, -1)
    assert_close(tiff_of(premultiplied, 8, 1, extra=1, order=order, deflated=deflated), wanted, 1.01)


@ways
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_tiff_with_colours_of_16_bits_and_of_8(bits: int, order: str, deflated: bool) -> None:
    values, colours = numbers(bits), rng.integers(1, 256, (3, 2**bits))
    wanted = np.moveaxis(colours[:, values[..., 0]], 0, -1)
    for scale in (257, 256, 1):
        assert_close(
            tiff_of(
                values, bits, 3, order=order, deflated=deflated, colours=(colours * scale).ravel().tolist()
            ),
            wanted,
        )


@ways
def test_ycbcr_and_lab_tiff(order: str, deflated: bool) -> None:
    values = numbers(8, 3)
    luma, blue, red = (values[..., i] - (0.0 if i == 0 else 128.0) for i in range(3))
    wanted = np.stack(
        [luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], -1
    ).clip(0, 255)
    assert_close(tiff_of(values, 8, 6, order=order, deflated=deflated), wanted, 1.01)
    greys = (
        np.stack([np.arange(0, 143) * 255 // 142, np.zeros(143), np.zeros(143)], -1)
        .reshape(HEIGHT, WIDTH, 3)
        .astype(np.int64)
    )
    light = greys[..., :1] * 100 / 255
    linear = np.where(light > 8, ((light + 16) / 116) ** 3, light / 903.3)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    assert_close(tiff_of(greys, 8, 8, order=order, deflated=deflated), srgb.repeat(3, -1), 3)


@pytest.mark.parametrize("order", "<>")
def test_separate_planes_of_a_tiff_are_right_or_refused(order: str) -> None:
    for bits, deflated, is_taken in ((8, False, True), (8, True, True), (16, True, True), (16, False, False)):
        values = numbers(bits, 3)
        data = tiff_of(values, bits, 2, order=order, planar=True, deflated=deflated)
        if is_taken:
            assert_close(data, eight(values, bits), 0.01 if bits == 8 else 1.01)
        else:
            assert code_of(data) == "UNSUPPORTED"
    for channels, photometric, extra in ((2, 1, 2), (2, 1, 0), (2, 1, 1)):
        for deflated in (False, True):
            data = tiff_of(
                numbers(8, channels), 8, photometric, extra=extra, order=order, planar=True, deflated=deflated
            )
            assert code_of(data) == "UNSUPPORTED"


@ways
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_signed_pixels_are_unsupported(bits: int, order: str, deflated: bool) -> None:
    assert (
        code_of(tiff_of(numbers(bits), bits, 1, sample_format=2, order=order, deflated=deflated))
        == "UNSUPPORTED"
    )


def test_a_tiff_that_is_not_decoded_says_what_it_holds() -> None:
    from pix2score.errors import ImageFailure

    with pytest.raises(
        ImageFailure, match="UNSUPPORTED: a TIFF of 16-bit unsigned grey, samples per pixel 2"
    ):
        open_upright(tiff_of(numbers(16, 2), 16, 1, extra=2))


# GIF


def gif_of(
    index: Numbers,
    palette: Numbers,
    bits: int,
    *,
    place: tuple[int, int] = (0, 0),
    canvas: tuple[int, int] | None = None,
    **options: Any,
) -> bytes:
    """``options``: local, key, background, interlaced."""
    height, width = index.shape
    across, down = canvas or (width, height)
    colours, own = (
        palette.astype(np.uint8).tobytes(),
        rng.integers(0, 256, 3 << bits).astype(np.uint8).tobytes(),
    )
    local, key = options.get("local", False), options.get("key")
    rows = [*range(0, height, 8), *range(4, height, 8), *range(2, height, 4), *range(1, height, 2)]
    stored = index[rows] if options.get("interlaced") else index
    head = (
        b"GIF89a"
        + struct.pack("<HHBBB", across, down, 0xF0 | bits - 1, options.get("background", 0), 0)
        + (own if local else colours)
    )
    control = b"" if key is None else b"!\xf9\4" + bytes([1, 0, 0, key]) + b"\0"
    flags = (0x80 | bits - 1 if local else 0) | (0x40 if options.get("interlaced") else 0)
    frame = b"," + struct.pack("<HHHHB", *place, width, height, flags) + (colours if local else b"")
    return head + control + frame + lzw(stored.ravel().tolist(), max(2, bits)) + b";"


def lzw(values: list[int], bits: int) -> bytes:
    """Codes of one width: the table is cleared before it grows."""
    clear, number, stream, at = 1 << bits, 0, 0, 0
    step = (1 << bits) - 3
    codes = [code for i in range(0, len(values), step) for code in (clear, *values[i : i + step])] + [
        clear + 1
    ]
    for number in codes:
        stream |= number << at
        at += bits + 1
    content = stream.to_bytes(-(-at // 8), "little")
    return (
        bytes([bits])
        + b"".join(
            bytes([len(content[i : i + 255])]) + content[i : i + 255] for i in range(0, len(content), 255)
        )
        + b"\0"
    )


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gif_palettes_transparency_and_frames_smaller_than_the_canvas(bits: int, local: bool) -> None:
    index, palette = numbers(bits)[..., 0], rng.integers(0, 255, (2**bits, 3))
    key = int(index[2, 2])
    for options, wanted in (
        ({}, palette[index]),
        ({"key": key}, np.where((index == key)[..., None], 255, palette[index])),
    ):
        for interlaced in (False, True):
            assert_close(gif_of(index, palette, bits, local=local, interlaced=interlaced, **options), wanted)
        canvas = np.full((20, 18, 3), 255)
        canvas[4 : 4 + HEIGHT, 3 : 3 + WIDTH] = wanted
        for background in (0, 1):
            data = gif_of(
                index,
                palette,
                bits,
                place=(3, 4),
                canvas=(18, 20),
                local=local,
                background=background,
                **options,
            )
            assert_close(data, canvas)


# BMP


def bmp_of(
    rows: list[bytes] | bytes,
    bits: int,
    *,
    compression: int = 0,
    masks: Sequence[int] = (),
    palette: Numbers | None = None,
    from_top: bool = False,
    header: int = 40,
) -> bytes:
    lines = (
        []
        if isinstance(rows, bytes)
        else [row + b"\0" * (-len(row) % 4) for row in (rows if from_top else rows[::-1])]
    )
    content = rows if isinstance(rows, bytes) else b"".join(lines)
    if header == 12:
        head = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, bits)
    else:
        head = struct.pack(
            "<IiiHHIIiiII",
            header,
            WIDTH,
            -HEIGHT if from_top else HEIGHT,
            1,
            bits,
            compression,
            len(content),
            0,
            0,
            0,
            0,
        )
    fields = b"".join(struct.pack("<I", mask) for mask in masks)
    head += fields.ljust(header - 40, b"\0") if header > 40 else fields
    if palette is not None:
        head += b"".join(bytes(colour[::-1].tolist()) + b"\0" * (header != 12) for colour in palette)
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(content), 0, 0, 14 + len(head)) + head + content


@pytest.mark.parametrize("header", [12, 40, 108, 124])
@pytest.mark.parametrize("from_top", [False, True])
def test_bmp_of_a_palette_and_of_24_bits(header: int, from_top: bool) -> None:
    if header == 12 and from_top:
        pytest.skip("the old header has no sign")
    for bits in (1, 4, 8):
        values, palette = numbers(bits), rng.integers(0, 256, (2**bits, 3))
        assert_close(
            bmp_of(packed(values, bits), bits, palette=palette, header=header, from_top=from_top),
            palette[values[..., 0]],
        )
    pixels = noise(HEIGHT, WIDTH)
    assert_close(
        bmp_of([row.tobytes() for row in pixels[..., ::-1]], 24, header=header, from_top=from_top), pixels
    )


MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)


def test_bmp_of_32_bits_has_alpha_only_if_its_header_says_so() -> None:
    pixels, alpha = noise(HEIGHT, WIDTH), noise(HEIGHT, WIDTH, 1, seed=8)[..., None]
    rows = [row.tobytes() for row in np.dstack([pixels[..., ::-1], alpha])]
    assert_close(bmp_of(rows, 32), pixels)
    assert_close(bmp_of(rows, 32, compression=3, masks=MASKS[:3]), pixels)
    for header in (56, 108, 124):
        assert_close(
            bmp_of(rows, 32, compression=3, masks=MASKS, header=header), over_white(pixels, alpha / 255), 0.51
        )
    assert_close(bmp_of(rows, 32, compression=3, masks=(*MASKS[:3], 0), header=108), pixels)


@pytest.mark.parametrize("masks", [(0x7C00, 0x3E0, 0x1F), (0xF800, 0x7E0, 0x1F)], ids=["555", "565"])
def test_bmp_of_16_bits_is_within_one_level(masks: tuple[int, ...]) -> None:
    values = numbers(16)
    wanted = np.concatenate([(values & mask) * 255 / mask for mask in masks], -1)
    rows = packed(values, 16, "<")
    assert_close(bmp_of(rows, 16, compression=3, masks=masks), wanted, 1)
    assert_close(bmp_of(rows, 16, compression=3, masks=(*masks, 0), header=108, from_top=True), wanted, 1)
    if masks[0] == 0x7C00:
        assert_close(bmp_of(rows, 16), wanted, 1)


def test_run_length_coded_bmp() -> None:
    index, palette = rng.integers(0, 4, (HEIGHT, WIDTH)), rng.integers(0, 256, (16, 3))
    wide = np.concatenate([palette, np.zeros((240, 3), np.int64)])
    runs = (
        b"".join(b"".join(bytes([1, value]) for value in row) + b"\0\0" for row in index[::-1].tolist())
        + b"\0\1"
    )
    assert_close(bmp_of(runs, 8, compression=1, palette=wide), wide[index])
    literal = b"".join(bytes([0, WIDTH, *row, 0]) + b"\0\0" for row in index[::-1].tolist()) + b"\0\1"
    assert_close(bmp_of(literal, 8, compression=1, palette=wide), wide[index])
    halves = (
        b"".join(b"".join(bytes([1, value << 4]) for value in row) + b"\0\0" for row in index[::-1].tolist())
        + b"\0\1"
    )
    assert_close(bmp_of(halves, 4, compression=2, palette=palette), palette[index])


def test_other_layouts_of_a_bmp_are_unsupported() -> None:
    rows = packed(numbers(32), 32, "<")
    assert (
        code_of(bmp_of(rows, 32, compression=3, masks=(0x3FF00000, 0xFFC00, 0x3FF, 0), header=108))
        == "UNSUPPORTED"
    )
    assert code_of(bmp_of(rows, 2)) == "UNSUPPORTED"
    assert code_of(bmp_of(encode(noise(8, 8)), 0, compression=5)) == "UNSUPPORTED"


# JPEG and WebP, against what they were made from

RGB = smooth(64, 64)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2},
        {"keep_rgb": True},
    ],
    ids=str,
)
def test_jpeg_in_grey_ycbcr_and_rgb(options: dict[str, Any]) -> None:
    assert np.abs(pixels_of(encode(RGB, "JPEG", quality=98, **options)).astype(int) - RGB).mean() < 2
    if "keep_rgb" not in options:
        grey = pixels_of(encode(RGB[..., 0], "JPEG", quality=98)).astype(int)
        assert np.abs(grey - RGB[..., :1]).mean() < 1


def adobe_transform(data: bytes, value: int) -> bytes:
    """A JPEG of four inks whose Adobe segment says how they are coded: 0 as they are, 2 as luma and chroma,
    with black."""
    at = data.index(b"\xff\xee")
    return data[: at + 15] + bytes([value]) + data[at + 16 :]


def test_cmyk_and_ycck_jpeg_are_inverted_as_adobe_writes_them() -> None:
    inks = np.dstack([RGB, flat((40,), 64, 64)])  # cyan, magenta, yellow, black
    wanted = (255.0 - RGB) * (255 - 40) / 255
    plain = encode(Image.fromarray(inks, "CMYK"), "JPEG", quality=98)  # written inverted, as Adobe does
    assert np.abs(pixels_of(adobe_transform(plain, 0)) - wanted).mean() < 2
    luma = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
    coded = encode(
        Image.fromarray(255 - np.dstack([luma, flat((255 - 40,), 64, 64)]), "CMYK"), "JPEG", quality=98
    )
    assert np.abs(pixels_of(adobe_transform(coded, 2)) - wanted).mean() < 3


def test_webp_lossy_lossless_and_with_alpha() -> None:
    assert np.abs(pixels_of(encode(RGB, "WEBP", quality=98)).astype(int) - RGB).mean() < 2
    assert np.array_equal(pixels_of(encode(noise(20, 30), "WEBP", lossless=True)), noise(20, 30))
    rgba = np.dstack([RGB, np.arange(64 * 64).reshape(64, 64) % 256]).astype(np.uint8)
    wanted = over_white(rgba[..., :3], rgba[..., 3:] / 255)
    assert np.abs(pixels_of(encode(rgba, "WEBP", lossless=True, exact=True)) - wanted).max() <= 0.51
    assert np.abs(pixels_of(encode(rgba, "WEBP", quality=98)) - wanted).mean() < 2


def test_avif_with_alpha_and_of_ten_bits() -> None:
    rgba = np.dstack([RGB, flat((128,), 64, 64)])
    found = pixels_of(encode(rgba, "AVIF", quality=98, subsampling="4:4:4"))
    assert np.abs(found - over_white(RGB, np.float64(128 / 255))).mean() < 2
