"""Pictures with whole pixels and something else broken give exactly the pixels of the sound file; broken
pixels never do."""

from __future__ import annotations

import re
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pix2score.errors import ImageFailure
from pix2score.images.decode import open_upright, to_rgb
from pix2score.images.formats.plain_jpeg import as_plain_jpeg
from tests.support.pictures import (
    EIGHT,
    Pixels,
    chunk,
    code_of,
    encode,
    exif,
    flat,
    noise,
    pixels_of,
    png,
    smooth,
)

pytestmark = pytest.mark.filterwarnings("ignore")


def same(data: bytes, sound: bytes) -> bool:
    return np.array_equal(pixels_of(data), pixels_of(sound))


PNG = encode(noise(40, 50))
HEAD, TAIL = 33, PNG.index(b"IEND") - 4
BIG = zlib.compress(bytes(1_200_000))
BROKEN_CHUNKS = {
    "text of over 1 MiB": chunk(b"zTXt", b"prompt\0\0" + BIG),
    "XMP of over 1 MiB": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BIG),
    "profile of over 1 MiB": chunk(b"iCCP", b"p\0\0" + BIG),
    "empty profile": chunk(b"iCCP", b""),
    "method of a profile": chunk(b"iCCP", b"p\0\7abc"),
    "checksum of a text": chunk(b"tEXt", b"k\0text", checksum=1),
    "checksum of an EXIF block": chunk(b"eXIf", b"MM\0*", checksum=1),
    "method of a text": chunk(b"zTXt", b"k\0\7text"),
    "key of a text": chunk(b"tEXt", b"\xff\xfe"),
    "short pHYs": chunk(b"pHYs", b"ab"),
    "empty sRGB": chunk(b"sRGB", b""),
    "short gAMA": chunk(b"gAMA", b"\1"),
    "short cHRM": chunk(b"cHRM", b"abcd"),
    "short acTL": chunk(b"acTL", b"\0\0"),
    "short fcTL": chunk(b"fcTL", b"\0\0"),
    "animation frame smaller than the picture": chunk(
        b"fcTL", struct.pack(">IIIIIHHBB", 0, 3, 3, 0, 0, 1, 1, 0, 0)
    ),
    "animation frame out of order": chunk(b"acTL", struct.pack(">II", 3, 0))
    + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 7, 50, 40, 0, 0, 1, 1, 0, 0)),
    "short fdAT": chunk(b"fdAT", b"a"),
    "name with a control character": chunk(b"s\x01IT", b"abc"),
    "name with no letter": chunk(b"\x7f\x7f\x7f\x7f", b"abc"),
    "length too great": chunk(b"tEXt", b"k\0text", length=9),
    "length over other chunks": chunk(b"tEXt", b"k\0text", length=300),
    "length too small": chunk(b"tEXt", b"k\0text and more", length=4),
    "length of 2 GiB": chunk(b"tEXt", b"k\0text", length=0x7FFFFFFF),
    "transparency with a wrong checksum": chunk(b"tRNS", bytes(6), checksum=1),
    "transparency too short": chunk(b"tRNS", b"\0\1"),
}


@pytest.mark.parametrize("what", BROKEN_CHUNKS)
def test_a_broken_ancillary_chunk_of_a_png_changes_no_pixel(what: str) -> None:
    broken = BROKEN_CHUNKS[what]
    assert same(PNG[:HEAD] + broken + PNG[HEAD:], PNG)
    assert same(PNG[:TAIL] + broken + PNG[TAIL:], PNG)


def test_a_broken_chunk_between_the_pixels_of_a_png_changes_none() -> None:
    at = PNG.index(b"IDAT") - 4
    content = PNG[at + 8 : TAIL - 4]
    halves = (
        chunk(b"IDAT", content[:1000]) + chunk(b"tEXt", b"a", checksum=1) + chunk(b"IDAT", content[1000:])
    )
    assert same(PNG[:at] + halves + PNG[TAIL:], PNG)


