"""Pictures whose pixels are whole though something about them is broken: the same pixels without the broken
rest.

Used only after a decoder refused the bytes as they are; what comes back is decoded in their place, and
refused for good if that fails.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from pix2score.errors import ImageFailure
from pix2score.images.formats import jpeg, jxl
from pix2score.images.formats.signatures import is_avif, is_heif, is_webp

_WEBP_IMAGE = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_WEBP_NEXT = re.compile(
    rb"VP8 ....(?:...)\x9d\x01\x2a|VP8L....\x2f|ALPH....|ANIM\x06\0\0\0|ANMF....", re.DOTALL
)
_WEBP_EXTRAS = 0x20 | 0x08 | 0x04  # flags of VP8X: ICC, EXIF, XMP
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_DESCRIBING = re.compile(rb"(infe[\x02\x03].{7})(?:Exif|mime)", re.DOTALL)
"""Items of EXIF and XMP in an AVIF or HEIC, by the boxes that name them."""


def without_extras(data: bytes) -> bytes | None:
    """The picture without what merely describes it, for a decoder that cannot read its header; None if that
    changes nothing."""
    if data.startswith(jpeg.START):
        bare: bytes | None = jpeg.bare(data)
    elif is_webp(data):
        bare = _bare_webp(data)
    elif data.startswith(jxl.BOXED):
        bare = jxl.bare(data)
    else:
        bare = _DESCRIBING.sub(rb"\1skip", data) if is_avif(data) or is_heif(data) else None
    return None if bare == data else bare


def completed(data: bytes) -> bytes | None:
    """The picture with what its decoder missed among the pixels, if it is known: an end mark, a count of
    colours; None if not."""
    if data.startswith(jpeg.START):
        return jpeg.ended(data)
    return _with_fitting_colours(data) if data.startswith(b"BM") else None


def check_bmp(data: bytes) -> None:
    """Raise ``ImageFailure`` CORRUPT for a BMP whose pixels are said to begin within its header: Pillow would
    show the header."""
    start, size = (int.from_bytes(data[at : at + 4], "little") for at in (10, 14))
    if 0 < start < 14 + size and size in _BMP_HEADERS:
        raise ImageFailure("CORRUPT", f"BMP: pixels are said to begin at byte {start}, within its header")


def webp_canvas(data: bytes) -> tuple[int, int]:
    """Width and height that an extended WebP says of itself, in px; zeros of others. An animation's are
    allocated before anything of it is known."""
    if not (is_webp(data) and data[12:16] == b"VP8X" and len(data) >= 30):
        return 0, 0
    width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    return width, height


def _with_fitting_colours(data: bytes) -> bytes | None:
    """A BMP of a palette with a count of colours that its depth allows."""
    depth, count = int.from_bytes(data[28:30], "little"), int.from_bytes(data[46:50], "little")
    if (
        depth not in (1, 4, 8)
        or count <= 2**depth
        or int.from_bytes(data[14:18], "little") not in _BMP_HEADERS[1:]
    ):
        return None
    return data[:46] + struct.pack("<I", 2**depth) + data[50:]


def _bare_webp(data: bytes) -> bytes | None:
    """Image and animation chunks and an EXIF chunk that is all there; None if the file ends within the first
    image."""
    pieces, has_image = [], False
    for name, content, is_whole in _webp_chunks(data):
        if not is_whole and name in _WEBP_IMAGE:
            if not has_image:
                return None
            break  # a later frame of an animation
        has_image = has_image or name in (b"VP8 ", b"VP8L", b"ANMF")
        if name == b"VP8X" and len(content) == 10:
            pieces.append((name, bytes([content[0] & ~_WEBP_EXTRAS]) + content[1:]))
        elif name in _WEBP_IMAGE or (name == b"EXIF" and is_whole):
            pieces.append((name, content))
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(part)) + part + b"\0" * (len(part) & 1) for name, part in pieces
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Name, content, whether it is all there; behind a chunk whose length leads nowhere, on from the next
    image chunk."""
    at = 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        following = at + 8 + size + (size & 1)
        is_known = name in _WEBP_IMAGE or name == b"VP8X"
        if not is_known and not re.fullmatch(rb"[A-Z0-9 ]{4}", data[following : following + 4]):
            found = _WEBP_NEXT.search(data, at + 8)
            following = found.start() if found else following
        yield name, data[at + 8 : at + 8 + size], at + 8 + size <= len(data)
        at = following


def sound_gif(data: bytes) -> bytes:
    """The GIF with at most a sound control block before its first image, if an extension there is broken:
    Pillow would lose its way."""
    at = 13 + (3 << (data[10] & 7) + 1 if len(data) > 10 and data[10] & 0x80 else 0)
    pieces, is_sound = [data[:at]], True
    while data[at : at + 1] == b"!" and at + 2 < len(data):
        end = at + 2
        while end < len(data) and data[end]:
            end += data[end] + 1
        is_control, first = data[at + 1] == 0xF9, data[at + 2]
        if is_control and first >= 4:
            pieces.append(b"!\xf9\4" + data[at + 3 : at + 7] + b"\0")
        is_sound = is_sound and first > 0 and (not is_control or first == 4)
        at = end + 1
    return data if is_sound else b"".join([*pieces, data[at:]])