def test_a_png_that_ends_within_a_text_behind_its_pixels_is_whole() -> None:
    assert same(PNG[:TAIL] + chunk(b"tEXt", bytes(300))[:100], PNG)


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        BROKEN_CHUNKS["checksum of a text"],
        BROKEN_CHUNKS["short pHYs"],
        BROKEN_CHUNKS["text of over 1 MiB"],
    ],
)
def test_a_png_with_missing_pixels_is_truncated_whatever_else_is_broken(broken: bytes) -> None:
    whole = PNG[:HEAD] + broken + PNG[HEAD:]
    assert code_of(whole[: len(whole) - 2000]) == "TRUNCATED"


@pytest.mark.parametrize(
    "broken", [b"", BROKEN_CHUNKS["checksum of a text"], BROKEN_CHUNKS["length over other chunks"]]
)
@pytest.mark.parametrize("damage", ["name", "case of the name", "pixels", "header"])
def test_broken_critical_chunks_of_a_png_give_no_pixels(damage: str, broken: bytes) -> None:
    data = bytearray(PNG[:HEAD] + broken + PNG[HEAD:])
    at = data.index(b"IDAT")
    position, bit = {
        "name": (at + 1, 1),
        "case of the name": (at, 0x20),
        "pixels": (at + 500, 1),
        "header": (17, 1),
    }[damage]
    data[position] ^= bit
    assert code_of(bytes(data)) in ("CORRUPT", "TRUNCATED")


def test_a_lost_piece_of_uncompressed_pixels_gives_no_pixels() -> None:
    """Stored as they are, with rows to spare, the pixels behind the gap would move up unnoticed."""
    rows = noise(80, 50)
    stored = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows), level=0)
    parts = [chunk(b"IDAT", stored[:158]), chunk(b"IDAT", stored[158:309]), chunk(b"IDAT", stored[309:])]
    assert np.array_equal(pixels_of(png(50, 40)[:HEAD] + b"".join(parts) + PNG[TAIL:]), rows[:40])
    parts[1] = parts[1].replace(b"IDAT", b"iDAT")
    assert code_of(png(50, 40)[:HEAD] + b"".join(parts) + PNG[TAIL:]) in ("CORRUPT", "TRUNCATED")


def test_an_indexed_png_without_a_sound_palette_is_corrupt() -> None:
    data = encode(Image.fromarray(noise(8, 8)).quantize(8))
    at = data.index(b"PLTE")
    assert code_of(data[: at + 6] + bytes([data[at + 6] ^ 1]) + data[at + 7 :]) == "CORRUPT"
    for without in (data.replace(b"PLTE", b"pLTE"), data[: at - 4] + data[at + 32 :]):
        with pytest.raises(ImageFailure, match="CORRUPT: PNG: indexed colours without a palette"):
            open_upright(without)


def test_an_orientation_outlives_another_broken_chunk() -> None:
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'
    for turned in (encode(noise(8, 9), exif=exif(6)), PNG[:HEAD] + chunk(b"iTXt", xmp) + PNG[HEAD:]):
        assert pixels_of(turned).shape[0] > pixels_of(turned).shape[1]
        assert same(turned[:HEAD] + BROKEN_CHUNKS["short pHYs"] + turned[HEAD:], turned)


def test_the_first_frame_of_an_animated_png_outlives_a_broken_control_chunk() -> None:
    data = bytearray(
        encode(Image.fromarray(noise(40, 50)), save_all=True, append_images=[Image.new("RGB", (50, 40))])
    )
    data[data.index(b"fcTL") + 6] ^= 1
    assert same(bytes(data), PNG)


def test_transparency_behind_the_pixels_or_of_another_colour_type_is_none() -> None:
    key = chunk(b"tRNS", noise(40, 50)[0, 0].astype(">u2").tobytes())
    assert not same(PNG[:HEAD] + key + PNG[HEAD:], PNG)
    assert same(PNG[:TAIL] + key + PNG[TAIL:], PNG)
    for pixels in (noise(8, 8, 4), noise(8, 8, 2)):
        data = encode(pixels)
        assert same(data[:HEAD] + key + data[HEAD:], data)


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


JPEG = encode(smooth(120, 160), "JPEG", quality=90)
BROKEN_SEGMENTS = {
    "short Adobe": segment(0xEE, b"Adobe"),
    "Adobe without its transform": segment(0xEE, b"Adobe\0d\0\0\0\0"),
    "short JFIF": segment(0xE0, b"JFIF\0"),
    "short profile": segment(0xE2, b"ICC_PROFILE\0"),
    "profile without a count": segment(0xE2, b"ICC_PROFILE\0\1"),
    "short list of pictures": segment(0xE2, b"MPF\0"),
    "short EXIF": segment(0xE1, b"Exif\0\0"),
    "short XMP": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
    "short Photoshop resource": segment(0xED, b"Photoshop 3.0\x008BIM\4\4"),
    "Photoshop resolution too short": segment(0xED, b"Photoshop 3.0\x008BIM\3\xed\0\0\0\0\0\2ab"),
    "length of nothing": b"\xff\xe4\0\0",
    "comment of nothing": b"\xff\xfe\0\0",
}


@pytest.mark.parametrize("what", BROKEN_SEGMENTS)
def test_a_broken_application_segment_of_a_jpeg_changes_no_pixel(what: str) -> None:
    for at in (2, 20):
        broken = JPEG[:at] + BROKEN_SEGMENTS[what] + JPEG[at:]
        assert same(broken, JPEG)
        assert same(broken[:-2], JPEG)


def test_a_jpeg_keeps_colours_and_orientation_when_a_broken_segment_is_left_out() -> None:
    turned = encode(smooth(120, 160), "JPEG", quality=90, exif=exif(6))
    assert same(turned[:2] + BROKEN_SEGMENTS["short Adobe"] + turned[2:], turned)
    rgb = encode(smooth(120, 160), "JPEG", quality=90, keep_rgb=True)
    assert same(rgb[:2] + BROKEN_SEGMENTS["short Adobe"] + rgb[2:], rgb)


KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 7},
    "a restart per row": {"restart_marker_rows": 1},
    "4:4:4": {"subsampling": 0},
}
PICTURES = {
    "smooth": smooth(96, 128),
    "noise": noise(96, 128),
    "white": flat((255, 255, 255), 96, 128),
    "grey": smooth(96, 128)[..., 0],
}


def jpegs() -> Iterator[tuple[str, bytes]]:
    for kind, options in KINDS.items():
        for name, picture in PICTURES.items():
            yield f"{kind} {name}", encode(picture, "JPEG", quality=90, **options)


@pytest.mark.parametrize(("name", "data"), [*jpegs()], ids=[name for name, _ in jpegs()])
def test_a_jpeg_that_lacks_only_its_end_mark_is_whole_and_one_that_lacks_pixels_is_truncated(
    name: str, data: bytes
) -> None:
    wanted = pixels_of(data)
    for ending in (b"", b"\xff", bytes(50)):
        assert np.array_equal(pixels_of(data[:-2] + ending), wanted)
    between = [
        match.start() for match in re.finditer(rb"\xff[\xc4\xd0-\xd7\xda]", data) if match.start() > 700
    ]
    for cut in [*(len(data) - n for n in (4, 5, 9, 33, 200)), *between]:
        if cut > 650:  # behind the header
            try:
                found = pixels_of(data[:cut])
            except ImageFailure as failure:
                assert failure.code == "TRUNCATED"
            else:
                assert np.array_equal(found, wanted), f"pixels made up for {name} cut at {cut}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_cut_in_half_is_truncated(kind: str) -> None:
    data = encode(noise(96, 128), "JPEG", quality=90, **KINDS[kind])
    assert code_of(data[: len(data) // 2]) == "TRUNCATED"
    assert code_of(data[: len(data) // 2] + bytes(9)) == "TRUNCATED"


WEBP_CANVAS = b"\0\0\0" + struct.pack("<I", 49)[:3] + struct.pack("<I", 39)[:3]
WEBPS: dict[str, dict[str, Any]] = {
    "lossy": {},
    "lossless": {"lossless": True},
    "animated": {"save_all": True, "append_images": [Image.new("RGB", (50, 40))]},
}


def riff(*parts: tuple[bytes, bytes, int | None]) -> bytes:
    """A WebP of chunks: name, content, a length if it shall lie."""
    chunks = [
        name
        + struct.pack("<I", len(content) if length is None else length)
        + content
        + b"\0" * (len(content) & 1)
        for name, content, length in parts
    ]
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def parts_of(webp: bytes) -> list[tuple[bytes, bytes, int | None]]:
    at, found = 12, []
    while at < len(webp):
        name, size = struct.unpack_from("<4sI", webp, at)
        found.append((name, webp[at + 8 : at + 8 + size], None))
        at += 8 + size + (size & 1)
    return found


@pytest.mark.parametrize("kind", WEBPS)
def test_broken_metadata_of_a_webp_change_no_pixel(kind: str) -> None:
    sound = encode(Image.fromarray(noise(40, 50)), "WEBP", **WEBPS[kind])
    (_, canvas, _), *image = (
        parts_of(sound) if kind == "animated" else [(b"VP8X", b"\0" + WEBP_CANVAS, None), *parts_of(sound)]
    )
    head = (b"VP8X", bytes([canvas[0] | 0x2C]) + canvas[1:], None)
    for content, length in (
        (b"", None),
        (b"abc", None),
        (b"abcd", 99),
        (b"abcdef", 1),
        (b"abcd", 0xFFFFFFF0),
    ):
        assert same(riff(head, (b"ICCP", content, length), *image), sound), length
        for name in (b"EXIF", b"XMP "):
            assert same(riff(head, *image, (name, content, length)), sound), (name, length)
    assert same(riff(head, *image, (b"EXIF", bytes(500), None))[:-300], sound)


def test_an_animated_webp_cut_behind_its_first_frame_gives_that() -> None:
    data = encode(
        Image.fromarray(noise(40, 50)),
        "WEBP",
        save_all=True,
        lossless=True,
        append_images=[Image.fromarray(noise(40, 50, seed=3))],
    )
    assert np.array_equal(pixels_of(data[: len(data) * 3 // 4]), noise(40, 50))
    assert code_of(data[: len(data) // 3]) == "TRUNCATED"


def extension(label: int, *blocks: bytes) -> bytes:
    return b"!" + bytes([label]) + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


@pytest.mark.parametrize(
    "broken",
    [
        extension(0xF9),
        extension(0xF9, b"\0"),
        extension(0xF9, b"\1\1\1"),
        extension(0xFF, b"NETSCAPE2.0", b"\1"),
        extension(0xFE, b"\xff"),
    ],
    ids=["empty control", "short control", "control without its colour", "short loop", "comment"],
)
def test_a_broken_extension_of_a_gif_changes_no_pixel(broken: bytes) -> None:
    sound = encode(Image.fromarray(noise(40, 50)).quantize(16), "GIF")
    at = 13 + (3 << (sound[10] & 7) + 1)
    assert same(sound[:at] + broken + sound[at:], sound)
    assert same(sound[:-1] + broken + sound[-1:], sound)


def test_a_gif_keeps_its_transparent_colour_when_a_broken_extension_is_left_out() -> None:
    sound = encode(Image.fromarray(noise(8, 8)).quantize(4), "GIF", transparency=1)
    at = 13 + (3 << (sound[10] & 7) + 1)
    assert same(sound[:at] + extension(0xF9) + sound[at:], sound)


def test_a_bmp_of_too_many_colours_is_shown_and_one_whose_pixels_begin_in_its_header_is_not() -> None:
    sound = encode(noise(8, 8, 1), "BMP")
    assert same(sound[:46] + struct.pack("<I", 3000) + sound[50:], sound)
    assert code_of(sound[:10] + struct.pack("<I", 1) + sound[14:]) == "CORRUPT"


def test_a_broken_exif_block_of_an_avif_changes_no_pixel() -> None:
    block = exif(6)
    block[0x010E] = "a description"
    sound = encode(smooth(40, 50), "AVIF", exif=block)
    assert pixels_of(sound).shape == (50, 40, 3)
    assert same(sound.replace(b"MM\0*", b"zzzz"), sound)


def test_a_cut_avif_is_truncated() -> None:
    data = encode(noise(40, 50), "AVIF", quality=90)
    for size in (20, 400, len(data) // 2, len(data) - 1):
        assert code_of(data[:size]) == "TRUNCATED", size


def test_odd_jpegs_are_unsupported_for_their_reason() -> None:
    frame = JPEG.index(b"\xff\xc0")

    def detail(position: int, value: int) -> str:
        with pytest.raises(ImageFailure) as caught:
            to_rgb(JPEG[: frame + position] + bytes([value]) + JPEG[frame + position + 1 :], EIGHT)
        assert caught.value.code == "UNSUPPORTED"
        return caught.value.detail

    assert detail(4, 12).startswith("a 12-bit JPEG")
    assert detail(1, 0xC3).startswith("a lossless JPEG")
    assert detail(1, 0xC9).startswith("an arithmetic-coded JPEG")
    assert detail(1, 0xC5).startswith("a hierarchical JPEG")
    assert detail(9, 2).startswith("a JPEG of 2 components")


@pytest.mark.parametrize(
    "before", [b"\n", b"\xef\xbb\xbf", b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n"]
)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF"])
def test_bytes_before_a_picture_are_counted(form: str, before: bytes) -> None:
    with pytest.raises(ImageFailure, match=f"CORRUPT: a {form} with {len(before)} bytes? before its start"):
        to_rgb(before + encode(noise(8, 8), form), EIGHT)


def lossless_jpeg(grey: Pixels) -> bytes:
    """Differences to the left neighbour (above at a row's start), each as the number of its bits in four and
    then those."""
    values = grey.astype(int)
    guess = np.roll(values, 1, axis=1)
    guess[1:, 0], guess[0, 0] = values[:-1, 0], 128
    bits = ""
    for difference in (values - guess).ravel().tolist():
        size = abs(difference).bit_length()
        bits += f"{size:04b}" + (
            f"{difference if difference > 0 else difference + 2**size - 1:0{size}b}" if size else ""
        )
    bits += "1" * (-len(bits) % 8)
    pixels = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    codes = segment(0xC4, b"\0" + bytes([0, 0, 0, 12]) + bytes(12) + bytes(range(12)))
    frame = segment(0xC3, struct.pack(">BHHBBBB", 8, *grey.shape, 1, 1, 0x11, 0))
    return b"\xff\xd8" + frame + codes + segment(0xDA, bytes([1, 1, 0, 1, 0, 0])) + pixels + b"\xff\xd9"


def test_a_lossless_jpeg_is_decoded_at_its_full_size() -> None:
    grey = smooth(64, 64)[..., 0]
    data = lossless_jpeg(grey)
    assert np.array_equal(pixels_of(data), grey[..., None].repeat(3, -1))
    assert np.array_equal(to_rgb(data, EIGHT), to_rgb(encode(grey), EIGHT))
    assert np.array_equal(pixels_of(data[:-2]), pixels_of(data))


def test_no_arithmetic_coded_jpeg_goes_to_the_decoder_of_a_gpu() -> None:
    assert as_plain_jpeg(JPEG) == JPEG
    assert as_plain_jpeg(JPEG.replace(b"\xff\xc0\0", b"\xff\xc9\0", 1)) is None


def test_many_texts_that_unpack_to_much_cost_little() -> None:
    text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(2**20 - 1)))
    start = time.process_time()
    assert same(PNG[:HEAD] + text * 2000 + PNG[HEAD:], PNG)
    assert time.process_time() - start < 1
